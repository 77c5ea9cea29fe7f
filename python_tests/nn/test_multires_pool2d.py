"""MultiResPool2d: the module form of the op."""

import pytest
import torch
from torch.nn import functional as F

from bnn.nn import MultiResPool2d


def test_matches_adaptive_pooling():
    x = torch.randn(2, 3, 7, 6)
    for y, size in zip(MultiResPool2d([1, (2, 3), 6])(x), [(1, 1), (2, 3), (6, 6)], strict=True):
        torch.testing.assert_close(y, F.adaptive_avg_pool2d(x, size))


@pytest.mark.parametrize("sizes", [[], [0], [(1, -1)]])
def test_constructor_refuses(sizes):
    with pytest.raises(ValueError, match="sizes"):
        MultiResPool2d(sizes)


def test_enlarging_is_refused():
    with pytest.raises(RuntimeError, match="bnn::multires_pool2d: sizes"):
        MultiResPool2d([8])(torch.randn(2, 3, 7, 6))
