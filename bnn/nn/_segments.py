"""The program of a packed network with what one op can run (`bnn.ops.run_steps`) taken together: between the kernels of
a segment lies no Python."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby, repeat, starmap, zip_longest
from operator import attrgetter, contains, is_
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules import module as modules

from bnn.nn import _program
from bnn.nn._packed import PackedEpilogue
from bnn.nn.blend import Blend
from bnn.ops.run_steps import KINDS, Step, encode, run_steps

_ATTRIBUTES = {
    nn.AvgPool2d: attrgetter("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    Blend: attrgetter("training"),
}
_version = attrgetter("_version")


class Segment(NamedTuple):
    """Consecutive steps as arguments of `run_steps`, and the places of its inputs and outputs."""

    inputs: list[int]
    outputs: list[int]
    unused: list[int]  # from here on
    constants: list[Tensor]
    code: Tensor


class Segments:
    """The program and what it was made of: a layer that changed, or has hooks now, is found out before each run (which
    changes are not, see `PackedModel`)."""

    def __init__(self, links: list[_program.Link], layers: nn.ModuleDict) -> None:
        self._links, self._layers, self._modules = links, layers, list(layers.values())
        described = [(link, _describe(link, layers)) for link in links]
        self._parts = list(_parts(described))
        watched = [layers[link.step["name"]] for link, step in described if link.is_layer and step is not None]
        self._hooks = [hooks for layer in watched for hooks in (layer._forward_hooks, layer._forward_pre_hooks)]
        self._hooks += [modules._global_forward_hooks, modules._global_forward_pre_hooks]
        self._dicts: list[dict] = [
            tensors for layer in watched for tensors in (layer._buffers, layer._parameters) if tensors
        ]
        self._parameters = [p for layer in watched for p in layer._parameters.values() if p is not None]
        self._found = list(self._find())
        self._tensors = [t for t in self._found if t is not None]
        # What costs a call most is that these objects are no longer in the caches: attributes of packed layers, whose
        # changes are counted, and addresses are looked at where the count is another.
        packed = [layer for layer in watched if isinstance(layer, PackedEpilogue)]
        self._seldom = [(attrgetter("__class__", "forward", *layer.FIELDS, "stream_dtype"), layer) for layer in packed]
        self._always = [layer for layer in watched if not isinstance(layer, PackedEpilogue)]
        self._own = list(map(vars, self._always))
        self._classes: list[Any] = list(set(map(type, self._always)))
        self._attributes = [(get, layer) for layer in self._always if (get := _ATTRIBUTES.get(type(layer))) is not None]
        self._changes = PackedEpilogue.changes
        self._rest = self._look_at_rest()
        self._state = self._look()

    def _find(self) -> Iterator[Tensor | None]:
        return chain.from_iterable(map(dict.values, self._dicts))

    def _look(self) -> tuple[list, ...]:
        return (
            list(map(_version, self._tensors)),
            list(map(Tensor.data_ptr, self._parameters)),  # conversions change `.data`
            list(map(type, self._always)),
            [cls.forward for cls in self._classes],
            list(map(contains, self._own, repeat("forward"))),
            _look(self._attributes),
        )

    def _look_at_rest(self) -> tuple[list, list]:
        return list(map(Tensor.data_ptr, self._tensors)), _look(self._seldom)

    def current(self, links: list[_program.Link], layers: nn.ModuleDict) -> bool:
        """Whether layers, their buffers and their attributes are the ones that this was made of."""
        if links is not self._links or layers is not self._layers or not _same(layers._modules.values(), self._modules):
            return False
        if not _same(self._find(), self._found) or self._look() != self._state:
            return False
        changes = PackedEpilogue.changes
        if changes != self._changes:
            if self._look_at_rest() != self._rest:
                return False
            self._changes = changes
        return True

    def hooked(self) -> bool:
        """Whether somebody wants to see a layer called."""
        return any(self._hooks)

    def run(self, x: Tensor) -> Tensor:
        """What the last step gives."""
        values: list = [x, *[None] * 2 * len(self._links)]
        for part in self._parts:
            if isinstance(part, Segment):
                results = run_steps([values[place] for place in part.inputs], part.constants, part.code)
                for place in part.outputs:
                    values[place] = results.pop(0)  # not kept alive here
                for place in part.unused:
                    values[place] = None
            else:
                _program.execute(part, self._layers, values)
        return values[self._links[-1].output]


def _same(found: Iterable[Any], before: list) -> bool:
    return all(starmap(is_, zip_longest(found, before)))


def _look(getters: list[tuple[attrgetter, Any]]) -> list:
    return [get(layer) for get, layer in getters]


def _describe(link: _program.Link, layers: nn.ModuleDict) -> tuple[Step, list[Tensor]] | None:
    """What `run_steps` needs to know of a layer, or None for what it can't run: another class, a forward of its own, a
    buffer that is elsewhere or whose changes nobody counts."""
    if not link.is_layer:
        return _function(link)
    layer: Any = layers[link.step["name"]]
    if type(layer) is not _program.LAYERS[link.step["kind"]][0] or "forward" in vars(layer):
        return None
    tensors = (*layer._buffers.values(), *layer._parameters.values())
    if not all(t is None or (t.is_cpu and not t.is_inference()) for t in tensors):
        return None
    if isinstance(layer, PackedEpilogue):
        return layer.step()
    if isinstance(layer, nn.AvgPool2d):
        return _pooling(layer)
    if isinstance(layer, nn.PReLU):
        return Step(KINDS.index("prelu")), [layer.weight]
    if isinstance(layer, Blend) and not layer.training:
        return Step(KINDS.index("blend")), [layer.share]
    plain = {nn.ReLU: "relu", nn.Sigmoid: "sigmoid"}.get(type(layer))
    return (Step(KINDS.index(plain)), []) if plain is not None else None


def _function(link: _program.Link) -> tuple[Step, list[Tensor]] | None:
    kind = link.step["kind"]
    pair = kind == "cat" and len(link.inputs) == 2 and link.step["args"]["dim"] == 1
    return (Step(KINDS.index(kind)), []) if pair or kind in ("pixel_mean", "relu") else None


def _pooling(layer: nn.AvgPool2d) -> tuple[Step, list[Tensor]] | None:
    values = (layer.kernel_size, layer.stride, layer.padding)
    sizes = [value if isinstance(value, tuple) else (value, value) for value in values]
    pairs = all(len(size) == 2 and all(type(n) is int for n in size) for size in sizes)
    if not pairs or min(*sizes[0], *sizes[1]) < 1 or layer.divisor_override is not None:
        return None
    if not all(0 <= 2 * padding <= size for size, padding in zip(sizes[0], sizes[2], strict=True)):
        return None
    flags = (int(layer.ceil_mode), int(layer.count_include_pad), 0)
    return Step(KINDS.index("avg_pool2d"), kernel_size=sizes[0], stride=sizes[1], padding=sizes[2], pool=flags), []


def _parts(described: list) -> Iterator[_program.Link | Segment]:
    """Segments, and the links between."""
    done = 0
    for known, group in groupby(described, key=lambda pair: pair[1] is not None):
        links, steps = zip(*group, strict=True)
        done += len(links)
        if known:
            wanted = {place for link, _ in described[done:] for place in link.inputs} | {described[-1][0].output}
            yield _segment(links, steps, wanted)
        else:
            yield from links


def _segment(links: Sequence[_program.Link], steps: Sequence[tuple[Step, list[Tensor]]], wanted: set[int]) -> Segment:
    """wanted: places that somebody reads afterwards."""
    made = {place for link in links for place in (link.output, link.output + 1)}
    inputs = list(dict.fromkeys(place for link in links for place in link.inputs if place not in made))
    outputs = sorted(made & wanted)
    local = {place: i for i, place in enumerate([*inputs, *sorted(made)])}
    constants: list[Tensor] = []
    for link, (step, own) in zip(links, steps, strict=True):
        for name, place in zip(("x", "residual", "gate"), link.inputs, strict=False):
            setattr(step, name, local[place])
            setattr(step, f"{name}_ends", int(place in link.unused))
        step.output, step.constant = local[link.output], len(constants)
        constants += own
    rows = [step for step, _ in steps] + [Step(KINDS.index("output"), local[place]) for place in outputs]
    unused = [place for link in links for place in link.unused if place in inputs]
    return Segment(inputs, outputs, unused, constants, encode(rows))
