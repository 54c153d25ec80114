"""Records planted in another data set because they are remembered: copies and canaries.

A random forget set hides the risk, since most of its records any model knows without having seen
them. A record that is there many times is remembered: Kandpal, Wallace and Raffel,
"Deduplicating Training Data Mitigates Privacy Risks in Language Models", ICML 2022,
https://arxiv.org/abs/2202.06539. So is a record that nothing else in the data explains, such as
one with a wrong label: Aerni, Zhang and Tramèr, "Evaluations of Machine Learning Privacy Defenses
are Misleading", CCS 2024, https://arxiv.org/abs/2404.17399.

What a model has not seen of a canary it gets wrong, so canaries must be compared with canaries:
each has a held-out twin, of the same class and altered in the same way, on which no model is
trained.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int, Num
from torch import Tensor

from expunge.core.rng import generator
from expunge.data.card import SourceCard
from expunge.data.forget import Forget
from expunge.data.strata import alone, among, rest
from expunge.data.tensors import TensorData
from expunge.types import Card, Data, Sets, Source

KIND = "planted"
COPY_OF = "copy_of"
ALONE = "plant duplicates alone"


def wrong(y: Int[Tensor, " k"], classes: int, rng: torch.Generator) -> Int[Tensor, " k"]:
    """Return another class for each of `y`; all others are equally likely.

    Raises:
        ValueError: Where there is no other class.
    """
    if classes < 2:
        raise ValueError(f"expected at least 2 classes, of which one is wrong, got {classes}")
    shift = torch.randint(1, classes, y.shape, generator=rng)
    return ((y.long() + shift) % classes).to(y.dtype)


def noise(like: Num[Tensor, "n *record"], count: int, rng: torch.Generator) -> Tensor:
    """Return `count` records without content, of the form of `like`.

    Bytes are uniform from 0 to 255. Reals are uniform, in every place, between the smallest and the
    largest that `like` has there.

    Raises:
        ValueError: For other numbers, such as tokens.
    """
    shape = (count, *like.shape[1:])
    if like.dtype == torch.uint8:
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=rng)
    if not like.is_floating_point():
        raise ValueError(
            f"noise is for pictures and measurements, got records of {like.dtype}; plant canaries "
            "with canary = 'label'"
        )
    low, high = like.amin(0), like.amax(0)
    return low + (high - low) * torch.rand(shape, dtype=like.dtype, generator=rng)


def twins(
    wanted: Int[Tensor, " k"], held: Int[Tensor, " n"], rng: torch.Generator
) -> Int[Tensor, " k"]:
    """Return for each class in `wanted` the position in `held` of a record of that class.

    They are drawn at random, and none is taken twice.

    Raises:
        ValueError: Where a class has too few held-out records.
    """
    order = torch.randperm(len(held), generator=rng)
    found = torch.empty(len(wanted), dtype=torch.long)
    for label in wanted.unique():
        places = (wanted == label).nonzero()[:, 0]
        rows = order[held[order] == label]
        if len(rows) < len(places):
            raise ValueError(
                f"every canary needs a held-out twin, but class {int(label)} has "
                f"{len(places)} canaries and {len(rows)} held-out records; plant fewer "
                "canaries, or hold out more records"
            )
        found[places] = rows[: len(places)]
    return found


@dataclass(frozen=True, kw_only=True)
class Planted(Source):
    """Another data set, with copies and canaries among its training records.

    Its groups have two columns more: `planted` says `duplicate`, `canary` or nothing of each
    training record, and `copy_of` of each duplicate the position of the record it was
    drawn as. Copies have the id of their record.

    Attributes:
        of: The data set that they are planted in.
        duplicates: How many training records are there more than once, drawn at random. The
            copies come after all others: the training set grows.
        copies: How often each of them is there.
        canaries: How many training records are made into canaries, drawn at random among the
            others. For each a held-out record of its class becomes its twin and leaves the
            test set, which shrinks.
        canary: `label` gives canary and twin one wrong class, drawn at random; `noise` puts
            noise in the place of what a model sees, each its own, and leaves the class.
        seed: Of all draws.
    """

    card = SourceCard(
        name="planted",
        source="https://arxiv.org/abs/2404.17399",
        note="another data set, with copies and canaries among its training records",
    )

    of: Source
    duplicates: int = 0
    copies: int = 10
    canaries: int = 0
    canary: Literal["label", "noise"] = "label"
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.duplicates, self.canaries) < 0 or self.duplicates + self.canaries == 0:
            raise ValueError(
                "expected a number of duplicates or canaries to plant, "
                f"got {self.duplicates} and {self.canaries}"
            )
        if self.copies < 2:
            raise ValueError(
                f"expected at least 2 copies of each duplicate, its record and one more, "
                f"got {self.copies}"
            )

    def load(self) -> Sets:
        sets = self.of.load()
        n = len(sets.train)
        if sets.planted is not None or KIND in sets.groups:
            raise ValueError(
                f"{self.of.card.name} has records planted in it already; plant duplicates and "
                "canaries in one go"
            )
        if self.duplicates + self.canaries > n:
            raise ValueError(
                f"cannot plant {self.duplicates} duplicates and {self.canaries} canaries among "
                f"{n} training records; plant fewer"
            )
        # From either end of one order, so that neither draw depends on the other's number.
        order = torch.randperm(n, generator=generator(self.seed, "plant"))
        marked = order[: self.canaries].sort().values
        repeated = order[n - self.duplicates :].sort().values
        origins = torch.cat([torch.arange(n), repeated.repeat(self.copies - 1)])
        sets = _told(among(sets, origins), marked, origins)
        return self._with_canaries(sets, marked) if self.canaries else sets

    def _with_canaries(self, sets: Sets, marked: Tensor) -> Sets:
        """Alter the training records at `marked`, and as many held-out ones of their classes."""
        train, test = (in_memory(part, "canaries", ALONE) for part in (sets.train, sets.test))
        y = train.y[marked]
        held = twins(y, test.y, generator(self.seed, "twins"))
        twin, all_of_it = test.select(held).renumbered(), torch.arange(len(held))
        if self.canary == "label":
            classes = len(sets.classes) or 1 + int(train.y.max())
            y = wrong(y, classes, generator(self.seed, "label"))
            train, twin = _relabelled(train, marked, y), _relabelled(twin, all_of_it, y)
        else:
            here, there = (
                noise(_seen(train), len(held), generator(self.seed, "noise", part))
                for part in ("train", "held")
            )
            train, twin = _blurred(train, marked, here), _blurred(twin, all_of_it, there)
        return sets._replace(train=train, test=alone(test, rest(held, len(test))), planted=twin)


def _told(sets: Sets, marked: Tensor, origins: Tensor) -> Sets:
    """Return `sets` with the columns that say which training records were planted.

    Args:
        sets: With the copies in it.
        marked: Positions of the canaries.
        origins: For each training record the position of the one that it is a copy of: its own
            for a record that is there once.
    """
    often = origins.bincount()[origins] > 1
    kind = ["duplicate" if several else "" for several in often.tolist()]
    for row in marked.tolist():
        kind[row] = "canary"
    copied = [
        str(origin) if kind[row] == "duplicate" else ""
        for row, origin in enumerate(origins.tolist())
    ]
    return sets._replace(groups={**sets.groups, KIND: tuple(kind), COPY_OF: tuple(copied)})


def in_memory(data: Data, what: str, otherwise: str) -> TensorData:
    """Return the records, if something can be made of them.

    Args:
        data: The records.
        what: Is to be made.
        otherwise: What else to do, for the message.

    Raises:
        ValueError: For records that are streamed, or that are not of one class each.
    """
    if not isinstance(data, TensorData):
        raise ValueError(
            f"{what} are made of records in memory, but these are streamed; leave `stream` out, "
            f"or {otherwise}"
        )
    if data.y.dim() != 1 or data.y.is_floating_point():
        raise ValueError(
            f"{what} are made of records of one class each, but the answers here are of shape "
            f"{tuple(data.y.shape)} and {data.y.dtype}; {otherwise}"
        )
    return data


def _seen(data: TensorData) -> Tensor:
    """Return what a model sees of the records, if noise can stand in for it."""
    if isinstance(data.x, dict):
        raise ValueError(
            f"noise is for records of one tensor, got {', '.join(data.x)}; plant canaries with "
            "canary = 'label'"
        )
    return data.x


def _relabelled(data: TensorData, rows: Tensor, y: Tensor) -> TensorData:
    return TensorData(data.x, data.y.index_copy(0, rows, y))


def _blurred(data: TensorData, rows: Tensor, x: Tensor) -> TensorData:
    return TensorData(_seen(data).index_copy(0, rows, x), data.y)


@dataclass(frozen=True, kw_only=True)
class Duplicates(Forget):
    """Forget the planted duplicates: every copy, or all but some.

    Audits count each copy as a record. Copies have the same scores, so that intervals and p-values
    over records are those of more records than there are: read them as too narrow.

    Attributes:
        kept: How many copies of each are retained, the first ones. With 1 or more nothing is
            forgotten but repetition: even a retrained model has seen the records.
    """

    card = Card(name="duplicates", source="https://arxiv.org/abs/2202.06539")

    kept: int = 0

    def __post_init__(self) -> None:
        if self.kept < 0:
            raise ValueError(f"expected kept >= 0 copies, got {self.kept}")

    def choose(self, sets: Sets) -> Int[Tensor, " f"]:
        chosen, seen = [], Counter[str]()
        for row in _planted(sets, "duplicate", "duplicates").tolist():
            origin = sets.groups[COPY_OF][row]
            seen[origin] += 1
            if seen[origin] > self.kept:
                chosen.append(row)
        copies = min(seen.values())
        if self.kept >= copies:
            raise ValueError(
                f"kept={self.kept} retains all {copies} copies of each duplicate and forgets none; "
                f"expected at most {copies - 1}"
            )
        return torch.tensor(chosen, dtype=torch.long)


@dataclass(frozen=True, kw_only=True)
class Canaries(Forget):
    """Forget the planted canaries; audits compare them with canaries never trained on."""

    card = Card(name="canaries", source="https://arxiv.org/abs/2404.17399")

    def choose(self, sets: Sets) -> Int[Tensor, " f"]:
        return _planted(sets, "canary", "canaries")

    def alike(self, sets: Sets) -> Int[Tensor, " k"]:
        return held_out(sets)


def held_out(sets: Sets) -> Int[Tensor, " k"]:
    """Return the positions of the held-out planted records, counted on from the test set's."""
    return len(sets.test) + torch.arange(0 if sets.planted is None else len(sets.planted))


def marked(sets: Sets, kind: str, what: str, remedy: str) -> Int[Tensor, " f"]:
    """Return the positions of the training records that were planted as one kind.

    Args:
        sets: The records.
        kind: As the column says it.
        what: To call them.
        remedy: What to do where there are none.

    Raises:
        ValueError: Where there are none.
    """
    column = sets.groups.get(KIND, ())
    rows = [row for row, planted in enumerate(column) if planted == kind]
    if not rows:
        raise ValueError(f"there are no {what} among these training records; {remedy}")
    return torch.tensor(rows, dtype=torch.long)


def _planted(sets: Sets, kind: str, setting: str) -> Int[Tensor, " f"]:
    remedy = (
        "plant them: give the data set as name = 'planted', with `of` the data set and "
        f"`{setting}` how many"
    )
    return marked(sets, kind, setting, remedy)
