"""Further models for the audits that need them, by exactly the target's recipe."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from expunge.config import key, plain
from expunge.core import packed
from expunge.core.cost import metered
from expunge.core.descent import Diverged, train
from expunge.core.losses import confidence
from expunge.core.rng import derive, fenced, generator
from expunge.core.view import View
from expunge.data.strata import matched
from expunge.pool import Kept, Pool, Shadows
from expunge.subject import Refused, Score, WhiteBox
from expunge.types import Data, Json, Recipe, Request

log = logging.getLogger(__name__)

Make = Callable[[], Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Needs:
    """How many further models a question takes.

    Attributes:
        shadows: Models trained on random halves of the records.
        unlearned: Models unlearned from the same original, by the same method with other
            seeds, besides the one in question.
        retrained: Models that never saw the forget set, apart from a case's controls.
        unlearned_shadows: Shadow models that unlearned their part of the forget set, and of
            records to compare it with, by the same method.
        shadow_networks: Shadow models of which more is asked than their margins.
    """

    shadows: int = 0
    unlearned: int = 0
    retrained: int = 0
    unlearned_shadows: int = 0
    shadow_networks: int = 0

    def __str__(self) -> str:
        """Say how many of which, as an error does."""
        kinds = {
            "shadow models": self.shadows,
            "more models that the same method unlearned from the same original": self.unlearned,
            "retrained models of its own": self.retrained,
            "shadow models that the same method unlearned": self.unlearned_shadows,
            "shadow models that can be asked again": self.shadow_networks,
        }
        return " and ".join(f"{count} {kind}" for kind, count in kinds.items() if count)


class Order(NamedTuple):
    """A training run: what `train` takes, and all that its result depends on."""

    recipe: Recipe
    data: Data
    seed: int


class Repeat(NamedTuple):
    """Further runs of the method in question, on the same original.

    Attributes:
        about: Plain data on which their results depend, but for the number.
        run: Returns the model of a run by its number, from 1; the subject's own run is 0.
        shadow: Trains a shadow model and unlearns from it as the subject was unlearned: takes
            its request, its own records and its number; None where that is not known.
        method: Plain data on which the results of `shadow` depend.
    """

    about: Json
    run: Callable[[int], nn.Module]
    shadow: Callable[[Request, Data, int], nn.Module] | None = None
    method: Json = None


@runtime_checkable
class Shelf(Protocol):
    """Keeps answers that take minutes and that several cases share, by what they are about."""

    def find(self, about: Json) -> Mapping[str, Tensor] | None:
        """Return what is kept of it."""
        ...

    def put(self, about: Json, tensors: Mapping[str, Tensor]) -> None:
        """Keep it."""
        ...


class Memory:
    """A shelf in memory."""

    def __init__(self) -> None:
        self._kept: dict[str, Mapping[str, Tensor]] = {}

    def find(self, about: Json) -> Mapping[str, Tensor] | None:
        """Return what is kept of it."""
        return self._kept.get(key(about))

    def put(self, about: Json, tensors: Mapping[str, Tensor]) -> None:
        """Keep it."""
        self._kept[key(about)] = tensors


PACK = 16  # small networks trained at the same time


def packs(recipe: Recipe, numbers: Sequence[int]) -> list[Sequence[int]]:
    """Return which models are trained at the same time: several where that is faster."""
    with fenced(0):
        size = PACK if packed.pays(recipe.drawn()) else 1
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def in_packs(orders: Sequence[Order]) -> Iterator[nn.Module]:
    """Train models of one recipe in memory, small ones several at a time."""
    if not orders:
        return
    recipe = orders[0].recipe
    for pack in packs(recipe, range(len(orders))):
        chosen = [orders[number] for number in pack]
        if len(chosen) == 1:
            yield train(*chosen[0])
        else:
            yield from packed.train_together(
                recipe, [order.data for order in chosen], [order.seed for order in chosen]
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class Lab:
    """Trains models on demand and keeps them.

    Attributes:
        request: Whose recipe and records are used.
        test: Records that no method is shown; audits ask of them.
        alike: Unseen records of the forget set's kind, to compare it with; left out, all of `test`.
        records: What shadow models draw from; left out, retain, forget and test.
        seed: The lab's own; retrained models differ by number. Shadows do not depend on it.
        train: Trains models in memory, or fetches from a store what an engine has trained.
        shelf: Keeps answers.
        unlearn: Runs the method in question again; None where that is not known.
        given: Shadow models made elsewhere, instead of those that would be trained.
        known: Whether the target was trained by the request's recipe, as far as is known.
    """

    request: Request
    test: Data | None = None
    alike: Data | None = None
    records: Pool | None = None
    seed: int
    train: Callable[[Sequence[Order]], Iterable[nn.Module]] = in_packs
    shelf: Shelf = field(default_factory=Memory)
    unlearn: Repeat | None = None
    given: Kept | None = None
    known: bool = True
    made: dict[tuple[str, int], WhiteBox] = field(default_factory=dict)
    _halves: dict[int, Order] = field(default_factory=dict, init=False, repr=False)

    def keep(self, about: Json, make: Make) -> Mapping[str, Tensor]:
        """Return what `make` gives, or gave to whoever asked the same before."""
        found = self.shelf.find(about)
        if found is None:
            found = make()
            self.shelf.put(about, found)
        return found

    @cached_property
    def pool(self) -> Pool:
        """What shadows draw from: in the same order for every forget set, where it is given."""
        if self.records is not None:
            return self.records
        data = self.request.retain.join(self.request.forget)
        return Pool(data if self.test is None else data.join(self.test))

    @cached_property
    def nonmembers(self) -> Data:
        """Records never trained on, to set beside the forget set."""
        others = self.test if self.alike is None else self.alike
        if others is None:
            raise Refused("the lab has no records never trained on; give it `test`")
        return beside(self.request, others)

    def order(self, kind: str, number: int) -> Order:
        """Return what would be trained; nothing is.

        Args:
            kind: `retrained` or `shadow`.
            number: Which.
        """
        if kind == "retrained":
            return Order(self.request.recipe, self.request.retain, derive(self.seed, kind, number))
        if number not in self._halves:
            half = View(self.pool.data, self.pool.half(number).nonzero()[:, 0])
            self._halves[number] = Order(self.request.recipe, half, derive(0, kind, number))
        return self._halves[number]

    def retrained(self, count: int) -> tuple[WhiteBox, ...]:
        """Return models that never saw the forget set.

        Raises:
            Refused: Where any is asked for and the target's recipe is not known.
        """
        if count:
            self.check_recipe()
        return tuple(self.make("retrained", i) for i in range(count))

    def each(self, kind: str, count: int) -> Iterator[WhiteBox]:
        """Yield models one after another, of which no further one is kept: any number fits.

        Args:
            kind: `retrained` or `unlearned`.
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

    def shadows(self, count: int) -> Shadows:
        """Return what models trained on random halves of the pool say of it.

        Raises:
            Refused: Where the target's recipe is not known, or given shadows are of another.
        """
        self.check_recipe()
        if self.given is not None:
            recipe = key(self.request.recipe)
            return self.given.fitting(recipe, self.pool.digest, count).checked()
        missing = [i for i in range(count) if self.shelf.find(self.about_shadow(i)) is None]
        self.train_shadows(missing)
        rows = [self.keep(self.about_shadow(i), dict)["margin"] for i in range(count)]
        halves = [self.pool.half(i) for i in range(count)]
        return Shadows(torch.stack(rows), torch.stack(halves)).checked()

    def check_recipe(self) -> None:
        """Refuse to train models for a target of which it is not known how it was trained."""
        if not self.known:
            raise Refused(
                "shadow models and retrained ones must be trained exactly as the target was, and "
                "how that was is not known here; say it: give `training` with the problem, or "
                "audit from a spec"
            )

    def train_shadows(self, numbers: Sequence[int]) -> None:
        """Train these and put their margins on the shelf, each as soon as it is known."""
        models = self.train([self.order("shadow", number) for number in numbers])
        for number, model in zip(numbers, models, strict=True):
            self.shelf.put(self.about_shadow(number), {"margin": self.margins(model)})

    def about_shadow(self, number: int) -> Json:
        """Return what the margins of a shadow model depend on."""
        return {
            "margins of a shadow": number,
            "recipe": plain(self.request.recipe),
            "pool": self.pool.digest,
        }

    def margins(self, model: nn.Module, data: Data | None = None) -> Float[Tensor, " n"]:
        """Return a model's margin on each record, of the pool unless others are given."""
        data, task = self.pool.data if data is None else data, self.request.task
        return WhiteBox(model).score(data, task, confidence, 0)

    def said_by_shadow(self, number: int, about: Json, score: Score) -> Float[Tensor, "pool *_"]:
        """Return what a shadow model says of every record of the pool, besides its margins.

        Args:
            number: Of the shadow; `Pool.half` says what it was trained on.
            about: Plain data that tells this score from any other.
            score: Takes outputs and right answers, returns one row per record.

        Raises:
            Refused: Where the target's recipe is not known.
        """
        self.check_recipe()

        def ask() -> Mapping[str, Tensor]:
            (model,) = self.train([self.order("shadow", number)])
            return {"said": WhiteBox(model).score(self.pool.data, self.request.task, score, 0)}

        return self.keep({"said": plain(about), "by": self.about_shadow(number)}, ask)["said"]

    def unlearned_shadows(self, count: int) -> Shadows:
        """Return what shadow models say that unlearned their part of what is asked about.

        Their answers are on the forget set and then on the non-members, which both are treated
        alike: a shadow unlearns those of them that it was trained on. Shadows that diverge as
        they unlearn are left out.
        """
        self.check_recipe()
        rows: dict[int, Tensor] = {}
        for number in range(count):
            try:
                rows[number] = self._unlearned(number)
            except Diverged as error:
                log.warning("shadow model %d is left out: %s", number, error)
        halves = [self.pool.half(number)[self._asked] for number in rows]
        if len(rows) < count and _thin(halves):
            raise Diverged(
                f"{count - len(rows)} of {count} shadow models diverged as they unlearned, which "
                "leaves some record with fewer than two on a side; lower the method's learning rate"
            )
        shadows = Shadows(torch.stack(list(rows.values())), torch.stack(halves))
        return shadows.finite()

    def _unlearned(self, number: int) -> Float[Tensor, " asked"]:
        about = self.about_unlearned(number)
        return self.keep(about, lambda: {"margin": self.unlearn_shadow(number)})["margin"]

    def about_unlearned(self, number: int) -> Json:
        """Return what the margins of a shadow model that unlearned depend on."""
        method = None if self.unlearn is None else self.unlearn.method
        return self.about_unlearned_by(method, number)

    def about_unlearned_by(self, method: Json, number: int) -> Json:
        """Return the same for a method given as plain data."""
        asked = {"forget": self.request.forget.digest, "beside": self.nonmembers.digest}
        return {"unlearned": method, "shadow": self.about_shadow(number)} | asked

    def unlearn_shadow(self, number: int) -> Float[Tensor, " asked"]:
        """Train a shadow model, have it unlearn, and return its margins on what is asked about."""
        if self.unlearn is None or self.unlearn.shadow is None:
            raise ValueError("expected a lab that can unlearn again; give it `unlearn`")
        request, whole = self.shadow_request(number)
        model = self.unlearn.shadow(request, whole, number)
        return self.margins(model, self.request.forget.join(self.nonmembers))

    def shadow_request(self, number: int) -> tuple[Request, Data]:
        """Return what a shadow model is to unlearn, and the half that it was trained on."""
        member, pool = self.pool.half(number), self.pool
        asked = torch.zeros(len(pool), dtype=torch.bool)
        asked[self._asked] = True
        # A copy of a record asked about goes with it, as in a deletion request by content.
        asked = torch.isin(pool.copies, pool.copies[asked])
        parts = {"forget": member & asked, "retain": member & ~asked}
        chosen = {k: View(pool.data, rows.nonzero()[:, 0]) for k, rows in parts.items()}
        whole = View(pool.data, member.nonzero()[:, 0])
        return replace(self.request, **chosen, trace=None, watch=None), whole

    @cached_property
    def _asked(self) -> Int[Tensor, " asked"]:
        both = (self.request.forget, self.nonmembers)
        return torch.cat([self.pool.find(data) for data in both])

    def _new(self, kind: str, number: int) -> WhiteBox:
        with metered() as bill:
            if kind != "unlearned":
                (net,) = self.train([self.order(kind, number)])
            elif self.unlearn is not None:
                net = self.unlearn.run(number + 1)
            else:
                raise ValueError("expected a lab that can unlearn again; give it `unlearn`")
        return WhiteBox(net, cost=bill.cost)


def _thin(halves: Sequence[Bool[Tensor, " asked"]]) -> bool:
    """Return whether some record has fewer than two models that saw it, or that did not."""
    if not halves:
        return True
    saw = torch.stack(list(halves)).sum(0)
    return bool((saw < 2).any() or (len(halves) - saw < 2).any())


def beside(request: Request, others: Data) -> Data:
    """Return records never trained on, with the forget set's mix of classes.

    Without the same mix an attack may tell classes apart, not membership.
    """
    if request.task.card.name not in ("classification", "denoising"):
        return others  # records without a class
    whole = View(others, torch.arange(len(others)))
    return matched(whole, request.forget, generator(0, "nonmembers"))
