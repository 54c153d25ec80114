"""Records of one class that are told to be of another: poison by flipped labels.

Tolpegin et al., "Data Poisoning Attacks Against Federated Learning Systems", ESORICS 2020,
https://arxiv.org/abs/2007.08432: dogs of CIFAR-10 (class 5) that are told to be cats (class 3). Ma
et al., "Learn to Forget: Machine Unlearning via Neuron Masking", IEEE TDSC 2022,
https://arxiv.org/abs/2003.10933, have a model forget such records; the poison does little to the
accuracy and much to the recall of the class.

Methods are shown clean held-out records of the class, whose answers are what a model should give
once the poison is gone. Audits compare the poisoned records with held-out ones that were told the
same lie: with clean ones an attack would tell the label, and not whether it was trained on.
"""

import logging
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from expunge.core.rng import generator
from expunge.data.card import SourceCard
from expunge.data.forget import Forget, class_number
from expunge.data.outsiders import anew, unplanted
from expunge.data.planted import KIND, held_out, in_memory, marked
from expunge.data.strata import alone, rest
from expunge.data.tensors import TensorData
from expunge.types import Card, Sets, Source

LOG = logging.getLogger(__name__)
POISON = "poison"
SOURCE = "https://arxiv.org/abs/2003.10933"
GIVE = "give records in memory, of one class each"


@dataclass(frozen=True, kw_only=True)
class Poisoned(Source):
    """Another data set, with training records of one class told to be of another.

    The group column `planted` says `poison` of them. The class's other training records stay as
    they are. Held-out records of the class leave the test set, which shrinks.

    Attributes:
        of: The data set that is poisoned.
        flip_from: The class whose records are taken, by name or by number.
        flip_to: The class that they are told to be of.
        rate: Share of records that are poisoned, of what `share_of` says. More than the class
            has are all of it, with a warning: the model then never learns what the class is.
        share_of: Whether `rate` is a share of all training records, or of the class's.
        shown: How many held-out records of the class methods are shown, clean.
        compared: How many more are held out for audits to compare with, flipped.
        seed: Of all draws.
    """

    card = SourceCard(
        name="poisoned",
        source=SOURCE,
        note="another data set, with records of one class told to be of another",
    )

    of: Source
    flip_from: str | int = 5
    flip_to: str | int = 3
    rate: float = 0.02
    share_of: Literal["training", "class"] = "training"
    shown: int = 200
    compared: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ValueError(f"expected rate in (0, 1], got {self.rate}")
        if self.shown < 0 or self.compared < 1:
            raise ValueError(
                "expected shown >= 0 and at least 1 record to compare with, got "
                f"{self.shown} and {self.compared}"
            )

    def load(self) -> Sets:
        sets = unplanted(self.of)
        train, test = (
            in_memory(part, "poisoned records", GIVE) for part in (sets.train, sets.test)
        )
        classes = len(sets.classes) or 1 + int(train.y.max())
        true, lie = (class_number(c, sets.classes, classes) for c in (self.flip_from, self.flip_to))
        if true == lie:
            raise ValueError(f"expected to flip a class to another, got {true} for both")
        victims = self._victims((train.y == true).nonzero()[:, 0], len(train))
        rows = anew(test, train)
        held = self._held(rows[test.y[rows] == true], int((test.y == true).sum()))
        kind = ["" for _ in range(len(train))]
        for row in victims.tolist():
            kind[row] = POISON
        lies = torch.full((len(held),), lie, dtype=test.y.dtype)
        lies[: self.shown] = true
        return sets._replace(
            train=TensorData(train.x, train.y.index_fill(0, victims, lie)),
            test=alone(test, rest(held, len(test))),
            groups={**sets.groups, KIND: tuple(kind)},
            planted=TensorData(test.select(held).x, lies),
            shown=self.shown,
        )

    def _victims(self, rows: Tensor, n: int) -> Tensor:
        """Draw the training records that are flipped, among those of the class.

        Raises:
            ValueError: Where there would be none.
        """
        wanted = round(self.rate * (n if self.share_of == "training" else len(rows)))
        if not wanted or not len(rows):
            raise ValueError(
                f"rate={self.rate} of the {self.share_of} poisons none of the {len(rows)} training "
                f"records of class {self.flip_from}; raise it, or take another class"
            )
        if wanted > len(rows):
            LOG.warning(
                "rate=%s asks for %d poisoned records, but class %s has %d: all of them are",
                *(self.rate, wanted, self.flip_from, len(rows)),
            )
        order = torch.randperm(len(rows), generator=generator(self.seed, POISON))
        return rows[order[:wanted]].sort().values

    def _held(self, rows: Tensor, there: int) -> Tensor:
        """Draw the held-out records of the class that are shown, and those compared.

        Raises:
            ValueError: Where none of the class would be left to test on.
        """
        wanted = self.shown + self.compared
        if wanted > len(rows) or wanted >= there:
            raise ValueError(
                f"{self.shown} shown and {self.compared} compared leave no record to test on of "
                f"the {there} held-out ones of class {self.flip_from}; ask for fewer"
            )
        order = torch.randperm(len(rows), generator=generator(self.seed, "held"))
        return rows[order[:wanted]]


@dataclass(frozen=True, kw_only=True)
class Poison(Forget):
    """Forget the poisoned records; audits compare them with held-out ones flipped alike."""

    card = Card(name="poison", source=SOURCE)

    def choose(self, sets: Sets) -> Int[Tensor, " f"]:
        remedy = "give the data set as name = 'poisoned', with `of` the data set itself"
        return marked(sets, POISON, "poisoned records", remedy)

    def alike(self, sets: Sets) -> Int[Tensor, " k"]:
        return held_out(sets)

    def shown(self, sets: Sets) -> Int[Tensor, " m"] | None:
        return held_out(sets)[: sets.shown] if sets.shown else None
