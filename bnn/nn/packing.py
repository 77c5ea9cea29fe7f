"""`bnn.pack`: a trained network to words, folded batch norms and fused epilogues."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bnn import isa
from bnn.nn import _folding, _program
from bnn.nn._packed import PackedEpilogue, may_keep
from bnn.nn._segments import Segments
from bnn.nn._trace import free_name, trace
from bnn.nn.activations import require
from bnn.nn.int8_conv2d import Int8Conv2d, Int8Linear
from bnn.ops._library import FLOATS


class PackedModel(nn.Module):
    """A packed network: runs a straight-line program of packed and real layers (`bnn.nn._program`). Inference only.

    Its layers may be changed; what is prepared for kernels follows, but for changes that nobody counts: through
    `.data`, `torch.utils.swap_tensors` or `vars(layer)`.

    Attributes:
        classes: names of the classes, or None.
        preprocess: {"size": [H, W], "mean": [...], "std": [...], "mode": "L" | "RGB"}, or None.
        posthoc: {"temperature": T, "logit_offsets": [K]}, or None; forward returns logits / T + offsets.
    """

    _segments: Segments | None = None  # made at the first call; copies make their own

    def __init__(self, steps: list[dict], layers: dict[str, nn.Module]) -> None:
        super().__init__()
        self.steps = steps
        self.links = _program.link(steps)
        self.layers = nn.ModuleDict(layers)
        self.classes: list[str] | None = None
        self.preprocess: dict | None = None
        self.posthoc: dict | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] or [M, C] float -> logits [N, K]."""
        with torch.no_grad():
            logits = self._logits(x)
            if self.posthoc is None:
                return logits
            offsets = torch.tensor(self.posthoc.get("logit_offsets") or 0.0, device=logits.device)
            return logits / self.posthoc.get("temperature", 1.0) + offsets

    def _logits(self, x: Tensor) -> Tensor:
        if x.is_cpu and x.dtype in FLOATS and may_keep(x):
            segments = self._segments
            if segments is None or not segments.current(self.links, self.layers):
                self._segments = segments = Segments(self.links, self.layers)
            if not segments.hooked():
                return segments.run(x)
        return _program.run(self.links, self.layers, x)

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_segments"}

    def backend_report(self, x: Tensor | None = None) -> list[dict]:
        """One row a layer: name, kind, kernel.

        kernel is "torch", or what a packed layer runs on: "reference", an instruction set ("avx2", ...), or
        on a GPU the name of a kernel. It is chosen by the input's size, on a CPU with a matrix unit ("amx" or "avx512")
        and on a GPU: give x, or it is just the highest instruction set, or "cuda".
        """
        packed: dict[str, Any] = {k: layer for k, layer in self.layers.items() if isinstance(layer, PackedEpilogue)}
        kernels = {
            name: isa.current_on(layer.weight.device) if isinstance(layer, _program.PACKED) else layer.route()
            for name, layer in packed.items()
        }
        if x is not None:
            hooks = [v.register_forward_pre_hook(partial(_record_route, kernels, k)) for k, v in packed.items()]
            try:
                self(x)
            finally:
                for hook in hooks:
                    hook.remove()
        return [{"name": s["name"], "kind": s["kind"], "kernel": kernels.get(s["name"], "torch")} for s in self.steps]


def _record_route(kernels: dict[str, str], name: str, layer: Any, inputs: tuple) -> None:
    kernels[name] = layer.route(inputs[0])


@torch.inference_mode(False)
@torch.no_grad()
def pack(model: nn.Module, *, exact: bool = False, dtype: torch.dtype = torch.float32) -> PackedModel:
    """The inference form of a network of torch.nn and bnn.nn layers.

    By default weight scale, batch norm, shortcut and RPReLU or PReLU are folded into the binary layer before them, a
    gate's product, batch norm and shortcut become one layer (`GatedAdd`), a Blend whose mean is read becomes one of
    means, and bits stay bits between layers: the arithmetic is reordered, so a logit may differ in its last digits and
    a sign that sat on a tie may flip. `exact=True` keeps the training model's order of float32 operations: every bit
    is equal.

    Args:
        model: torch.fx-traceable (no control flow that depends on data); it is not changed.
        exact: see above.
        dtype: of real-valued layers and of the stream between binary ones, all but the last layer: float32, or
            bfloat16, which is faster where the processor multiplies it (AMX, AVX-512 BF16) and rounds to 8 bits.
            int8: real convolutions and linear layers in 8 bits, the last one, too (`bnn.ops.int8_conv2d`), the stream
            in float16, where values over 65,504 become infinite and logits NaN; fastest on a CPU with AVX2 or AVX-512,
            a slow reference on a GPU. Heads of other kinds stay, and convolutions with groups, dilation, padding by
            name or of another mode, or over 2^17 products a number. Where a real layer with weights stays before the
            last, other than a Blend or a PReLU, the stream and what stays are in bfloat16.

    Raises:
        ValueError: another dtype, bfloat16 or int8 with `exact`, or a layer or function that packed networks don't
            have; it is named, with those that exist.
    """
    dtypes = [torch.float32, torch.bfloat16, torch.int8]
    require(dtype in dtypes, "dtype", f"one of {dtypes}", dtype)
    require(not exact or dtype == torch.float32, "dtype", "torch.float32 with exact=True", dtype)
    training = [(module, module.training) for module in model.modules()]
    try:
        steps, layers = trace(model.eval())
    finally:
        for module, flag in training:
            module.training = flag
    if not exact:
        _folding.fold_real_layers(steps, layers)
    _folding.pack_binary_layers(steps, layers, fold=not exact)
    if dtype == torch.int8:
        _round_real_layers(steps, layers)
    if not exact:
        _keep_bits(steps, layers)
    if dtype != torch.float32:
        name = "bfloat16" if dtype == torch.bfloat16 else _program.dtype_beside_int8(steps, layers)
        _cast_all_but_the_last(name, steps)
        _program.set_dtype(steps, layers)
    if not exact:
        # words are made fastest from channels-last images; exact networks keep the layout: real layers may round by it
        _start_with("channels_last", {}, steps)
    for step in steps:
        if step["kind"] in _program.LAYERS:
            step["args"] = _program.layer_args(layers[step["name"]])
    used = {step["name"]: layers[step["name"]] for step in steps if step["kind"] in _program.LAYERS}
    return PackedModel(steps, used).eval().requires_grad_(False)


def _round_real_layers(steps: list[dict], layers: dict[str, Any]) -> None:
    """Conv2d, with the MaxPool2d that alone reads it, and Linear, with the mean over pixels that it alone reads, become
    their 8-bit forms."""
    for step in list(steps):
        layer: Any = layers.get(step["name"])
        if Int8Linear.can_be(layer):
            layers[step["name"]] = Int8Linear.of(layer)
            _read_images(step, steps, layers)
        elif Int8Conv2d.can_be(layer):
            user, pool = _folding.only_user(step["name"], steps), None
            if user is not None and Int8Conv2d.can_pool(layers.get(user["name"])):
                pool = layers[user["name"]]
                _folding.absorb(step, user, steps, layers)
            layers[step["name"]] = Int8Conv2d.of(layer, pool)
        else:
            continue
        step["kind"] = type(layers[step["name"]]).__name__


def _read_images(linear: dict, steps: list[dict], layers: dict[str, Any]) -> None:
    """Leave the mean over pixels and the flattening before a layer to it, where nothing else reads them."""
    made = {step["name"]: step for step in steps}
    path = [made[name] for name in linear["inputs"] if name in made]
    if path and _folding.flattens(path[0], layers):
        path += [made[name] for name in path[0]["inputs"] if name in made]
    if not path or not _folding.averages(path[-1], layers, flat=len(path) == 1):
        return
    if all(_folding.only_user(step["name"], steps) is not None for step in path):
        linear["inputs"] = path[-1]["inputs"]
        layers[linear["name"]].mean = True
        for step in path:
            steps.remove(step)


def _keep_bits(steps: list[dict], layers: dict[str, Any]) -> None:
    """Let a packed layer hand words to the first packed layer that reads its stream, and drop a stream unread."""
    for step in steps:
        producer = layers.get(step["name"])
        if not isinstance(producer, PackedEpilogue):
            continue
        name = step["name"]
        readers = [s for s in _folding.users_of(name, steps) if isinstance(layers.get(s["name"]), _program.PACKED)
                   and s["inputs"][0] == name and producer.dims == layers[s["name"]].dims]  # fmt: skip
        if not readers:
            continue
        reader = layers[readers[0]["name"]]
        shift = reader.shift if reader.shift is not None else torch.zeros_like(producer.scale)
        producer.words, producer.next_shift = True, shift.clone()
        reader.has_shift, reader.shift = False, None
        readers[0]["inputs"][0] = name + _program.WORDS
        if not _folding.users_of(name, steps):
            producer.stream = False
            readers[0]["inputs"][0] = name


def _start_with(kind: str, args: dict, steps: list[dict]) -> None:
    """A function in front of everything that reads the input, but for 8-bit layers: they take any dtype and layout."""
    name = free_name(kind, steps)
    readers = [step for step in _folding.users_of(_program.INPUT, steps) if step["kind"] not in _program.INT8]
    if not readers:
        return
    for step in readers:
        step["inputs"] = [name if value == _program.INPUT else value for value in step["inputs"]]
    steps.insert(0, {"name": name, "kind": kind, "inputs": [_program.INPUT], "args": args})


def _cast_all_but_the_last(dtype: str, steps: list[dict]) -> None:
    last = steps[-1]
    for name in () if last["kind"] in _program.INT8 else dict.fromkeys(last["inputs"]):
        back = free_name("cast", steps)
        steps.insert(-1, {"name": back, "kind": "cast", "inputs": [name], "args": {"dtype": "float32"}})
        last["inputs"] = [back if value == name else value for value in last["inputs"]]
    _start_with("cast", {"dtype": dtype}, steps)
