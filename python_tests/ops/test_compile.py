"""torch.compile of whole training steps and torch.export of packed networks."""

import pytest
import torch
from torch import nn

import bnn


def gradients(model: nn.Module, x: torch.Tensor, labels: torch.Tensor, forward) -> list[torch.Tensor]:
    model.zero_grad()
    loss = nn.functional.cross_entropy(forward(x), labels)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters())]


def _step(backend: str, bound: float) -> None:
    torch._dynamo.reset()
    model = bnn.models.build("reactnet_tiny", 10, 1, 32).eval()  # eval: batch norm keeps its statistics
    x, labels = torch.randn(4, 1, 32, 32), torch.arange(4)
    expected = gradients(model, x, labels, model)
    got = gradients(model, x, labels, torch.compile(model, fullgraph=True, backend=backend))
    for a, b in zip(got, expected, strict=True):
        assert float((a - b).norm()) <= bound * float(b.norm()) + 1e-7


def test_training_step_aot_eager(endpoint_isa):
    _step("aot_eager", 1e-5)


@pytest.mark.slow
def test_training_step_inductor():
    """Inductor contracts float32 operations, so a sign on a tie may flip: looser."""
    _step("inductor", 1e-2)


def test_packed_network_exports():
    model = bnn.pack(bnn.models.build("reactnet_tiny", 10, 1, 32))
    x = torch.randn(2, 1, 32, 32)
    program = torch.export.export(model, (x,))
    assert torch.equal(program.module()(x), model(x))
    graphs = [m for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
    ops = {str(node.target) for module in graphs for node in module.graph.nodes}
    assert "bnn.binary_conv2d_fused.default" in ops
