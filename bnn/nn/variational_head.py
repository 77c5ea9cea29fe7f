"""The heads of two-stage training: TST and V-TST (Jordahn and Olmos, ICML 2024, arXiv 2405.01196)."""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnn.nn.activations import require

MAX_SAMPLES = 1000
MAX_SEED = 2**31


class VariationalHead(nn.Module):
    """log p(y | h), p the mean over m samples of a Gaussian latent z of a softmax classifier.

        mu = W2 relu(W1 h + b1) + b2,     log sigma^2 = logsigmoid(U2 relu(U1 h + a1) + a2),     so sigma^2 < 1
        z_s = mu + sigma noise_s,  s = 1..m,     p = (1/m) sum_s softmax(V z_s + c)

    The probabilities are averaged, not the logits. `forward` is a function of its input in either mode: noise [m, Z] is
    a buffer, numpy's RandomState(seed).standard_normal (a stream that numpy keeps), the same for every row. It is saved
    with the weights. Training draws fresh noise: `draw`.

    Args:
        in_features: D of the features h.
        out_features: number of classes K.
        latent_features: Z; the two hidden layers have 3 Z units.
        samples: m, 1 to 1000.
        seed: of the noise, 0 to 2**31 - 1.

    Shape: [N, D] -> [N, K], log-probabilities: softmax of the output is p, and what is done to logits can be done to
    them.

    Raises:
        ValueError: an argument out of range.
    """

    FIELDS = ("in_features", "out_features", "latent_features", "samples", "seed")
    noise: Tensor

    def __init__(
        self, in_features: int, out_features: int, latent_features: int, samples: int = 10, seed: int = 0
    ) -> None:
        super().__init__()
        sizes = {"in_features": in_features, "out_features": out_features, "latent_features": latent_features}
        for name, size in sizes.items():
            require(type(size) is int and size > 0, name, "a positive integer", size)
        require(type(samples) is int and 0 < samples <= MAX_SAMPLES, "samples", f"1 to {MAX_SAMPLES}", samples)
        require(type(seed) is int and 0 <= seed < MAX_SEED, "seed", f"0 to {MAX_SEED - 1}", seed)
        self.in_features, self.out_features, self.latent_features = in_features, out_features, latent_features
        self.samples, self.seed = samples, seed
        self.mean = latent_net(in_features, latent_features)
        self.log_variance = latent_net(in_features, latent_features)
        self.output = nn.Linear(latent_features, out_features)
        self.register_buffer("noise", torch.empty(samples, latent_features))
        if not self.noise.is_meta:
            drawn = np.random.RandomState(seed).standard_normal((samples, latent_features))
            self.noise.copy_(torch.from_numpy(drawn))

    def posterior(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """mu and log sigma^2 of q(z | h), each [N, Z]."""
        return self.mean(h), F.logsigmoid(self.log_variance(h))

    def draw(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """For training: logits [N, K] of one z ~ q(z | h) from torch's generator, and KL(q || N(0, I)) [N]."""
        mean, log_variance = self.posterior(h)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        return self.output(z), gaussian_kl(mean, log_variance)

    def forward(self, h: Tensor) -> Tensor:
        mean, log_variance = self.posterior(h)
        z = mean + (0.5 * log_variance).exp() * self.noise.to(mean.dtype)[:, None]  # [m, N, Z]
        log_p = self.output(z).log_softmax(-1)
        return log_p.logsumexp(0) - math.log(self.samples)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)}" for name in self.FIELDS)


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, diag exp(log_variance)) || N(0, I)) = -1/2 sum_d (1 + log s_d^2 - mu_d^2 - s_d^2): [N, Z] -> [N]."""
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(-1)


def latent_net(in_features: int, latent_features: int) -> nn.Sequential:
    """W2 relu(W1 h + b1) + b2 with W1 [3 Z, D], W2 [Z, 3 Z]; no activation after it."""
    hidden = 3 * latent_features
    return nn.Sequential(nn.Linear(in_features, hidden), nn.ReLU(), nn.Linear(hidden, latent_features))


def two_stage_head(
    in_features: int, out_features: int, latent_features: int, samples: int | None = None, seed: int = 0
) -> nn.Module:
    """The head of V-TST, or with `samples` None that of TST: logits = V mu + c, mu the same net without a variance."""
    if samples is None:
        return nn.Sequential(*latent_net(in_features, latent_features), nn.Linear(latent_features, out_features))
    return VariationalHead(in_features, out_features, latent_features, samples, seed)
