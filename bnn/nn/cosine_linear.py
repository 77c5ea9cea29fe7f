"""The cosine classifier: logits from angles alone, so that no class gains by the length of its weight."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnn.nn.activations import require


class CosineLinear(nn.Module):
    """z_k = s cos(theta_k) = s h . w_k / (|h| |w_k|), no bias; a row of zeros has cos = 0.

    Computed in float32 whatever the autocast: bfloat16 has steps of 0.1 at z = 30.

    Args:
        in_features: D of the features h.
        out_features: number of classes K.
        scale: s above 0, to begin with if it is learned. Softmax over K classes needs some log(K) to be sure of one.
        learned: train log s (so that s stays positive); else s is fixed.

    Shape: [N, D] -> [N, K] float32.

    Raises:
        ValueError: an argument out of range.

    Equals scale * F.linear(F.normalize(h), F.normalize(weight)).
    Source: Gidaris and Komodakis, CVPR 2018 (learned s); LDAM's authors' code (fixed s).
    """

    FIELDS = ("in_features", "out_features")
    log_scale: Tensor

    def __init__(self, in_features: int, out_features: int, scale: float = 30.0, learned: bool = False) -> None:
        super().__init__()
        for name, size in (("in_features", in_features), ("out_features", out_features)):
            require(type(size) is int and size > 0, name, "a positive integer", size)
        require(0 < scale < float("inf"), "scale", "a number above 0", scale)
        self.in_features, self.out_features, self.learned = in_features, out_features, learned
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # as nn.Linear; the lengths don't matter
        log_scale = torch.tensor(scale).log()
        if learned:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    def forward(self, h: Tensor) -> Tensor:
        with torch.autocast(h.device.type, enabled=False):
            cosines = F.linear(F.normalize(h.float(), dim=1), F.normalize(self.weight.float(), dim=1))
            return self.log_scale.exp() * cosines

    def extra_repr(self) -> str:
        scale = "" if self.log_scale.is_meta else f", scale={self.log_scale.exp():g}"
        return f"{self.in_features}, {self.out_features}{scale}, learned={self.learned}"
