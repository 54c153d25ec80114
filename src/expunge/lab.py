"""Further models for the audits that need them, by exactly the target's recipe."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from expunge.config import key
from expunge.core.cost import metered
from expunge.core.descent import train
from expunge.core.rng import derive, generator
from expunge.subject import Subject, WhiteBox
from expunge.types import Data, Json, Recipe, Request

Make = Callable[[], Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Needs:
    """How many further models a question takes.

    Attributes:
        shadows: Models trained on random halves of the records.
        unlearned: Models unlearned from the same original, by the same method with other
            seeds, besides the one in question.
        retrained: Models that never saw the forget set, apart from a case's controls.
    """

    shadows: int = 0
    unlearned: int = 0
    retrained: int = 0

    def __str__(self) -> str:
        """Say how many of which, as an error does."""
        kinds = {
            "shadow models": self.shadows,
            "more models that the same method unlearned from the same original": self.unlearned,
            "retrained models of its own": self.retrained,
        }
        return " and ".join(f"{count} {kind}" for kind, count in kinds.items() if count)


class Order(NamedTuple):
    """A training run: what `train` takes, and all that its result depends on."""

    recipe: Recipe
    data: Data
    seed: int


class Shadow(NamedTuple):
    """A model trained on half of the pool, and which half."""

    subject: Subject
    member: Bool[Tensor, " pool"]


class Repeat(NamedTuple):
    """Further runs of the method in question, on the same original.

    Attributes:
        about: Plain data on which their results depend, but for the number.
        run: Returns the model of a run by its number, from 1; the subject's own run is 0.
    """

    about: Json
    run: Callable[[int], nn.Module]


class Memory:
    """Keeps answers in memory, by what they are about."""

    def __init__(self) -> None:
        self._kept: dict[str, Mapping[str, Tensor]] = {}

    def __call__(self, about: Json, make: Make) -> Mapping[str, Tensor]:
        """Return what was made of it before, or make it."""
        name = key(about)
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]


@dataclass(frozen=True, eq=False, kw_only=True)
class Lab:
    """Trains models on demand and keeps them.

    Attributes:
        request: Whose recipe and records are used.
        seed: The lab's own; models differ by number.
        train: Trains in memory, or fetches from a store what an engine has trained.
        keep: Returns what a function gives, or gave when the same was asked before: for
            answers that take minutes and that several cases share.
        unlearn: Runs the method in question again; None where that is not known.
    """

    request: Request
    seed: int
    train: Callable[[Recipe, Data, int], nn.Module] = train
    keep: Callable[[Json, Make], Mapping[str, Tensor]] = field(default_factory=Memory)
    unlearn: Repeat | None = None
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
        wanted = {"shadow": needs.shadows, "retrained": needs.retrained}
        return [self.order(kind, i) for kind, count in wanted.items() for i in range(count)]

    def retrained(self, count: int) -> tuple[WhiteBox, ...]:
        """Return models that never saw the forget set."""
        return tuple(self.make("retrained", i) for i in range(count))

    def shadows(self, count: int) -> tuple[Shadow, ...]:
        """Return models trained on random halves of the pool."""
        return tuple(Shadow(self.make("shadow", i), self.member(i)) for i in range(count))

    def each(self, kind: str, count: int) -> Iterator[WhiteBox]:
        """Yield models one after another, of which no further one is kept: any number fits.

        Args:
            kind: `retrained`, `shadow` or `unlearned`.
            count: How many.
        """
        for number in range(count):
            yield self.made.get((kind, number)) or self._new(kind, number)

    def make(self, kind: str, number: int) -> WhiteBox:
        """Make one model, or return it if it was made before."""
        name = (kind, number)
        if name not in self.made:
            self.made[name] = self._new(kind, number)
        return self.made[name]

    def _new(self, kind: str, number: int) -> WhiteBox:
        with metered() as bill:
            if kind != "unlearned":
                net = self.train(*self.order(kind, number))
            elif self.unlearn is not None:
                net = self.unlearn.run(number + 1)
            else:
                raise ValueError("expected a lab that can unlearn again; give it `unlearn`")
        return WhiteBox(net, cost=bill.cost)
