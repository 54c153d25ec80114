"""A multi-layer perceptron."""

from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from expunge.models.normalize import Level, first
from expunge.models.shapes import answers, flat, share
from expunge.types import Architecture, Card, later


@dataclass(frozen=True, kw_only=True)
class MLP(Architecture):
    """Hidden layers of linear, BatchNorm and ReLU; images are flattened.

    Attributes:
        hidden: Width of each hidden layer.
        batch_norm: Whether BatchNorm follows each hidden layer.
        dropout: Share of each hidden layer's outputs that training drops, in [0, 1).
        mean: Subtracted from inputs; None is 0.5 for images and 0 for features.
        std: Divides inputs; None is 0.25 for images and 1 for features.
    """

    card = Card(name="mlp")

    hidden: tuple[int, ...] = (128,)
    batch_norm: bool = True
    dropout: float = later(0.0)
    mean: Level | None = None
    std: Level | None = None

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"expected hidden widths of at least 1, got {self.hidden}")
        share(self.dropout)

    def build(self, inputs: tuple[int, ...], outputs: int) -> nn.Module:
        widths = (flat(inputs, "mlp"), *self.hidden)
        layers: list[nn.Module] = [first(inputs, self.mean, self.std), nn.Flatten()]
        for before, after in pairwise(widths):
            layers.append(nn.Linear(before, after))
            if self.batch_norm:
                layers.append(nn.BatchNorm1d(after))
            layers.append(nn.ReLU())
            if self.dropout:
                layers.append(nn.Dropout(self.dropout))
        return nn.Sequential(*layers, nn.Linear(widths[-1], answers(outputs, "mlp")))
