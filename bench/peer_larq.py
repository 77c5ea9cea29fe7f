"""Larq Compute Engine's binary convolution, answering bench/_peers.py: `python -m bench.peer_larq THREADS`.

Padding with 1 is what lets the engine write bits between the layers: with 0 it writes floats.
"""

import os
from collections.abc import Callable
from types import SimpleNamespace

from bench.peer_server import four, serve

os.environ |= {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
MOST_MACS = 500_000_000  # a fifth of a second a call


def build(layer: SimpleNamespace, threads: int) -> Callable[[], object]:
    if layer.groups > 1:
        raise ValueError("no binary convolution with groups")
    if layer.macs > MOST_MACS:
        raise ValueError("would take too long")
    import larq
    import larq_compute_engine as lce
    import numpy as np
    from tensorflow import keras

    binary = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign", "pad_values": 1.0, "use_bias": False}
    padding = "same" if layer.padding[0] else "valid"

    def block(y):
        y = larq.layers.QuantConv2D(layer.k, (layer.r, layer.s), layer.stride, padding, **binary)(y)
        return keras.layers.BatchNormalization()(y)

    x = keras.layers.Input((layer.h, layer.w, layer.c), batch_size=layer.n)
    model = lce.convert_keras_model(keras.Model(x, four(layer, x, block)))
    engine = lce.testing.Interpreter(model, num_threads=threads).interpreter  # the outer one feeds image by image
    image = np.random.default_rng(0).standard_normal((layer.n, layer.h, layer.w, layer.c), dtype=np.float32)
    return lambda: engine.predict([image])


if __name__ == "__main__":
    serve("larq-compute-engine", build)
