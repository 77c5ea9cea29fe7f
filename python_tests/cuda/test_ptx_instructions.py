"""Single PTX instructions, written by hand, against numpy or plain Python integers. Needs no compiler."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from ptx_runner import Memory, PtxError, launch, unmodelled

N = 64


def run(instructions: str, to: str, *sources: tuple[str, np.ndarray]) -> np.ndarray:
    """Executes them once per element: sources %a, %b, %c, result %d, each with its PTX type."""
    names = "abcd"[: len(sources)]
    declared = [(n, t) for n, (t, _) in zip(names, sources, strict=True)] + [("d", to)]
    size = {t: int("".join(c for c in t if c.isdigit())) // 8 for _, t in declared}
    lines = [f".reg .{t.replace('s', 'b').replace('u', 'b')} %{n};" for n, t in declared]
    lines += [".reg .b64 %p<9>; .reg .b32 %i; .reg .pred %q<4>; .reg .b16 %h<8>; mov.u32 %i, %tid.x;"]
    for k, (n, t) in enumerate(declared):
        lines += [f"ld.param.u64 %p0, [k_{k}]; mul.wide.u32 %p1, %i, {size[t]}; add.u64 %p{k + 2}, %p0, %p1;"]
        lines += [f"ld.global.b{8 * size[t]} %{n}, [%p{k + 2}];"] if n != "d" else []
    lines += [instructions, f"st.global.b{8 * size[to]} [%p{len(sources) + 2}], %d;", "ret;"]
    parameters = ", ".join(f".param .u64 k_{k}" for k in range(len(declared)))
    memory = Memory(1 << 16)
    inputs = [memory.put(np.ascontiguousarray(v)) for _, v in sources]
    count = len(sources[0][1])
    out = memory.empty(count, f"u{size[to]}")
    launch(memory, f".visible .entry k({parameters})\n{{\n" + "\n".join(lines) + "\n}\n", "k", 1, count, [*inputs, out])
    return out.numpy()


def integers(width: int, seed: int) -> np.ndarray:
    """Random ones, small ones, and the ends of the range."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2**width - 1, N, dtype=np.uint64, endpoint=True)
    values[:16] >>= np.uint64(width - 6)
    values[16:20] = [0, 2**width - 1, 2 ** (width - 1), 2 ** (width - 1) - 1]
    return rng.permutation(values).astype(f"u{width // 8}")


def signed(v: int, width: int) -> int:
    return v - (1 << width) if v >> (width - 1) else v


def bfe(a: int, position: int, length: int, sign: bool) -> int:
    """As the PTX manual writes it, bit by bit."""
    position, length = position & 255, length & 255
    fill = a >> min(position + length - 1, 31) & 1 if sign and length else 0
    return sum((a >> position + i & 1 if i < length and position + i <= 31 else fill) << i for i in range(32))


def prmt(a: int, b: int, select: int) -> int:
    octets = [(b << 32 | a) >> 8 * k & 255 for k in range(8)]
    out = 0
    for k in range(4):
        nibble = select >> 4 * k & 15
        octet = octets[nibble & 7]
        out |= (255 * (octet >> 7) if nibble & 8 else octet) << 8 * k
    return out


def bfi(a: int, b: int, position: int, length: int) -> int:
    mask = ((1 << (length & 255)) - 1) << (position & 255)
    return b & ~mask | a << (position & 255) & mask


def dp4a(a: int, b: int, c: int) -> int:
    return c + sum(signed(a >> 8 * k & 255, 8) * (b >> 8 * k & 255) for k in range(4))


INTEGER: list[tuple[str, int, Callable[..., int]]] = [
    ("add.s32 %d, %a, %b;", 32, lambda a, b, c: a + b),
    ("sub.s64 %d, %a, %b;", 64, lambda a, b, c: a - b),
    ("mad.lo.s32 %d, %a, %b, %c;", 32, lambda a, b, c: a * b + c),
    ("mul.hi.u32 %d, %a, %b;", 32, lambda a, b, c: a * b >> 32),
    ("mul.hi.s32 %d, %a, %b;", 32, lambda a, b, c: signed(a, 32) * signed(b, 32) >> 32),
    ("mul.hi.u64 %d, %a, %b;", 64, lambda a, b, c: a * b >> 64),
    ("mul.hi.s64 %d, %a, %b;", 64, lambda a, b, c: signed(a, 64) * signed(b, 64) >> 64),
    ("or.b32 %d, %b, 1; div.u32 %d, %a, %d;", 32, lambda a, b, c: a // (b | 1)),
    ("or.b32 %d, %b, 1; rem.s32 %d, %a, %d;", 32,
     lambda a, b, c: int(np.fmod(signed(a, 32), signed(b | 1, 32)))),
    ("min.s32 %d, %a, %b;", 32, lambda a, b, c: min(signed(a, 32), signed(b, 32))),
    ("max.u64 %d, %a, %b;", 64, lambda a, b, c: max(a, b)),
    ("abs.s32 %d, %a;", 32, lambda a, b, c: abs(signed(a, 32))),
    ("neg.s64 %d, %a;", 64, lambda a, b, c: -a),
    ("lop3.b32 %d, %a, %b, %c, 0xE8;", 32, lambda a, b, c: a & b | a & c | b & c),
    ("lop3.b32 %d, %a, %b, %c, 0x96;", 32, lambda a, b, c: a ^ b ^ c),
    ("cnot.b32 %d, %a;", 32, lambda a, b, c: int(a == 0)),
    ("shl.b32 %d, %a, %c;", 32, lambda a, b, c: a << c if c < 32 else 0),
    ("shr.s32 %d, %a, %c;", 32, lambda a, b, c: signed(a, 32) >> min(c, 31)),
    ("shf.l.wrap.b32 %d, %a, %b, %c;", 32, lambda a, b, c: (b << 32 | a) << (c & 31) >> 32),
    ("shf.r.clamp.b32 %d, %a, %b, %c;", 32, lambda a, b, c: (b << 32 | a) >> min(c, 32)),
    ("popc.b32 %d, %a;", 32, lambda a, b, c: a.bit_count()),
    ("clz.b32 %d, %a;", 32, lambda a, b, c: 32 - a.bit_length()),
    ("bfind.u32 %d, %a;", 32, lambda a, b, c: a.bit_length() - 1),
    ("bfind.s32 %d, %a;", 32, lambda a, b, c: (a ^ (2**32 - 1) * (a >> 31)).bit_length() - 1),
    ("bfind.shiftamt.u32 %d, %a;", 32, lambda a, b, c: 32 - a.bit_length() if a else -1),
    ("brev.b64 %d, %a;", 64, lambda a, b, c: int(f"{a:064b}"[::-1], 2)),
    ("bfe.u32 %d, %a, %b, %c;", 32, lambda a, b, c: bfe(a, b, c, False)),
    ("bfe.s32 %d, %a, %b, %c;", 32, lambda a, b, c: bfe(a, b, c, True)),
    ("bfi.b32 %d, %a, %b, %c, 7;", 32, lambda a, b, c: bfi(a, b, c, 7)),
    ("prmt.b32 %d, %a, %b, %c;", 32, prmt),
    ("dp4a.s32.u32 %d, %a, %b, %c;", 32, dp4a),
    ("setp.lt.s32 %q0, %a, %b; selp.b32 %d, %a, %c, %q0;", 32,
     lambda a, b, c: a if signed(a, 32) < signed(b, 32) else c),
    ("mov.b32 {%h0, %h1}, %a; mov.b32 %d, {%h1, %h0};", 32, lambda a, b, c: a >> 16 | a << 16),
    ("cvt.s64.s32 %p0, %a; shr.u64 %p0, %p0, 16; cvt.u32.u64 %d, %p0;", 32, lambda a, b, c: signed(a, 32) >> 16),
    ("cvt.sat.s8.s32 %d, %a;", 32, lambda a, b, c: max(-128, min(127, signed(a, 32)))),
]  # fmt: skip


@pytest.mark.parametrize("text, width, expected", INTEGER, ids=lambda v: v if isinstance(v, str) else "")
def test_integers(text, width, expected):
    a, b, c = (integers(width, seed) for seed in range(3))
    if "bfe" in text or "bfi" in text:
        b = b if "bfi" in text else b % 40
        c = c % 40
    elif "sh" in text and "%c" in text:
        c = c % 70
    found = run(text, f"b{width}", *((f"b{width}", v) for v in (a, b, c)))
    wanted = [expected(*map(int, row)) & 2**width - 1 for row in zip(a, b, c, strict=True)]
    assert found.tolist() == wanted


def values(seed: int, dtype=np.float32) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(N) * 2.0 ** rng.integers(-20, 20, N)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-42, -1e-42, 65520.0, 3.0e38, 2.5, 3.5, -0.5, 1.5e9, -3e9]
    x[: len(special)] = special
    return rng.permutation(x).astype(dtype)


def same(found: np.ndarray, wanted: np.ndarray) -> None:
    """Bit for bit, but NaN: the canonical one of PTX."""
    nan = np.isnan(wanted)
    assert np.array_equal(found[~nan], wanted[~nan].view(found.dtype))
    canonical = {2: 0x7FFF, 4: 0x7FFFFFFF}.get(found.itemsize)
    assert canonical is None or (found[nan] == canonical).all()


def fused(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """float32(a b + c) from exact fractions, a float32 found by searching around."""
    out = a * b + c
    for k in np.flatnonzero(np.isfinite(a) & np.isfinite(b) & np.isfinite(c) & np.isfinite(out)):
        exact = Fraction(float(a[k])) * Fraction(float(b[k])) + Fraction(float(c[k]))
        near = [out[k], np.nextafter(out[k], np.float32(np.inf)), np.nextafter(out[k], np.float32(-np.inf))]
        near = [n for n in near if np.isfinite(n)]
        best = min(near, key=lambda n: (abs(Fraction(float(n)) - exact), int(n.view(np.uint32)) & 1))
        out[k] = best if exact else out[k]
    return out


FLOAT: list[tuple[str, Callable[..., np.ndarray]]] = [
    ("add.f32 %d, %a, %b;", lambda a, b, c: a + b),
    ("sub.rn.f32 %d, %a, %b;", lambda a, b, c: a - b),
    ("mul.rn.f32 %d, %a, %b;", lambda a, b, c: a * b),
    ("div.rn.f32 %d, %a, %b;", lambda a, b, c: a / b),
    ("rcp.rn.f32 %d, %a;", lambda a, b, c: np.float32(1) / a),
    ("sqrt.rn.f32 %d, %a;", lambda a, b, c: np.sqrt(a)),
    ("fma.rn.f32 %d, %a, %b, %c;", fused),
    ("min.f32 %d, %a, %b;", lambda a, b, c: np.fmin(a, b)),
    ("max.f32 %d, %a, %b;", lambda a, b, c: np.fmax(a, b)),
    ("min.NaN.f32 %d, %a, %b;", lambda a, b, c: np.minimum(a, b)),
    ("cvt.rni.f32.f32 %d, %a;", lambda a, b, c: np.rint(a)),
    ("cvt.rmi.f32.f32 %d, %a;", lambda a, b, c: np.floor(a)),
    ("cvt.sat.f32.f32 %d, %a;", lambda a, b, c: np.where(np.isnan(a), np.float32(0), np.clip(a, 0, 1))),
    ("setp.ltu.f32 %q0, %a, %b; selp.f32 %d, %a, %c, %q0;", lambda a, b, c: np.where(~(a >= b), a, c)),
    ("setp.ne.f32 %q0, %a, %b; selp.f32 %d, 0f3F800000, 0f00000000, %q0;",
     lambda a, b, c: ((a < b) | (a > b)).astype(np.float32)),
    ("setp.nan.f32 %q0|%q1, %a, %b; selp.f32 %d, 0f3F800000, 0f00000000, %q1;",
     lambda a, b, c: 1 - (np.isnan(a) | np.isnan(b)).astype(np.float32)),
    ("testp.subnormal.f32 %q0, %a; selp.f32 %d, 0f3F800000, 0f00000000, %q0;",
     lambda a, b, c: ((np.abs(a) < 1.1754944e-38) & (a != 0)).astype(np.float32)),
    ("cvt.rn.f16.f32 %h0, %a; cvt.f32.f16 %d, %h0;", lambda a, b, c: a.astype(np.float16).astype(np.float32)),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("text, expected", FLOAT, ids=lambda v: v if isinstance(v, str) else "")
def test_floats(text, expected):
    a, b, c = (values(seed) for seed in range(3))
    found = run(text, "f32", *(("f32", v) for v in (a, b, c)))
    wanted = expected(a, b, c).astype(np.float32)
    if text.startswith("setp.ltu"):  # passes a NaN of its operands on as it is
        return np.testing.assert_array_equal(found.view(np.float32), wanted)
    if text.startswith(("min", "max")):
        zeros = wanted == 0
        assert (found.view(np.float32)[zeros] == 0).all()
        found, wanted = found[~zeros], wanted[~zeros]
    same(found, wanted)


def test_zeros_are_ordered():
    a, b = np.float32([0.0, -0.0]), np.float32([-0.0, 0.0])
    assert run("min.f32 %d, %a, %b;", "f32", ("f32", a), ("f32", b)).tolist() == [0x80000000] * 2
    assert run("max.f32 %d, %a, %b;", "f32", ("f32", a), ("f32", b)).tolist() == [0, 0]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("type_", ["s8", "u8", "s32", "u32", "s64", "u64"])
def test_floats_to_integers(type_):
    """Out of range to the ends of the range; NaN to 0, and to the top bit in 64-bit conversions."""
    a, width = values(0), int(type_[1:])
    found = run(f"cvt.rzi.{type_}.f32 %d, %a;", f"b{max(width, 32)}", ("f32", a))
    limit = np.iinfo(np.dtype(f"{'i' if type_[0] == 's' else 'u'}{width // 8}"))
    for x, got in zip(a.tolist(), found.tolist(), strict=True):
        low, high = int(limit.min), int(limit.max)
        wanted = (1 << 63 if width == 64 else 0) if np.isnan(x) else max(low, min(high, int(max(-1e30, min(1e30, x)))))
        assert got == wanted & 2 ** max(width, 32) - 1


HALVES = ["add{rn}.{t} %d, %a, %b;", "sub{rn}.{t} %d, %a, %b;", "mul{rn}.{t} %d, %a, %b;", "fma.rn.{t} %d, %a, %b, %c;"]


def exact16(text: str, a: float, b: float, c: float) -> Fraction:
    x, y, z = map(Fraction, (a, b, c))
    return {"a": x + y, "s": x - y, "m": x * y, "f": x * y + z}[text[0]]


@pytest.mark.parametrize("text", HALVES)
@pytest.mark.parametrize("type_", ["f16", "bf16"])
def test_16_bit_arithmetic(type_, text):
    """Rounded once: among all finite values of the type none is nearer to the exact result."""
    rng = np.random.default_rng(7)
    shift = 16 if type_ == "bf16" else 0
    bits = rng.integers(0, 2**16, (3, N), dtype=np.uint16)
    bits &= np.uint16(0xBFFF if type_ == "f16" else 0xBF7F)  # finite, and products too

    def floats(raw: np.ndarray) -> np.ndarray:
        return (raw.astype(np.uint32) << shift).view(np.float32) if shift else raw.view(np.float16).astype(np.float32)

    found = run(text.format(t=type_, rn=".rn"), "b16", *(("b16", row) for row in bits))
    a, b, c = (floats(row).tolist() for row in bits)
    for k in range(N):
        exact = exact16(text, a[k], b[k], c[k])
        near = found[k] + np.array([0, 1, -1], np.int16).view(np.uint16)
        gaps = [abs(Fraction(float(v)) - exact) for v in floats(near) if np.isfinite(v)]
        assert gaps[0] == min(gaps)
        assert gaps.count(gaps[0]) == 1 or found[k] % 2 == 0 or exact == 0


def test_pairs_of_halves():
    a, b = values(0), values(1)
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = np.stack([b, a], 1).astype(np.float16)  # the first source goes to the upper half
    found = run("cvt.rn.f16x2.f32 %d, %a, %b;", "b32", ("f32", a), ("f32", b)).view(np.float16).reshape(-1, 2)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_doubles():
    a, b, c = (values(seed, np.float64) for seed in range(3))
    same(run("div.rn.f64 %d, %a, %b;", "f64", ("f64", a), ("f64", b)), a / b)
    found = run("fma.rn.f64 %d, %a, %b, %c;", "f64", *(("f64", v) for v in (a, b, c))).view(np.float64)
    for x, y, z, got in zip(*(v.tolist() for v in (a, b, c, found)), strict=True):
        if np.isfinite([x, y, z]).all():
            assert got == float(Fraction(x) * Fraction(y) + Fraction(z))


def test_cells_of_a_kernel():
    """Local memory, a jump table, constants, vectors."""
    text = """
.const .align 4 .b8 table[16] = {7, 0, 0, 0, 5, 0, 0, 0, 3};
.visible .entry k(.param .u64 k_0)
{
    .local .align 16 .b8 depot[16];
    .reg .b32 %r<9>; .reg .b64 %p<9>;
    mov.u32 %r0, %tid.x;
    and.b32 %r1, %r0, 3;
    mov.u64 %p0, table;
    mad.wide.u32 %p1, %r1, 4, %p0;
    ld.const.u32 %r2, [%p1];
    mov.u64 %p2, depot;
    st.local.v2.u32 [%p2+8], {%r2, %r0};
    cvta.local.u64 %p3, %p2;
    ld.v2.u32 {%r3, %r4}, [%p3+8];
    brx.idx %r1, targets;
targets: .branchtargets L0, L1, L1, L0;
L0: add.u32 %r3, %r3, 100;
L1: mad.lo.u32 %r5, %r4, 1000, %r3;
    ld.param.u64 %p4, [k_0];
    mad.wide.u32 %p5, %r0, 4, %p4;
    st.global.u32 [%p5], %r5;
    ret;
}
"""
    memory = Memory(1 << 16)
    out = memory.empty(4, np.uint32)
    launch(memory, text, "k", 1, 4, [out])
    assert out.numpy().tolist() == [107, 1005, 2003, 3100]


@pytest.mark.parametrize("text", ["sin.approx.f32 %d, %a;", "add.rz.f32 %d, %a, %a;", "mul.ftz.f32 %d, %a, %a;"])
def test_what_is_not_modelled_is_refused(text):
    with pytest.raises(PtxError, match="not modelled: `" + text.split()[0]):
        run(text, "f32", ("f32", np.ones(2, np.float32)))


def test_lists_what_is_not_modelled():
    text = ".visible .entry k()\n{\n.reg .b32 %r<2>;\nadd.cc.u32 %r0, %r1, %r1;\nadd.u32 %r0, %r1, %r1;\nret;\n}"
    assert unmodelled(text) == {"k": ["add.cc.u32 %r0, %r1, %r1"]}
