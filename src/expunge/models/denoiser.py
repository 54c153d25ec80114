"""A conditional denoiser of feature vectors."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from expunge.models.shapes import row
from expunge.types import Architecture, Card


class DenoiserNet(nn.Module):
    """A perceptron of the noisy record, its time and its condition."""

    def __init__(self, features: int, conditions: int, hidden: int) -> None:
        super().__init__()
        self.condition = nn.Embedding(conditions, hidden)
        self.body = nn.Sequential(
            nn.Linear(features + 1 + hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, features),
        )

    def forward(self, seen: dict[str, Tensor]) -> Tensor:
        parts = seen["x"], seen["time"][:, None], self.condition(seen["condition"])
        return self.body(torch.cat(parts, 1))


@dataclass(frozen=True, kw_only=True)
class Denoiser(Architecture):
    """Two hidden layers and an embedding of the condition.

    Attributes:
        conditions: How many classes a record may be conditioned on.
        hidden: Width of the layers and of the embedding.
    """

    card = Card(name="denoiser")

    denoises = True

    conditions: int
    hidden: int = 32

    def build(self, inputs: tuple[int, ...], outputs: int) -> nn.Module:
        features = row(inputs, "denoiser", "feature vectors")
        if outputs not in (0, features):
            raise ValueError(
                f"'denoiser' gives back as many numbers as it takes, {features}, but the task "
                f"wants {outputs}; its task is 'denoising'"
            )
        return DenoiserNet(features, self.conditions, self.hidden)
