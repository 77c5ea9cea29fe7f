"""Randomness without state: every random choice is a function of what it is for."""

import hashlib

import torch


def derive(*key: int | str) -> int:
    """A number in [0, 2**63) that depends on `key` only: the same on every machine, process and resumed run."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator that starts at `derive(*key)`."""
    return torch.Generator().manual_seed(derive(*key))


def seed_torch(*key: int | str) -> None:
    """Start torch's global generators (all devices) at `derive(*key)`.

    `fit` does so at the start of every epoch with (seed, phase, epoch, process), hence "the state of the random
    number generator" at a checkpoint is the number of the epoch, and resuming needs nothing else.
    """
    torch.manual_seed(derive(*key))
