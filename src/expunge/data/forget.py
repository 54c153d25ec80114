"""Which records are to be forgotten."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from expunge.config import suggest
from expunge.core.rng import generator
from expunge.types import Card, Preset, Sets, Settings

RECALL = "Sui et al., IJCAI 2025, https://arxiv.org/abs/2506.19486, table 5: half of five classes"


class Forget(Settings, ABC):
    """A way to say which training records are to be forgotten."""

    card: ClassVar[Card]

    @abstractmethod
    def choose(self, sets: Sets) -> Int[Tensor, " f"]:
        """Return their sorted positions in `sets.train`."""

    def alike(self, sets: Sets) -> Int[Tensor, " k"] | None:
        """Return which held-out records are of the kind that is forgotten; None: all ordinary ones.

        An attack may otherwise tell the kind of a record, and not whether it was trained on.
        Positions are those in `sets.test` and, counting on from there, in `sets.planted`.
        Records that methods are shown may be among them; a split leaves those out.
        """
        del sets

    def shown(self, sets: Sets) -> Int[Tensor, " m"] | None:
        """Return which held-out records of its kind methods are shown; None: ordinary ones.

        Positions are counted as those of `alike` are.
        """
        del sets


def not_both(count: int | None, fraction: float | None) -> None:
    """Refuse a number and a share of records at once.

    Raises:
        ValueError: Where both are given.
    """
    if count is not None and fraction is not None:
        raise ValueError(f"expected count or fraction, got both ({count} and {fraction}); drop one")


def how_many(count: int | None, fraction: float | None, n: int) -> int:
    """Return how many of `n` records are to be forgotten; a tenth where nothing is said.

    Raises:
        ValueError: For none or all of them.
    """
    wanted = round((0.1 if fraction is None else fraction) * n) if count is None else count
    if not 0 < wanted < n:
        raise ValueError(
            f"expected to forget between 1 and {n - 1} of {n} training records, got {wanted}; "
            "change count or fraction"
        )
    return wanted


@dataclass(frozen=True, kw_only=True)
class AtRandom(Forget):
    """Forget records drawn at random.

    Attributes:
        count: How many; give this or `fraction`.
        fraction: What share of the training records; with neither given, a tenth.
        seed: Of the draw; its own, so that methods and models see one split.
    """

    card = Card(name="random")

    count: int | None = None
    fraction: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        not_both(self.count, self.fraction)

    def choose(self, sets: Sets) -> Int[Tensor, " f"]:
        n = len(sets.train)
        count = how_many(self.count, self.fraction, n)
        return torch.randperm(n, generator=generator(self.seed, "split"))[:count].sort().values


@dataclass(frozen=True, kw_only=True)
class OfClass(Forget):
    """Forget whole classes, or a share of each.

    Attributes:
        classes: By name or by number.
        fraction: What share of each class's training records.
        seed: Of the draw where `fraction` is less than 1.
    """

    card = Card(
        name="class",
        presets={
            name: Preset({"classes": classes, "fraction": 0.5}, RECALL)
            for name, classes in (
                ("recall_cifar10", [1, 3, 5, 7, 9]),
                ("recall_cifar100", [10, 30, 50, 70, 90]),
                ("recall_pet37", [1, 8, 15, 21, 29]),
                ("recall_flowers102", [50, 72, 76, 88, 93]),
            )
        },
    )

    classes: tuple[str | int, ...]
    fraction: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"expected fraction in (0, 1], got {self.fraction}")

    def choose(self, sets: Sets) -> Int[Tensor, " f"]:
        y = sets.train.y.cpu()
        if y.dim() != 1 or y.is_floating_point():
            raise ValueError("these records have no classes to forget; choose by `ids` or `random`")
        count = max(len(sets.classes), int(y.max()) + 1)
        chosen = []
        for number in {class_number(name, sets.classes, count) for name in self.classes}:
            rows = (y == number).nonzero()[:, 0]
            share = round(self.fraction * len(rows))
            order = torch.randperm(len(rows), generator=generator(self.seed, "split", number))
            chosen.append(rows[order[:share]])
        return torch.cat(chosen).sort().values if chosen else torch.empty(0, dtype=torch.long)


def class_number(name: str | int, classes: Sequence[str], count: int) -> int:
    """Return the number of a class given by name, or by number in either form.

    Raises:
        ValueError: When there is none of that name or number.
    """
    if isinstance(name, str):
        if name in classes:
            return list(classes).index(name)
        if not name.isdigit():
            raise ValueError(suggest(name, classes or map(str, range(count)), "class"))
    if not 0 <= int(name) < count:
        raise ValueError(f"expected a class number from 0 to {count - 1}, got {name}")
    return int(name)


@dataclass(frozen=True, kw_only=True)
class OfGroup(Forget):
    """Forget all records with one of some values in a column: a person, a site, a month.

    Attributes:
        column: One of the data set's group columns.
        values: Whose records are to be forgotten.
    """

    card = Card(name="group")

    column: str
    values: tuple[str, ...]

    def choose(self, sets: Sets) -> Int[Tensor, " f"]:
        if not sets.groups:
            raise ValueError("this data set has no group columns; choose by `class` or `ids`")
        if self.column not in sets.groups:
            raise ValueError(suggest(self.column, sets.groups, "group column"))
        column = sets.groups[self.column]
        known = set(column)
        for value in self.values:
            if value not in known:
                near = sorted(known) if len(known) <= 1000 else sorted(known)[:1000]
                raise ValueError(suggest(value, near, f"value of '{self.column}'"))
        wanted = set(self.values)
        return torch.tensor([i for i, v in enumerate(column) if v in wanted], dtype=torch.long)


@dataclass(frozen=True, kw_only=True)
class ById(Forget):
    """Forget the records of a list; an id that several records carry names them all.

    Attributes:
        path: A text file with one id per line.
        ids: The ids themselves, instead of a file. Where the data set has none, positions in
            the training set, from 0.
    """

    card = Card(name="ids")

    path: str | None = None
    ids: tuple[str | int, ...] = ()

    def __post_init__(self) -> None:
        if (self.path is None) == (not self.ids):
            raise ValueError("expected ids either in a file (path) or in place (ids), not both")

    def choose(self, sets: Sets) -> Int[Tensor, " f"]:
        n = len(sets.train)
        names = sets.ids or tuple(map(str, range(n)))
        wanted = {str(name): None for name in self._listed()}  # a dict keeps their order
        known = set(names)
        missing = [name for name in wanted if name not in known]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(wanted)} ids are not in the data "
                f"(first: {', '.join(missing[:3])}); its {n} training records have ids "
                f"like {', '.join(names[:3])}"
            )
        return torch.tensor([i for i, v in enumerate(names) if v in wanted], dtype=torch.long)

    def _listed(self) -> Sequence[str | int]:
        if self.path is None:
            return self.ids
        try:
            lines = Path(self.path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"cannot read ids from {self.path}: {error}; expected a text file, one id a line"
            ) from None
        return [line.strip() for line in lines if line.strip()]
