"""Neighbors: auxiliary classes that look like a target class, and their images.

A map {"target": ["auxiliary", ...], ...} names them; a class may be the neighbor of several. The file of `bnn curate`,
the flag --neighbors and the field neighbor_map of config.json have this one form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from bnn.data.images import Images

NeighborMap = dict[str, list[str]]


class Joined(Images):
    """The images of `first`, then those of `second`, whose labels go on after `num_classes`."""

    def __init__(self, first: Images, second: Images, num_classes: int) -> None:
        self.first, self.second = first, second
        self.labels = torch.cat([first.labels, second.labels + num_classes])

    def images(self, indices: Tensor | Sequence[int]) -> Tensor:
        index = torch.as_tensor(indices, dtype=torch.int64)
        late = index >= len(self.first)
        parts = self.first.images(index[~late]), self.second.images(index[late] - len(self.first))
        return torch.cat(parts)[late.argsort(stable=True).argsort()]


def read(path: str | Path) -> NeighborMap:
    """The map in a JSON file. Raises FileNotFoundError, or ValueError if it has another form."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"neighbors: no such file: {path}")
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"neighbors: {path} is no JSON ({error})") from None
    lists = found.values() if isinstance(found, dict) else [None]
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists):
        raise ValueError(f'neighbors: {path}: expected {{"target": ["auxiliary", ...], ...}}')
    return found


def auxiliary_classes(neighbors: Mapping[str, Sequence[str]]) -> list[str]:
    """The M auxiliary classes of a map, in the order in which it first names them."""
    return list(dict.fromkeys(name for names in neighbors.values() for name in names))


def check(neighbors: Mapping[str, Sequence[str]], classes: Sequence[str]) -> None:
    """Raises ValueError unless keys are target classes, one at least has a neighbor, and no neighbor is a target."""
    unknown = [name for name in neighbors if name not in set(classes)]
    if unknown:
        raise ValueError(f"neighbors: the map names {_some(unknown)}, the data has no such class")
    both = [name for name in auxiliary_classes(neighbors) if name in set(classes)]
    if both:
        raise ValueError(f"neighbors: {_some(both)} can't be a neighbor: the data has it as a target class")
    if not auxiliary_classes(neighbors):
        raise ValueError("neighbors: the map has no auxiliary class")


def relation(neighbors: Mapping[str, Sequence[str]], classes: Sequence[str]) -> Tensor:
    """bool [K, M]: whether auxiliary class a is a neighbor of target class k."""
    place = {name: a for a, name in enumerate(auxiliary_classes(neighbors))}
    near = torch.zeros(len(classes), len(place), dtype=torch.bool)
    for k, name in enumerate(classes):
        near[k, [place[a] for a in neighbors.get(name, ())]] = True
    return near


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + rest
