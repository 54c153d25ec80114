"""Softmax regression."""

from dataclasses import dataclass

from torch import nn

from expunge.models.normalize import Level, first
from expunge.models.shapes import answers, flat
from expunge.types import Architecture, Card


@dataclass(frozen=True, kw_only=True)
class Linear(Architecture):
    """One linear layer: with cross-entropy and weight decay, a convex problem.

    Attributes:
        mean: Subtracted from inputs; None is 0.5 for images and 0 for features.
        std: Divides inputs; None is 0.25 for images and 1 for features.
    """

    card = Card(name="linear")

    mean: Level | None = None
    std: Level | None = None

    def build(self, inputs: tuple[int, ...], outputs: int) -> nn.Module:
        features, classes = flat(inputs, "linear"), answers(outputs, "linear")
        return nn.Sequential(
            first(inputs, self.mean, self.std), nn.Flatten(), nn.Linear(features, classes)
        )
