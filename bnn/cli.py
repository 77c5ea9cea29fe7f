"""The `bnn` command: a table of verbs, each imported when called. Exit code 0; 2 for wrong use; 1 for a failure."""

import sys
import traceback
from importlib import import_module
from pathlib import Path

VERBS = {
    "demo": "the whole story on glyphs, in minutes: train, calibrate, pack, predict",
    "train": "train RECIPE [flags]: plain, candle, vtst, ke, granularity, retrain, p2p; train chain FILE: several",
    "sweep": "sweep RECIPE [flags]: train over seeds and fields, several values a flag; mean ± std",
    "eval": "eval RUN|FILE [--data ...]: figures of a run or a packed file",
    "pack": "pack RUN -o FILE: a run as one packed file",
    "predict": "predict FILE IMAGE...: classes of pictures",
    "curate": "curate RUN|FILE --out DIR ...: auxiliary classes for granularity, names and pictures",
    "info": "info [--model NAME|FILE]: versions, kernels; layers of a network",
    "report": "report RUN... -o FILE.html: runs side by side on one page that opens offline",
    "bench": "bench [MODEL|FILE|RUN]: a packed network beside its twin in torch and OpenVINO: time, memory, size",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(usage(), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] == "--version":
        from bnn import __version__

        print(f"bnn {__version__}")
        return 0
    return _guarded(argv)


def usage() -> str:
    """What `bnn --help` prints."""
    lines = [f"  {verb:<9}{text}" for verb, text in VERBS.items()]
    return "\n".join(
        ["usage: bnn VERB ...   (bnn VERB --help lists its flags; --json prints tables as JSON)", "", *lines]
    )


def _guarded(argv: list[str]) -> int:
    try:
        if argv[0] not in VERBS:
            raise ValueError(f"unknown verb {argv[0]!r}, expected one of {', '.join(VERBS)}")
        return import_module(f"bnn.commands.{argv[0]}").main(argv[1:])
    except (ValueError, FileNotFoundError) as problem:
        if not _raised_on_purpose(problem):
            traceback.print_exc()
            return 1
        return _fail(str(problem), 2)
    except ImportError as problem:
        package = (problem.name or "").split(".")[0]
        if package in ("", "bnn"):
            traceback.print_exc()
            return 1
        told = "bnn-torch[" in str(problem)  # the package's own message names the extra already
        return _fail(str(problem) if told else f"this command needs {package}: pip install 'bnn-torch[run]'", 1)
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "interrupted", 1)
    except FloatingPointError as problem:
        return _fail(str(problem), 1)
    except BrokenPipeError:  # the reader of a pipe has left: bnn ... | head
        sys.stderr.close()
        return 1
    except Exception:
        traceback.print_exc()
        return 1


def _fail(message: str, code: int) -> int:
    print("bnn: " + " ".join(message.split()), file=sys.stderr)
    return code


def _raised_on_purpose(problem: BaseException) -> bool:
    """Whether the error was raised by a line of this package: a message to the user, not a defect deep in a library."""
    innermost = traceback.extract_tb(problem.__traceback__)[-1]
    return Path(__file__).parent in Path(innermost.filename).parents
