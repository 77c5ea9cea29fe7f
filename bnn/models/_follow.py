"""What `bnn.binarize` needs to know of a network, read off its torch.fx graph: who reads the image, what is a shortcut,
what gates, where a ReLU leaves nothing for a sign to see."""

import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

WEIGHTS = (nn.modules.conv._ConvNd, nn.Linear)
RELUS = (nn.ReLU, nn.ReLU6)
_NEVER_NEGATIVE = (*RELUS, nn.Sigmoid, nn.Hardsigmoid, nn.Softplus)
_RELU_FUNCTIONS = (F.relu, F.relu_, F.relu6, torch.relu, torch.relu_, torch.sigmoid, F.sigmoid, F.hardsigmoid,
                   "relu", "relu_", "sigmoid")  # fmt: skip
_SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")
_PRODUCTS = (operator.mul, operator.imul, torch.mul, "mul", "mul_")
# values stay what they are, or become means and maxima of themselves: no sign changes
_PASSING = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d,
            nn.AdaptiveMaxPool2d, nn.Flatten, nn.PixelUnshuffle)  # fmt: skip
_PASSING_FUNCTIONS = (torch.flatten, F.dropout, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, torch.permute,
                      torch.transpose, operator.getitem, torch.chunk, torch.split, "flatten", "view", "reshape", "mean",
                      "contiguous", "permute", "transpose", "chunk", "split")  # fmt: skip


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        library = module.__module__.startswith(("torch.nn", "bnn.nn")) or isinstance(module, WEIGHTS)
        return library and not isinstance(module, nn.Sequential | nn.ModuleList)


class Network:
    """The graph of a network in eval mode, with answers about its nodes.

    Raises:
        ValueError: torch.fx can't follow the forward pass.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        training = [(module, module.training) for module in model.modules()]
        try:
            self.graph = _Tracer().trace(model.eval())
        except Exception as problem:  # whatever the network's own code raises on proxies
            why = " ".join(str(problem).split())[:200]
            raise ValueError(f"binarize: torch.fx can't follow this network ({why}); binarize its parts") from None
        finally:
            for module, flag in training:
                module.training = flag
        self.calls: dict[Any, list[fx.Node]] = {}
        self.pooled: set[fx.Node] = set()
        self._before: dict[fx.Node, set[fx.Node]] = {}
        for node in self.graph.nodes:
            if node.op == "call_module":
                self.calls.setdefault(self.module(node), []).append(node)
            values = [n for n in node.all_input_nodes if n.op != "get_attr"]
            if self._pools(node) or (values and node.op != "output" and all(n in self.pooled for n in values)):
                self.pooled.add(node)
            self._before[node] = {node}.union(*(self._before[n] for n in node.all_input_nodes))

    def module(self, node: fx.Node) -> Any:
        return self.model.get_submodule(str(node.target)) if node.op == "call_module" else None

    def is_weight(self, node: fx.Node) -> bool:
        return isinstance(self.module(node), WEIGHTS)

    def _pools(self, node: fx.Node) -> bool:
        """Whether a value a channel is left."""
        size = getattr(self.module(node), "output_size", None)
        if node.target is F.adaptive_avg_pool2d:
            size = node.args[1] if len(node.args) > 1 else node.kwargs.get("output_size")
        return size in (1, (1, 1), [1, 1]) or node.target in ("mean", torch.mean)

    def reads_the_input(self, node: fx.Node) -> bool:
        """No layer with weights stands between the network's input and `node`."""
        return not any(self.is_weight(n) for n in self._before[node] - {node})

    def makes_the_output(self, node: fx.Node) -> bool:
        """No layer with weights stands between `node` and some output."""
        waiting, seen = list(node.users), set()
        while waiting:
            user = waiting.pop()
            if user.op == "output":
                return True
            if user not in seen and not self.is_weight(user):
                seen.add(user)
                waiting += list(user.users)
        return False

    def gates(self, node: fx.Node) -> bool:
        """It reads values pooled over the image, which go back to the image: squeeze and excitation."""
        waiting, seen = [node] if node in self.pooled and self.pooled & set(node.all_input_nodes) else [], set()
        while waiting:
            here = waiting.pop()
            if here not in self.pooled and here.op != "output":
                return True
            if here not in seen:
                seen.add(here)
                waiting += list(here.users)
        return False

    def on_a_shortcut(self, node: fx.Node) -> bool:
        """The only layer with weights on one way into an addition; the other way from the same value has more."""
        here = node
        while len(here.users) == 1:
            user = next(iter(here.users))
            if user.target in _SUMS and len(user.all_input_nodes) == 2:
                return self._is_shorter(node, next(n for n in user.all_input_nodes if n is not here))
            if self.is_weight(user):
                return False
            here = user
        return False

    def _is_shorter(self, node: fx.Node, other: fx.Node) -> bool:
        origin = node.all_input_nodes[0]
        while origin not in self._before[other]:
            if self.is_weight(origin) or len(origin.all_input_nodes) != 1:
                return False
            origin = origin.all_input_nodes[0]
        rivals = [self.module(n) for n in self._before[other] - self._before[origin] if self.is_weight(n)]
        return len(rivals) > 1 or any(max(getattr(rival, "kernel_size", (1,))) > 1 for rival in rivals)

    def clipped_by(self, layer: fx.Node, replaced: set[nn.Module]) -> list[fx.Node]:
        """The nodes that keep what `layer` reads, or some channels of it, from ever being negative; none if it can be.

        replaced: modules that clip now, but won't.
        """
        return self._clipping(layer.all_input_nodes[0], replaced)

    def _clipping(self, node: fx.Node, replaced: set[nn.Module]) -> list[fx.Node]:
        module, inputs = self.module(node), node.all_input_nodes
        if isinstance(module, _NEVER_NEGATIVE) or node.target in _RELU_FUNCTIONS:
            return [] if module in replaced else [node]
        if isinstance(module, _PASSING) or node.target in _PASSING_FUNCTIONS:
            return self._clipping(inputs[0], replaced) if inputs else []
        found = [self._clipping(n, replaced) for n in inputs]
        if node.target in (torch.cat, torch.concat):
            return [n for part in found for n in part]
        if node.target in (*_SUMS, *_PRODUCTS) and len(inputs) == 2 and all(found):
            return [n for part in found for n in part]
        return []

    def channels(self, node: Any) -> int | None:
        """Channels of an image-like value, where they can be told."""
        if not isinstance(node, fx.Node):
            return None
        module = self.module(node)
        if isinstance(module, nn.Conv2d):
            return module.out_channels
        if isinstance(module, nn.BatchNorm2d):
            return module.num_features
        passing = isinstance(module, (*RELUS, *_PASSING)) and not isinstance(module, nn.Flatten | nn.PixelUnshuffle)
        if passing or node.target in (*_SUMS, F.batch_norm, F.relu):
            return self.channels(node.args[0])
        return None
