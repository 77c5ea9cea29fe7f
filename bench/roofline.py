"""`python -m bench.roofline`: least time of the binary convolutions of ResNet-18 on a chip. Computed, not measured."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace

from bench.chips import CHIPS, Chip
from python_tests.shapes import CONVS, Conv

OUTPUTS = {"int32": 32, "words": 1}  # bits an output element; words fill up to 64 channels


@dataclass(frozen=True)
class Expected:
    """bytes: each operand once. mma: instructions of a warp, tiles filled up. Times: microseconds at the peaks."""

    bytes: int
    mma: int
    memory_us: float
    mma_us: tuple[float, float]  # at the highest and at the lowest rate that is to be expected

    @property
    def us(self) -> tuple[float, float]:
        """(shortest, longest): memory and tensor cores overlap fully."""
        return max(self.memory_us, self.mma_us[0]), max(self.memory_us, self.mma_us[1])


def words(channels: int) -> int:
    return -(-channels // 64)


def least_bytes(layer: Conv, output: str = "int32") -> int:
    """Image and filters as words read once, the output written once."""
    oh, ow = layer.output
    image = layer.n * layer.h * layer.w * words(layer.c) * 8
    filters = layer.k * layer.r * layer.s * words(layer.c // layer.groups) * 8
    pixel = words(layer.k) * 8 if output == "words" else layer.k * OUTPUTS[output] // 8
    return image + filters + layer.n * oh * ow * pixel


def mma_shape(chip: Chip) -> tuple[int, int, int]:
    """(pixels, filters, channels x taps) of one MMA: b1 where the tensor cores have it, else s8."""
    if not chip.has_bit_mma:
        return 16, 8, 32
    return (8, 8, 128) if chip.capability < 80 else (16, 8, 256)


def mma_count(layer: Conv, shape: tuple[int, int, int]) -> int:
    """MMA that a convolution can't do without: taps side by side word by word, every dimension filled up to the tile.

    Block tiles add to it where they reach beyond the output. 0 for a depthwise convolution: integer units do it.
    """
    if layer.groups == layer.c:
        return 0
    oh, ow = layer.output
    bits = layer.r * layer.s * words(layer.c // layer.groups) * 64
    pixels, filters, steps = (
        -(-size // tile) for size, tile in zip((layer.n * oh * ow, layer.k // layer.groups, bits), shape, strict=True)
    )
    return pixels * filters * steps * layer.groups


def expected(layer: Conv, chip: Chip, output: str = "int32") -> Expected:
    """Bytes, MMA and the least time of one binary convolution."""
    shape = mma_shape(chip)
    moved, mma = least_bytes(layer, output), mma_count(layer, shape)
    operations = 2 * mma * shape[0] * shape[1] * shape[2]
    least, most = chip.mma_rates
    return Expected(moved, mma, moved / chip.bandwidth / 1e3, (operations / most / 1e6, operations / least / 1e6))


def span(low: float, high: float) -> str:
    return f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f}-{high:.2f}"


def rows(chip: Chip, batch: int) -> Iterator[str]:
    """A line of Markdown a layer."""
    m, n, k = mma_shape(chip)
    for name, layer in CONVS.items():
        if not name.startswith("resnet18/"):
            continue
        layer = replace(layer, n=batch)
        sums, bits = expected(layer, chip), expected(layer, chip, "words")
        cells = (
            name.removeprefix("resnet18/"),
            f"{layer.macs / 1e6:,.0f}",
            f"{sums.mma:,}",
            f"{100 * layer.macs / (sums.mma * m * n * k):.0f} %",
            f"{sums.mma / chip.multiprocessors:,.0f}",
            span(*sums.mma_us),
            f"{sums.bytes / 2**10:,.0f}",
            f"{sums.memory_us:.2f}",
            f"**{span(*sums.us)}**",
            f"{bits.bytes / 2**10:,.0f}",
            f"{bits.memory_us:.2f}",
            f"**{span(*bits.us)}**",
        )
        yield f"| {' | '.join(cells)} |"


def table(name: str, batch: int) -> str:
    """Markdown: the binary layers of ResNet-18 (C x size, /2 where the stride is 2) on the chip `name`."""
    m, n, k = mma_shape(CHIPS[name])
    head = (
        f"| layer, batch {batch} | MMAC | MMA m{m}n{n}k{k} | useful | MMA a multiprocessor | MMA µs "
        "| int32 out: KiB | memory µs | **least µs** | words out: KiB | memory µs | **least µs** |"
    )
    return "\n".join((head, f"|---|{'---:|' * 11}", *rows(CHIPS[name], batch)))


def assumption(name: str) -> str:
    """What the table rests on, in words."""
    chip = CHIPS[name]
    least, most = chip.mma_rates
    if not chip.has_bit_mma:
        rate = f"{most:,.0f} TOPS of int8 MMA (no b1 MMA on this chip: bits become int8 in shared memory)"
    elif chip.b1 is not None:
        rate = f"{most:,.0f} TOPS of b1 MMA (published)"
    else:
        rate = (
            f"b1 MMA between {least:,.0f} TOPS (the int8 rate) and {most:,.0f} TOPS ({most / least:.0f} x int8). "
            "The vendor publishes no b1 rate for this chip: both are assumptions, and the times are spans"
        )
    memory = f"{chip.bandwidth:,.0f} GB/s, {chip.multiprocessors} multiprocessors"
    return (
        f"**Computed, not measured.** {name}: {memory}, {rate}.\nSource: {chip.source}.\n"
        "Every operand is moved once, from and to memory (not L2); memory and MMA overlap fully;\n"
        "launch latency, a few microseconds, is left out and exceeds every time at batch 1."
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.roofline", description=__doc__)
    parser.add_argument("--chip", choices=list(CHIPS), default="H100 SXM", help="(H100 SXM)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64], help="(1 64)")
    args = parser.parse_args()
    print(assumption(args.chip))
    for batch in args.batch:
        print(f"\n{table(args.chip, batch)}")


if __name__ == "__main__":
    main()
