"""Further models for the audits that need them, by exactly the target's recipe."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from expunge.core.cost import metered
from expunge.core.descent import train
from expunge.core.rng import derive, generator
from expunge.subject import Subject, WhiteBox
from expunge.types import Data, Recipe, Request


@dataclass(frozen=True, kw_only=True)
class Needs:
    """How many further models a question takes.

    Attributes:
        shadows: Models trained on random halves of the records.
    """

    shadows: int = 0


class Order(NamedTuple):
    """A training run: what `train` takes, and all that its result depends on."""

    recipe: Recipe
    data: Data
    seed: int


class Shadow(NamedTuple):
    """A model trained on half of the pool, and which half."""

    subject: Subject
    member: Bool[Tensor, " pool"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Lab:
    """Trains models on demand and keeps them.

    Attributes:
        request: Whose recipe and records are used.
        seed: The lab's own; models differ by number.
        train: Trains in memory, or fetches from a store what an engine has trained.
    """

    request: Request
    seed: int
    train: Callable[[Recipe, Data, int], nn.Module] = train
    made: dict[tuple[str, int], WhiteBox] = field(default_factory=dict)

    @property
    def pool(self) -> Data:
        """What shadows draw from: retain, then forget, then non-members."""
        r = self.request
        return r.retain.join(r.forget).join(r.nonmembers)

    def member(self, number: int) -> Bool[Tensor, " pool"]:
        """Return the half that shadow `number` trains on.

        Shadows 2k and 2k+1 have complementary halves, so that every record is out of
        exactly half of them.
        """
        n = len(self.pool)
        rng = generator(self.seed, "half", number // 2)
        chosen = torch.randperm(n, generator=rng) < n // 2
        return chosen if number % 2 == 0 else ~chosen

    def order(self, kind: str, number: int) -> Order:
        """Return what would be trained; nothing is."""
        data = self.request.retain
        if kind == "shadow":
            data = self.pool.select(self.member(number).nonzero()[:, 0])
        return Order(self.request.recipe, data, derive(self.seed, kind, number))

    def orders(self, needs: Needs) -> list[Order]:
        """Return every training run that `needs` calls for."""
        return [self.order("shadow", i) for i in range(needs.shadows)]

    def retrained(self, count: int) -> tuple[WhiteBox, ...]:
        """Return models that never saw the forget set."""
        return tuple(self.make("retrained", i) for i in range(count))

    def shadows(self, count: int) -> tuple[Shadow, ...]:
        """Return models trained on random halves of the pool."""
        return tuple(Shadow(self.make("shadow", i), self.member(i)) for i in range(count))

    def make(self, kind: str, number: int) -> WhiteBox:
        """Train one model, or return it if it was trained before."""
        name = (kind, number)
        if name not in self.made:
            with metered() as bill:
                net = self.train(*self.order(kind, number))
            self.made[name] = WhiteBox(net, cost=bill.cost)
        return self.made[name]
