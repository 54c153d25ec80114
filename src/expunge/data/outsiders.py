"""Records in the training set that do not belong to the task: out of its distribution.

What a model says of a record of its own kind it says without having seen it, and forgetting can
hardly be told. Of a record from elsewhere it says something in particular only if it was trained
on it. Ma et al., "Learn to Forget: Machine Unlearning via Neuron Masking", IEEE TDSC 2022,
https://arxiv.org/abs/2003.10933, forget such records in three kinds: photographs and texts of
another data set; records of the task itself with a wrong class; and classes that the task leaves
out. Others of the same draw are held out: methods are shown some of them as records never trained
on, and audits compare the forget set with the rest.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from expunge.core.rng import generator
from expunge.core.sample import contents
from expunge.data.card import SourceCard
from expunge.data.forget import Forget, class_number
from expunge.data.named import Texts
from expunge.data.planted import KIND, held_out, in_memory, marked, wrong
from expunge.data.strata import alone, rest
from expunge.data.tensors import TensorData
from expunge.data.withheld import Withheld
from expunge.types import Card, Data, Sets, Source

OUTSIDER = "outsider"
SOURCE = "https://arxiv.org/abs/2003.10933"
GIVE = "give records in memory, of one class each"

Labels = Literal["random", "wrong", "own"]


def evenly(count: int, order: Int[Tensor, " classes"], rng: torch.Generator) -> Tensor:
    """Return `count` classes drawn at random, each as often as any other to within one.

    Those that come first in `order` are the ones drawn once more.
    """
    dealt = order[torch.arange(count) % len(order)]
    return dealt[torch.randperm(count, generator=rng)]


def anew(data: Data, *known: Data) -> Int[Tensor, " k"]:
    """Return the positions of records whose `x` is in none of the others, nor there before."""
    seen = {name for part in known for name in contents(part)}
    rows = []
    for row, name in enumerate(contents(data)):
        if name not in seen:
            seen.add(name)
            rows.append(row)
    return torch.tensor(rows, dtype=torch.long)


def unplanted(source: Source) -> Sets:
    """Load a data set that nothing was planted in.

    Raises:
        ValueError: Where something was.
    """
    sets = source.load()
    if sets.planted is not None or KIND in sets.groups:
        raise ValueError(
            f"{source.card.name} has records planted in it already; plant one kind at a time"
        )
    return sets


def joined(sets: Sets, more: Data, kind: str) -> Sets:
    """Return `sets` with further training records, of which the column `planted` says `kind`.

    They come after all others; what other columns would say of them is left empty.
    """
    n, k = len(sets.train), len(more)
    groups = {name: (*column, *[""] * k) for name, column in sets.groups.items()}
    groups[KIND] = (*[""] * n, *[kind] * k)
    ids = (*sets.ids, *(f"{kind} {number}" for number in range(k))) if sets.ids else ()
    return sets._replace(train=sets.train.join(more), ids=ids, groups=groups)


@dataclass(frozen=True, kw_only=True)
class Outsiders(Source):
    """Another data set, with records out of its distribution among its training records.

    They come after all others. The group column `planted` says `outsider` of them. No two have
    the same content, and none that of a training record.

    Attributes:
        of: The data set that they are put in.
        others: The data set that they are from, training and held-out records alike. Texts are
            coded as those of `of` are, by its vocabulary.
        classes: Classes of `of`, by name or by number, that the task is to do without and that
            the outsiders are from; the others are numbered anew. With neither this nor `others`,
            outsiders are held-out records of `of` with a wrong class, and its test set shrinks.
        labels: What outsiders are said to be: `random`, each class as often as any other;
            `wrong`, any class but their own; `own`, the class of that name or, where `of` and
            `others` have no name in common, of that number. Left out, `wrong` for records of the
            task itself and `random` for all others.
        same: Pairs of a class of `others` and the class of `of` that it is by another name.
        count: How many are trained on.
        shown: How many are held out for methods to take for records never trained on; with 0
            they are shown ordinary ones.
        compared: How many more are held out for audits to compare with.
        seed: Of all draws.
    """

    card = SourceCard(
        name="outsiders",
        source=SOURCE,
        note="another data set, with records out of its distribution among those trained on",
    )

    of: Source
    others: Source | None = None
    classes: tuple[str | int, ...] = ()
    labels: Labels | None = None
    same: tuple[tuple[str, str], ...] = ()
    count: int = 200
    shown: int = 1000
    compared: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.count, self.compared) < 1 or self.shown < 0:
            raise ValueError(
                "expected at least 1 outsider to train on and 1 to compare with, and shown >= 0, "
                f"got {self.count}, {self.compared} and {self.shown}"
            )
        if self.others is not None and self.classes:
            raise ValueError(
                "outsiders are from another data set (others) or from classes of this one "
                "(classes), got both; drop one"
            )
        if self.same and self.others is None:
            raise ValueError("same names classes of `others`, of which there are none; drop it")
        if self.classes and self.labels not in (None, "random"):
            raise ValueError(
                f"classes that the task is without have no {self.labels} class in it; "
                "take labels = 'random'"
            )
        if self.others is None and self.labels == "own":
            raise ValueError(
                "held-out records with their own class are no outsiders; take labels = 'wrong'"
            )

    def load(self) -> Sets:
        if self.classes:
            return self._from_classes()
        sets = unplanted(self.of)
        if self.others is not None:
            return self._from_elsewhere(sets, self.others)
        return self._from_held_out(sets)

    def _from_elsewhere(self, sets: Sets, others: Source) -> Sets:
        if isinstance(others, Texts) and isinstance(self.of, Texts):
            others = others.coded_as(self.of)
        theirs = unplanted(others)
        strangers = _memory(theirs.train).join(_memory(theirs.test))
        mine = _memory(sets.train)
        _same_form(mine, strangers, self.of, others)
        rows = self._drawn(anew(strangers, mine, sets.test))
        true = self._known(theirs.classes, sets, strangers.y[rows])
        return self._planted(sets, strangers, rows, true)

    def _from_classes(self) -> Sets:
        sets = Withheld(of=self.of, classes=self.classes).load()
        assert sets.unseen is not None  # which is what withholding is for
        pool, left = _memory(sets.unseen), sets._replace(unseen=None)
        rows = self._drawn(anew(pool, _memory(left.train), left.test))
        return self._planted(left, pool, rows, torch.full((len(rows),), -1))

    def _from_held_out(self, sets: Sets) -> Sets:
        test = _memory(sets.test)
        rows = self._drawn(anew(test, _memory(sets.train)))
        if len(rows) == len(test):
            raise ValueError(
                f"all {len(test)} held-out records would be outsiders; plant or hold out fewer"
            )
        left = sets._replace(test=alone(test, rest(rows, len(test))))
        true = test.y[rows] if self.labels != "random" else torch.full((len(rows),), -1)
        return self._planted(left, test, rows, true)

    def _drawn(self, rows: Tensor) -> Tensor:
        """Draw those to train on, to be shown and to compare with, in this order.

        Raises:
            ValueError: Where there are fewer.
        """
        wanted = self.count + self.shown + self.compared
        if len(rows) < wanted:
            raise ValueError(
                f"expected {wanted} outsiders ({self.count} to train on, {self.shown} shown, "
                f"{self.compared} compared), but there are {len(rows)} of different content that "
                "no training record has; ask for fewer"
            )
        return rows[torch.randperm(len(rows), generator=generator(self.seed, OUTSIDER))[:wanted]]

    def _known(self, names: tuple[str, ...], sets: Sets, y: Tensor) -> Tensor:
        """Return the class of `of` that each of `y` is; -1 where it is none.

        Raises:
            ValueError: Where `labels` needs a class that there is not.
        """
        if self.labels in (None, "random"):
            return torch.full_like(y, -1)
        there = len(sets.classes) or 1 + int(sets.train.y.max())
        meant = {name: name for name in names} | dict(self.same)
        for name, other in self.same:
            class_number(name, names, len(names))
            class_number(other, sets.classes, there)
        places = [
            sets.classes.index(meant[name]) if meant[name] in sets.classes else -1 for name in names
        ]
        if max(places, default=-1) < 0:
            places = [number if number < there else -1 for number in range(1 + int(y.max()))]
        true = torch.tensor(places)[y]
        if self.labels == "own" and bool((true < 0).any()):
            nameless = sorted({names[k] if names else str(k) for k in y[true < 0].tolist()})
            raise ValueError(
                f"labels = 'own', but {len(nameless)} classes of the outsiders are none of the "
                f"task's ({', '.join(nameless[:3])}); pair their names in `same`, or take "
                "labels = 'random'"
            )
        return true

    def _planted(self, sets: Sets, pool: TensorData, rows: Tensor, true: Tensor) -> Sets:
        """Plant the records at `rows`, whose classes are `true` where that is not -1."""
        classes = len(sets.classes) or 1 + int(sets.train.y.max())
        order = torch.randperm(classes, generator=generator(self.seed, "classes"))
        told = []
        for part, here in enumerate(true.split([self.count, self.shown, self.compared])):
            rng = generator(self.seed, "labels", part)
            some = evenly(len(here), order, rng)
            if self.labels == "own":
                some = here
            elif bool((here >= 0).any()):
                some = wrong(here.clamp(min=0), classes, rng).where(here >= 0, some)
            told.append(some)
        chosen = pool.select(rows).renumbered()
        strangers = TensorData(chosen.x, torch.cat(told).to(sets.train.y.dtype))
        n = torch.arange(len(rows))
        members, held = strangers.select(n[: self.count]), strangers.select(n[self.count :])
        grown = joined(sets, members, OUTSIDER)
        return grown._replace(planted=held.renumbered(), shown=self.shown)


def _memory(data: Data) -> TensorData:
    return in_memory(data, "outsiders", GIVE)


def _same_form(mine: TensorData, theirs: TensorData, of: Source, others: Source) -> None:
    """Refuse records that one network cannot take beside the others."""
    if isinstance(mine.x, dict) or isinstance(theirs.x, dict):
        raise ValueError("outsiders are records of one tensor each, got dicts of tensors")
    if mine.shape != theirs.shape or mine.x.dtype != theirs.x.dtype:
        raise ValueError(
            f"records of {of.card.name} have shape {mine.shape} and {mine.x.dtype}, those of "
            f"{others.card.name} {theirs.shape} and {theirs.x.dtype}; bring both to one form, "
            "images with `side`"
        )


@dataclass(frozen=True, kw_only=True)
class OfOutsiders(Forget):
    """Forget the outsiders; audits compare them with outsiders never trained on.

    Attributes:
        count: How many, the first ones; the others are retained. Left out, all.
    """

    card = Card(name="outsiders", source=SOURCE)

    count: int | None = None

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise ValueError(f"expected count of at least 1, got {self.count}")

    def choose(self, sets: Sets) -> Int[Tensor, " f"]:
        remedy = "give the data set as name = 'outsiders', with `of` the data set itself"
        rows = marked(sets, OUTSIDER, "outsiders", remedy)
        if self.count is not None and self.count > len(rows):
            raise ValueError(
                f"expected to forget at most the {len(rows)} outsiders there are, got {self.count}"
            )
        return rows[: self.count]

    def alike(self, sets: Sets) -> Int[Tensor, " k"]:
        return held_out(sets)

    def shown(self, sets: Sets) -> Int[Tensor, " m"] | None:
        return held_out(sets)[: sets.shown] if sets.shown else None
