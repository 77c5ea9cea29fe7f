"""`python -m bench [CONCEPT …]`: every op against the torch expression that it replaces, interleaved in one run."""

import argparse
import importlib

import torch

from bench._cuda import Cuda
from bench._harness import Cpu, Device, show

CONCEPTS = ("bitpack", "sign_ste", "binary_conv2d", "binary_linear", "gated_add", "int8_conv2d",
            "multires_pool2d", "training")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("concept", nargs="*", help=f"any of {', '.join(CONCEPTS)}; all of them if left out")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(cpu)")
    parser.add_argument("--warm", action="store_true", help="cuda: leave operands in the L2 cache between calls")
    parser.add_argument("--threads", type=int, default=1, help="intra-op threads (1)")
    parser.add_argument("--save", metavar="NAME", help="append the rows to bench/results/NAME.jsonl")
    peers = parser.add_argument_group("peers")
    peers.add_argument("--peers", action="store_true", help="binary_conv2d against other libraries (make peers)")
    peers.add_argument("--batch", type=int, nargs="+", help="of the layers (1 16 64)")
    peers.add_argument("--layer", nargs="+", help="those of python_tests/shapes.py whose name begins so")
    peers.add_argument("--quick", action="store_true", help="fewer layers, batch 1")
    peers.add_argument("--rounds", type=int, default=31, help="in which all are timed in turn (31)")
    peers.add_argument("--patience", type=float, default=0, help="seconds that a layer may wait for calm rounds (0)")
    peers.add_argument("--scalar", action="store_true", help="the scalar kernels too: slow")
    args = parser.parse_args()
    unknown = sorted(set(args.concept) - set(CONCEPTS))
    if unknown:
        parser.error(f"unknown concept {unknown}, expected any of {', '.join(CONCEPTS)}")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.peers:
        if args.concept != ["binary_conv2d"] or args.device != "cpu":
            parser.error("--peers is for binary_conv2d on the CPU")
        return importlib.import_module("bench.peers").run(args)
    device: Device = Cuda(flush=not args.warm) if args.device == "cuda" else Cpu()
    names = args.concept or CONCEPTS
    modules = (importlib.import_module(f"bench.{name}") for name in names)
    show((case for module in modules for case in module.cases(args.device)), device, args.save)
    if "training" in names and args.device == "cpu":
        importlib.import_module("bench.training").show_saved_bytes(args.save)


if __name__ == "__main__":
    main()
