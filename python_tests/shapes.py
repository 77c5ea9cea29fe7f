"""The one shape list: layers of real networks by name (bench, tests), and seeded random cases with the corners (tests).

Plain data, no torch: letters as in docs/bit_layout.md (N batch, C in, K out, H W in, R S filter, M rows).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

Pair = tuple[int, int]


@dataclass(frozen=True)
class Conv:
    """One 2-D convolution."""

    n: int
    c: int
    h: int
    w: int
    k: int
    r: int
    s: int
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    pad_value: int = 0

    @property
    def geometry(self) -> tuple[list[int], list[int], list[int], int, int]:
        """(stride, padding, dilation, groups, pad_value), the order of the ops' arguments."""
        return list(self.stride), list(self.padding), list(self.dilation), self.groups, self.pad_value

    @property
    def output(self) -> Pair:
        """(OH, OW); not positive where the filter reaches beyond the padded image."""
        sizes = zip((self.h, self.w), (self.r, self.s), self.stride, self.padding, self.dilation, strict=True)
        oh, ow = ((i + 2 * p - d * (f - 1) - 1) // t + 1 for i, f, t, p, d in sizes)
        return oh, ow

    @property
    def macs(self) -> int:
        """Multiplications of the whole batch."""
        oh, ow = self.output
        return self.n * self.k * oh * ow * (self.c // self.groups) * self.r * self.s


@dataclass(frozen=True)
class Linear:
    """[M, C] times [K, C] transposed."""

    m: int
    c: int
    k: int


@dataclass(frozen=True)
class Pack:
    """A float tensor to pack: [N, C, H, W], or [N, C] where h is 0."""

    n: int
    c: int
    h: int
    w: int
    dtype: str = "float32"
    layout: str = "channels_last"
    shift: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.n, self.c, self.h, self.w) if self.h else (self.n, self.c)


@dataclass(frozen=True)
class Pool:
    """A multi-resolution pooling."""

    n: int
    c: int
    h: int
    w: int
    sizes: tuple[Pair, ...]
    dtype: str = "float32"
    layout: str = "channels_last"


def _same(c: int, size: int, k: int, r: int = 3, stride: int = 1, groups: int = 1) -> Conv:
    """Square convolution that keeps the size, batch 1."""
    return Conv(1, c, size, size, k, r, r, (stride, stride), (r // 2, r // 2), groups=groups)


# Binary layers by network; batch 1, `replace(layer, n=...)` for another.
CONVS: dict[str, Conv] = {
    "resnet18/64x56": _same(64, 56, 64),
    "resnet18/64-128x56/2": _same(64, 56, 128, stride=2),
    "resnet18/128x28": _same(128, 28, 128),
    "resnet18/128-256x28/2": _same(128, 28, 256, stride=2),
    "resnet18/256x14": _same(256, 14, 256),
    "resnet18/256-512x14/2": _same(256, 14, 512, stride=2),
    "resnet18/512x7": _same(512, 7, 512),
    "mobilenet/1x1/32-64x112": _same(32, 112, 64, 1),
    "mobilenet/1x1/64-128x56": _same(64, 56, 128, 1),
    "mobilenet/1x1/256x28": _same(256, 28, 256, 1),
    "mobilenet/1x1/512x14": _same(512, 14, 512, 1),
    "mobilenet/1x1/1024x7": _same(1024, 7, 1024, 1),
    "mobilenet/depthwise/64x56": _same(64, 56, 64, groups=64),
    "mobilenet/depthwise/256x28": _same(256, 28, 256, groups=256),
    "mobilenet/depthwise/512x14": _same(512, 14, 512, groups=512),
    "digits/32x28": _same(32, 28, 32),
    "digits/64x14": _same(64, 14, 64),
    "glyphs/32x16": _same(32, 16, 32),
    "glyphs/32-64x16/2": _same(32, 16, 64, stride=2),
    "glyphs/64x8": _same(64, 8, 64),
    "glyphs/64-128x8/2": _same(64, 8, 128, stride=2),
    "glyphs/128x4": _same(128, 4, 128),
}
LINEARS: dict[str, Linear] = {
    "512-1000": Linear(1, 512, 1000),
    "1024-1024": Linear(1, 1024, 1024),
    "4096-4096": Linear(1, 4096, 4096),
    "128x768-3072": Linear(128, 768, 3072),
}
PACKS: dict[str, Pack] = {
    "64x56": Pack(1, 64, 56, 56),
    "64x56/nchw": Pack(1, 64, 56, 56, layout="contiguous"),
    "256x14": Pack(1, 256, 14, 14),
    "512x7": Pack(1, 512, 7, 7),
    "32x16/batch64": Pack(64, 32, 16, 16),
}
POOLS: dict[str, Pool] = {
    "256x14": Pool(1, 256, 14, 14, ((1, 1), (2, 2), (7, 7))),
    "64x56": Pool(1, 64, 56, 56, ((1, 1), (4, 4), (14, 14), (28, 28))),
}

CHANNELS = (1, 2, 3, 31, 32, 33, 63, 64, 65, 127, 128, 129)
FILTERS = (1, 2, 3, 5, 8, 9, 16, 17, 31, 33, 64, 65)
DTYPES = ("float32", "bfloat16", "float16")
LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed", "expanded")

_BASE = Conv(2, 64, 6, 5, 9, 3, 3, padding=(1, 1))
CORNER_CONVS: tuple[Conv, ...] = (
    *(replace(_BASE, c=c, k=k) for c in CHANNELS for k in (1, 8)),
    *(replace(_BASE, c=65, pad_value=v, padding=(2, 1)) for v in (-1, 0, 1)),
    *(replace(_BASE, n=0, pad_value=v) for v in (-1, 0, 1)),
    *(replace(_BASE, c=c, k=c, groups=c, pad_value=v) for c in (1, 33, 64, 65, 129) for v in (-1, 0, 1)),  # depthwise
    *(replace(_BASE, c=c, k=m * c, groups=c) for c in (3, 63, 65) for m in (2, 3)),  # channel multiplier
    *(replace(_BASE, c=g * cg, k=2 * g, groups=g) for g in (2, 3, 5) for cg in (1, 13, 32, 64, 65)),
    replace(_BASE, h=1, w=1, r=5, s=5, padding=(2, 2)),  # filter larger than the image
    replace(_BASE, h=2, w=1, r=3, s=7, padding=(1, 3), pad_value=-1),
    replace(_BASE, h=1, w=1, r=1, s=1, padding=(3, 3), pad_value=1),  # most outputs see only padding
    replace(_BASE, r=1, s=1, padding=(0, 0)),
    replace(_BASE, r=1, s=5, padding=(0, 2)),
    replace(_BASE, r=5, s=1, padding=(0, 0)),
    replace(_BASE, r=2, s=4, stride=(2, 3), padding=(1, 2)),
    replace(_BASE, dilation=(2, 2), padding=(2, 2)),
    replace(_BASE, dilation=(3, 1), padding=(3, 0), stride=(1, 2), pad_value=1),
    replace(_BASE, stride=(7, 7), padding=(0, 0)),  # stride beyond the image
    replace(_BASE, c=128, k=1),
    replace(_BASE, n=1, c=512, h=2, w=2, k=3),
)


def _random_conv(random: Random) -> Conv:
    kind = random.choices(("plain", "grouped", "depthwise"), (6, 2, 2))[0]
    c, k = random.choice(CHANNELS), random.choice(FILTERS)
    groups = 1
    if kind == "depthwise":
        groups, k = c, c * random.choice((1, 1, 2))
    elif kind == "grouped":
        groups = random.choice((2, 3, 4))
        c, k = groups * random.choice((1, 5, 16, 31, 32, 33, 64, 65)), groups * random.choice((1, 2, 4, 7))
    return Conv(
        n=random.choices((0, 1, 2, 3), (1, 12, 5, 2))[0],
        c=c,
        h=random.randint(1, 9),
        w=random.randint(1, 9),
        k=k,
        r=random.choice((1, 1, 2, 3, 3, 3, 4, 5)),
        s=random.choice((1, 1, 2, 3, 3, 3, 4, 5)),
        stride=(random.choice((1, 1, 2, 3)), random.choice((1, 1, 2, 3))),
        padding=(random.choice((0, 1, 1, 2, 3)), random.choice((0, 1, 1, 2, 3))),
        dilation=(random.choice((1, 1, 1, 2, 3)), random.choice((1, 1, 1, 2, 3))),
        groups=groups,
        pad_value=random.choice((-1, 0, 0, 1)),
    )


def convs(count: int, seed: int = 0, max_macs: int = 1_000_000) -> Iterator[Conv]:
    """`count` convolutions: the corners first, then random ones of at most `max_macs`."""
    random = Random(seed)
    yield from CORNER_CONVS[:count]
    left = count - len(CORNER_CONVS)
    while left > 0:
        case = _random_conv(random)
        if min(case.output) > 0 and case.macs <= max_macs:
            yield case
            left -= 1


def wide_convs(count: int, seed: int = 0) -> Iterator[Conv]:
    """`count` convolutions for tensor cores: 256 bits, 32 filters a group, 64 pixels or a little more."""
    random = Random(seed)
    while count > 0:
        groups, r, s = random.choice((1, 1, 1, 2, 3)), random.randint(1, 4), random.randint(1, 4)
        c = max(1, -(-256 // (r * s))) + random.choice((0, 0, 1, 5, 31, 32, 63, 64, 100))
        if random.random() < 0.5:
            c = -(-c // 64) * 64
        stride, padding, dilation = ((random.randint(*x), random.randint(*x)) for x in ((1, 2), (0, 3), (1, 2)))
        k = groups * random.choice((32, 33, 63, 64, 65, 96, 127, 128, 130))
        case = Conv(random.randint(1, 3), c * groups, random.randint(6, 15), random.randint(6, 15), k, r, s,
                    stride, padding, dilation, groups, random.choice((-1, 0, 0, 1)))  # fmt: skip
        oh, ow = case.output
        if min(oh, ow) > 0 and case.n * oh * ow >= 64 and case.macs <= 6_000_000:
            yield case
            count -= 1


def linears(count: int, seed: int = 0) -> Iterator[Linear]:
    """`count` matrix products, empty ones among them."""
    random = Random(seed)
    for _ in range(count):
        m = random.choice((0, 1, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17))
        yield Linear(m, random.choice((*CHANNELS, 255, 256, 257, 511, 1000)), random.choice(FILTERS))


def packs(count: int, seed: int = 0) -> Iterator[Pack]:
    """`count` float tensors: every dtype, layout and channel count, matrices and images, some empty."""
    random = Random(seed)
    for i in range(count):
        space = (0, 0) if random.random() < 0.25 else (random.randint(1, 6), random.randint(1, 6))
        yield Pack(
            n=random.choices((0, 1, 2, 3, 5), (1, 6, 6, 3, 3))[0],
            c=CHANNELS[i % len(CHANNELS)],
            h=space[0],
            w=space[1],
            dtype=random.choice(DTYPES),
            layout=random.choice(LAYOUTS),
            shift=random.random() < 0.6,
        )


def pools(count: int, seed: int = 0) -> Iterator[Pool]:
    """`count` multi-resolution poolings, sizes that don't divide the input among them."""
    random = Random(seed)
    for _ in range(count):
        h, w = random.randint(1, 12), random.randint(1, 12)
        sizes = [(random.randint(1, h), random.randint(1, w)) for _ in range(random.randint(1, 4))]
        yield Pool(
            n=random.choices((0, 1, 2, 3), (1, 6, 6, 3))[0],
            c=random.choice((1, 3, 8, 15, 16, 17, 33)),
            h=h,
            w=w,
            sizes=(*sizes, *random.choice(((), ((h, w),), ((1, 1),)))),
            dtype=random.choice(DTYPES),
            layout=random.choice(("contiguous", "channels_last", "sliced", "transposed")),
        )
