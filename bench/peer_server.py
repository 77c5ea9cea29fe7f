"""What a peer answers from its own environment, line by line; the standard library only.

On the start its version. To "load LAYER", a convolution as JSON: "ok". To "run N": seconds a convolution, the mean of N
calls. Where something fails: "error WHY".
"""

import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

LAYERS = 4  # of one call: convolutions with what stands between them, in a row where the sizes allow it
Build = Callable[[SimpleNamespace, int], Callable[[], object]]


def mean_seconds(call: Callable[[], object], repeats: int, threads: int) -> float:
    """Of one call; where there are several, as many before aren't counted: caches and the matrix unit need some time.

    Of one thread it is processor time: free of the time slices of other processes.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    for _ in range(repeats if repeats > 1 else 0):
        call()
    start = clock()
    for _ in range(repeats):
        call()
    return (clock() - start) / repeats


def serve(package: str, build: Build) -> None:
    """Answer until stdin ends. build(layer, threads) returns the call that runs LAYERS of the layer."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    print(version(package), file=answers)
    threads, call = int(sys.argv[1]), None
    for line in sys.stdin:
        verb, _, rest = line.partition(" ")
        try:
            if verb == "load":
                call = build(SimpleNamespace(**json.loads(rest)), threads)
                answer = "ok"
            else:
                answer = str(mean_seconds(call, int(rest), threads) / LAYERS)
        except Exception as error:
            answer = "error " + " ".join(str(error).split())[:200]
        print(answer, file=answers)


def four(layer: SimpleNamespace, x: Any, block: Callable[[Any], Any]) -> list:
    """Outputs of LAYERS blocks on x: in a row where the output of the layer can be its input, else side by side."""
    if layer.c != layer.k or layer.stride != [1, 1] or 2 * layer.padding[0] != layer.r - 1:
        return [block(x) for _ in range(LAYERS)]
    for _ in range(LAYERS):
        x = block(x)
    return [x]
