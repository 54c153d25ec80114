"""Tasks whose answer is one of several classes, once per record or per position."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.core import losses
from expunge.types import Card, Task


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """Name the record's class.

    Attributes:
        classes: How many there are.
        weights: Of each class in the training loss; left out, all count alike. Audits
            always see unweighted losses.
    """

    card = Card(name="classification")

    classes: int
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise ValueError(f"expected at least 2 classes, got {self.classes}")
        if self.weights is not None and len(self.weights) != self.classes:
            raise ValueError(
                f"expected one weight for each of {self.classes} classes, got {len(self.weights)}"
            )

    @property
    def outputs(self) -> int:
        return self.classes

    def losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        return losses.cross_entropy(outputs, y)

    def divergence(self, teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
        return losses.kl(teacher, student, temperature)

    def relabel(self, y: Tensor, rng: torch.Generator) -> Tensor:
        shift = torch.randint(1, self.classes, y.shape, generator=rng).to(y.device)
        return torch.where(y == losses.PADDING, y, (y + shift) % self.classes)

    def draw(self, outputs: Tensor, y: Tensor, chance: Tensor) -> Tensor:
        below = outputs.double().softmax(-1).cumsum(-1)
        drawn = (below <= chance[..., None]).sum(-1).clamp(max=outputs.shape[-1] - 1)
        return torch.where(y == losses.PADDING, y, drawn)

    def every(self, outputs: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        if y.dim() > 1:
            yield from super().every(outputs, y)
        for answer, p in enumerate(outputs.float().softmax(-1).unbind(-1)):
            yield p, torch.full_like(y, answer)

    def weigh(self, y: Tensor) -> Tensor | None:
        if self.weights is None or y.dim() > 1:
            return None
        return torch.tensor(self.weights, device=y.device)[y]


@dataclass(frozen=True, kw_only=True)
class NextToken(Classification):
    """Name the token that follows, at every position; `classes` is the vocabulary."""

    card = Card(name="next_token")
