"""Softmax regression."""

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from expunge.models.normalize import Level, first
from expunge.models.shapes import answers, flat
from expunge.types import Architecture, Card, Task, later


@dataclass(frozen=True, kw_only=True)
class Linear(Architecture):
    """One linear layer: with cross-entropy and weight decay, a convex problem.

    Attributes:
        mean: Subtracted from inputs; None is 0.5 for images and 0 for features.
        std: Divides inputs; None is 0.25 for images and 1 for features.
        one_vs_rest: Whether each class's probability is a sigmoid of its own, and all are
            then divided by their sum, as in scikit-learn's SGDClassifier. Training minimises
            the sum of the classes' log losses.
    """

    card = Card(name="linear")

    mean: Level | None = None
    std: Level | None = None
    one_vs_rest: bool = later(False)

    def build(self, inputs: tuple[int, ...], outputs: int) -> nn.Module:
        features, classes = flat(inputs, "linear"), answers(outputs, "linear")
        apart = [nn.LogSigmoid()] if self.one_vs_rest else []
        before = first(inputs, self.mean, self.std)
        return nn.Sequential(before, nn.Flatten(), nn.Linear(features, classes), *apart)

    def adapt(self, task: Task) -> Task:
        if not self.one_vs_rest or task.card.name != "classification":
            return task
        asked: Any = task  # its class is beside this package, not below it
        return replace(asked, objective="one_vs_rest")
