"""Tasks whose answer is one of several classes, once per record or per position."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from expunge.core import losses
from expunge.types import Card, Task, later

Objective = Literal["cross_entropy", "hinge", "plain_hinge", "one_vs_rest"]
SURE = 1e-18  # of 1 less a sigmoid: where it is smaller, derivatives of its logarithm overflow


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """Name the record's class.

    Attributes:
        classes: How many there are.
        weights: Of each class in the training loss; left out, all count alike. Audits
            always see unweighted losses.
        objective: What training minimises: cross-entropy, or a sum over classes, each against
            the rest, of the squared hinge (`hinge`), the hinge itself (`plain_hinge`), or the
            log loss of outputs that are logarithms of sigmoids (`one_vs_rest`), which are taken
            to be surer than 1 - 1e-18 of no class. Audits see cross-entropy whichever it is.
        temperature: What the outputs are margins divided by, which matters to the hinges alone:
            the softmax of the outputs is the posterior.
    """

    card = Card(name="classification")

    classes: int
    weights: tuple[float, ...] | None = None
    objective: Objective = later("cross_entropy")
    temperature: float = later(1.0)

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise ValueError(f"expected at least 2 classes, got {self.classes}")
        if self.weights is not None and len(self.weights) != self.classes:
            raise ValueError(
                f"expected one weight for each of {self.classes} classes, got {len(self.weights)}"
            )
        if not self.temperature > 0:
            raise ValueError(f"expected temperature > 0, got {self.temperature}")

    @property
    def outputs(self) -> int:
        return self.classes

    def losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        return losses.cross_entropy(outputs, y)

    def training_losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        if self.objective == "hinge":
            return losses.squared_hinge(self.temperature * outputs, y)
        if self.objective == "plain_hinge":
            margins = self.temperature * outputs
            return (1 - torch.where(_own(outputs, y), margins, -margins)).clamp(min=0).sum(-1)
        if self.objective == "one_vs_rest":
            rest = (-outputs.clamp(max=-SURE).expm1()).log()
            return -torch.where(_own(outputs, y), outputs, rest).sum(-1)
        return self.losses(outputs, y)

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


def _own(outputs: Tensor, y: Tensor) -> Tensor:
    """Return which output is that of the record's class."""
    return y[:, None] == torch.arange(outputs.shape[-1], device=y.device)


@dataclass(frozen=True, kw_only=True)
class NextToken(Classification):
    """Name the token that follows, at every position; `classes` is the vocabulary."""

    card = Card(name="next_token")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.objective != "cross_entropy":
            raise ValueError(
                f"next_token is trained by cross-entropy, got objective '{self.objective}'; "
                "leave it out"
            )
