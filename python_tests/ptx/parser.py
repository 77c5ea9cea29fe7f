"""Reads PTX as nvcc writes it: the parameters, variables, registers and instructions of one kernel.

Source lines come from `.loc`, so compile with `nvcc -ptx -lineinfo`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from toolchain import demangle

TYPE = re.compile(r"pred|[bus](?:1|4|8|16|32|64|128)|b?f16(?:x2)?|f(?:32|64)")


class PtxError(Exception):
    """What the kernel did wrong, or what the runner does not model, with instruction and source line."""


def bits(type_: str) -> int:
    """Width of a PTX type; a predicate is stored in 8."""
    if type_ == "pred":
        return 8
    number, _, lanes = re.sub(r"^b?[a-z]", "", type_).partition("x")
    return int(number) * int(lanes or 1)


def align_up(n: int, to: int) -> int:
    return -(-n // to) * to


@dataclass(frozen=True)
class Register:
    name: str
    inverted: bool = False  # !p


@dataclass(frozen=True)
class Number:
    """A literal; a float literal is kept as its bits and says how wide it is."""

    value: int
    width: int = 0


@dataclass(frozen=True)
class Symbol:
    """A special register (%tid.x), a variable or a label."""

    name: str


@dataclass(frozen=True)
class Address:
    base: "Register | Number | Symbol"
    offset: int = 0


Operand = Register | Number | Symbol | Address | tuple  # tuple: {a, b} or d|p


@dataclass(frozen=True)
class Instruction:
    opcode: str
    modifiers: tuple[str, ...]  # between opcode and types: lo, wide, global, v4, ...
    types: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: Register | None
    text: str
    place: str  # file:line, innermost first

    @property
    def type(self) -> str:
        return self.types[-1]

    def error(self, what: str) -> PtxError:
        return PtxError(f"{what}: `{self.text}` at {self.place or 'an unknown line'}")

    def find(self, *choices: str) -> str | None:
        """The modifier that is one of these; shared::cta counts as shared."""
        return next((m for m in (name.split("::")[0] for name in self.modifiers) if m in choices), None)


@dataclass(frozen=True)
class Variable:
    space: str  # param, shared, local, const or global
    type: str
    offset: int
    size: int  # bytes; -1: extern, the dynamic shared memory
    initial: bytes = b""


@dataclass
class Kernel:
    name: str
    parameters: list[Variable] = field(default_factory=list)
    variables: dict[str, Variable] = field(default_factory=dict)
    registers: dict[str, str] = field(default_factory=dict)  # name -> type
    body: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    targets: dict[str, list[str]] = field(default_factory=dict)  # of brx.idx
    sizes: dict[str, int] = field(default_factory=dict)  # bytes per space
    max_threads: int = 1024


@dataclass(frozen=True)
class Module:
    """A PTX file cut into its kernels."""

    names: dict[str, str]  # mangled -> demangled
    kernels: dict[str, tuple[str, str, str]]  # parameters, directives, body
    declarations: tuple[str, ...]  # of variables outside of kernels
    files: dict[str, str]  # by the numbers that .loc uses

    def find(self, wanted: str) -> str:
        """The mangled name of the one kernel whose mangled or demangled name contains `wanted`."""
        exact = [m for m, d in self.names.items() if wanted in (m, d)]
        found = exact or [m for m, d in self.names.items() if wanted in m or wanted in d]
        if len(found) != 1:
            raise PtxError(f"{len(found)} kernels match {wanted!r}; there are {sorted(self.names.values())}")
        return found[0]


@lru_cache(maxsize=16)
def read_module(text: str) -> Module:
    files = dict(re.findall(r'^\s*\.file\s+(\d+)\s+"([^"]*)"', text, re.M))
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)
    kernels, outside, at = {}, [], 0
    for head in re.finditer(r"\.entry\s+([\w$]+)\s*(?:\((.*?)\))?([^{(]*)\{", text, re.S):
        end = _closing_brace(text, head.end())
        kernels[head[1]] = (head[2] or "", head[3], text[head.end() : end])
        outside.append(text[at : head.start()])
        at = end + 1
    found = re.findall(r"\.(?:const|global|shared)\s[^;{}]*(?:\{[^}]*\})?", "".join(outside))
    names = dict(zip(kernels, demangle(list(kernels)), strict=True))
    return Module(names, kernels, tuple(found), files)


@lru_cache(maxsize=64)
def parse(text: str, wanted: str) -> Kernel:
    """The kernel whose name contains `wanted`."""
    module = read_module(text)
    kernel = Kernel(module.find(wanted))
    parameters, directives, body = module.kernels[kernel.name]
    if limit := re.search(r"\.(?:maxntid|reqntid)\s+([\d,\s]+)", directives):
        x, y, z = (int(n) for n in (limit[1] + ",1,1").split(",")[:3])
        kernel.max_threads = x * y * z
    for declaration in filter(str.strip, parameters.split(",")):
        _declare(kernel, declaration)
    words = set(re.findall(r"[\w$]+", body))
    for declaration in module.declarations:
        if re.findall(r"[\w$]+", declaration.partition("=")[0].partition("[")[0])[-1] in words:
            _declare(kernel, declaration)
    _Body(kernel, module.files).read(body)
    return kernel


def _closing_brace(text: str, start: int) -> int:
    depth = 1
    for brace in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return brace.start()
    raise PtxError("a kernel without end")


def _declare(kernel: Kernel, statement: str) -> None:
    """.param, .shared, .local, .const or .global variable."""
    declaration, _, initial = statement.partition("=")
    q = re.search(
        r"\.(param|shared|local|const|global)\b(.*?)\.([bus]\d+|f\d+)\b(.*?)([\w$]+)\s*(?:\[(\d*)\])?\s*$",
        declaration,
        re.S,
    )
    if not q:
        raise PtxError(f"cannot read the declaration {statement.strip()!r}")
    space, before, type_, _, name, count = q.groups()
    item = bits(type_) // 8
    align = re.search(r"\.align\s+(\d+)", before)
    offset = align_up(kernel.sizes.get(space, 0), int(align[1]) if align else item)
    size = -1 if count == "" else item * int(count or 1)
    variable = Variable(space, type_, offset, size, _initial(initial, type_, statement))
    kernel.variables[name] = variable
    kernel.sizes[space] = offset + max(size, 0) if size >= 0 else kernel.sizes.get(space, 0)
    if space == "param":
        kernel.parameters.append(variable)


def _initial(values: str, type_: str, statement: str) -> bytes:
    item, out = bits(type_) // 8, b""
    for value in filter(None, re.split(r"[\s,{}]+", values)):
        if not re.fullmatch(r"-?\d+|0[xfFdD][0-9a-fA-F]+", value):
            raise PtxError(f"initial values not modelled: {statement.strip()[:80]!r}")
        number = int(re.sub("^0[fFdD]", "0x", value), 0)
        out += (number & (1 << 8 * item) - 1).to_bytes(item, "little")
    return out


class _Body:
    """Statements of one kernel. A register declared in the { } of an inline asm statement is renamed name@scope."""

    def __init__(self, kernel: Kernel, files: dict[str, str]) -> None:
        self.kernel, self.files = kernel, files
        self.scopes, self.opened = [""], 0
        self.inlined: dict[tuple[str, str, str], tuple[str, str, str]] = {}
        self.place = ""
        self.known: dict[tuple[str, int, int], Operand] = {}

    def read(self, text: str) -> None:
        for statement in _statements(text):
            if statement == "{":
                self.opened += 1
                self.scopes.append(f"@{self.opened}")
            elif statement == "}":
                self.scopes.pop()
            elif re.match(r"\.loc\s", statement):
                self._location(statement)
            elif statement.endswith(":"):
                self.kernel.labels[statement[:-1]] = len(self.kernel.body)
            elif q := re.match(r"([\w$]+):\s*\.branchtargets\s+(.*)$", statement, re.S):
                self.kernel.targets[q[1]] = [label.strip() for label in q[2].split(",")]
            elif statement.startswith(".reg"):
                self._registers(statement)
            elif re.match(r"\.(shared|local|const|global)\b", statement):
                _declare(self.kernel, statement)
            elif not statement.startswith(".pragma"):
                self.kernel.body.append(self._instruction(statement))

    def _location(self, statement: str) -> None:
        """Remembers who inlined a line, for the toolkit's own headers say little."""
        here = tuple(statement.split()[1:4])
        here = (here[0], here[1], here[2].rstrip(","))
        if q := re.search(r"inlined_at\s+(\d+)\s+(\d+)\s+(\d+)", statement):
            self.inlined[here] = (q[1], q[2], q[3])
        else:
            self.inlined.pop(here, None)
        if here[1] == "0":
            return
        chain = [here]
        while chain[-1] in self.inlined and len(chain) < 9:
            chain.append(self.inlined[chain[-1]])
        ours = [c for c in chain if "/targets/" not in self.files.get(c[0], "")] or chain
        self.place = " in ".join(f"{self.files.get(f, f).rsplit('/', 1)[-1]}:{line}" for f, line, _ in ours)

    def _registers(self, statement: str) -> None:
        q = re.match(r"\.reg\s+\.(\w+)\s+(.*)$", statement, re.S)
        if not q or not TYPE.fullmatch(q[1]):
            raise PtxError(f"cannot read {statement!r}")
        for name in (n.strip() for n in q[2].split(",")):
            many = re.fullmatch(r"(.*)<(\d+)>", name)
            for n in [f"{many[1]}{k}" for k in range(int(many[2]))] if many else [name]:
                self.kernel.registers[n + self.scopes[-1]] = q[1]

    def _instruction(self, statement: str) -> Instruction:
        q = re.match(r"(?:@(!?[\w%$]+)\s+)?([\w.:]+)\s*(.*)$", statement, re.S)
        if not q:
            raise PtxError(f"cannot read {statement!r}")
        guard = self._operand(q[1]) if q[1] else None
        if guard and not isinstance(guard, Register):
            raise PtxError(f"{q[1]} is no predicate: {statement!r}")
        opcode, *parts = q[2].split(".")
        types = tuple(p for p in parts if TYPE.fullmatch(p))
        modifiers = tuple(p for p in parts if not TYPE.fullmatch(p))
        operands = tuple(self._operand(a) for a in _split(q[3]))
        text = " ".join(statement.split())
        return Instruction(opcode, modifiers, types, operands, guard, text, self.place)

    def _operand(self, text: str) -> Operand:
        key = text, self.opened, len(self.scopes)
        if key not in self.known:
            self.known[key] = self._read_operand(text)
        return self.known[key]

    def _read_operand(self, text: str) -> Operand:
        if text[0] == "{":
            return tuple(self._operand(part) for part in _split(text[1:-1]))
        if text[0] == "[":
            base, _, offset = text[1:-1].partition("+")
            return Address(self._operand(base.strip()), int(offset.strip() or "0", 0))  # type: ignore[arg-type]
        if "|" in text:
            return tuple(self._operand(part.strip()) for part in text.split("|"))
        if q := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})|0[dD]([0-9a-fA-F]{16})", text):
            return Number(int(q[1] or q[2], 16), 32 if q[1] else 64)
        if re.fullmatch(r"-?\d\w*", text):
            return Number(int(text.rstrip("U"), 0))
        plain = text.lstrip("!")
        for scope in reversed(self.scopes):
            if plain + scope in self.kernel.registers:
                return Register(plain + scope, text[0] == "!")
        return Symbol(text)


def _split(operands: str) -> list[str]:
    """At commas outside of brackets."""
    return [part.strip() for part in re.findall(r"\s*(\{[^}]*\}|\[[^\]]*\]|[^,]+)", operands) if part.strip()]


def _statements(text: str) -> Iterator[str]:
    """`{`, `}`, `label:`, `.loc ...` and instructions without their semicolon."""
    token = re.compile(
        r"\s*(?:([{}])|(\.loc\s[^\n]*)|([\w$]+\s*:(?!:)(?!\s*\.branchtargets))|((?:[^;{}]|\{[^{}]*\})+?)\s*;|(;))", re.S
    )
    at, end = 0, len(text.rstrip())
    while at < end:
        q = token.match(text, at)
        if not q:
            raise PtxError(f"cannot read {text[at : at + 80]!r}")
        at = q.end()
        if not q[5]:
            yield re.sub(r"\s*:$", ":", (q[1] or q[2] or q[3] or q[4]).strip())
