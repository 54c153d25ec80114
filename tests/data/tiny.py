"""The least a recipe needs."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from expunge.types import Architecture, Card, Task


@dataclass(frozen=True, kw_only=True)
class OneLayer(Architecture):
    card = Card(name="one_layer")

    def build(self, inputs: tuple[int, ...], outputs: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(inputs).numel(), outputs))


@dataclass(frozen=True, kw_only=True)
class Pick(Task):
    card = Card(name="pick")

    count: int = 4

    @property
    def outputs(self) -> int:
        return self.count

    def losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, y, reduction="none")

    def divergence(self, teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
        return (teacher - student).square().mean(1)

    def relabel(self, y: Tensor, rng: torch.Generator) -> Tensor:
        return (y + 1) % self.count
