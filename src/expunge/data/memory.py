"""Forget sets graded by how much a model remembers of each record.

Memorisation of a record: how much surer models are of its answer that were trained on it than
models that were not. Feldman and Zhang, "What Neural Networks Memorize and Why", NeurIPS 2020,
https://arxiv.org/abs/2008.03703, with random halves in place of their 70 %.
"""

from dataclasses import dataclass, field, fields
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from expunge.data.forget import Forget, how_many, not_both
from expunge.pool import Shadows
from expunge.types import Card, Sets

Grade = Literal["most", "least", "hardest"]


def memorisation(shadows: Shadows) -> Float[Tensor, " pool"]:
    """Return the mean confidence of models with the record minus that of models without.

    In [-1, 1]; what a model knows of a record without having seen it does not count.
    """
    confidence = shadows.margin.double().sigmoid()
    return _mean(confidence, shadows.member) - _mean(confidence, ~shadows.member)


def left_out(shadows: Shadows) -> Float[Tensor, " pool"]:
    """Return the mean confidence of models that were not trained on the record, in [0, 1]."""
    return _mean(shadows.margin.double().sigmoid(), ~shadows.member)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return values.where(chosen, torch.zeros_like(values)).sum(0) / chosen.sum(0)


@dataclass(frozen=True, kw_only=True)
class ByMemory(Forget):
    """Forget the records that models memorise most, or least, by shadow models' answers.

    Random forget sets hide the risk: most of their records any model knows without them. The
    shadow models are those that audits use too. Held-out records are graded alike, so that an
    attack compares memorable records with records that would have been memorised.

    Attributes:
        grade: `most` or `least` memorised, or `hardest`: of which models are least sure that
            were not trained on them.
        count: How many; give this or `fraction`.
        fraction: What share of the training records; with neither given, a tenth.
        shadows: Models to grade by; each record is in half of them.
    """

    card = Card(name="memorised", source="https://arxiv.org/abs/2008.03703")

    grade: Grade = "most"
    count: int | None = None
    fraction: float | None = None
    shadows: int = 16

    def __post_init__(self) -> None:
        not_both(self.count, self.fraction)
        if self.shadows < 4:
            raise ValueError(
                f"expected at least 4 shadows, got {self.shadows}: each record needs two models "
                "that saw it and two that did not"
            )

    def seeing(self, shadows: Shadows, test: Int[Tensor, " t"]) -> "Graded":
        """Return the same choice with what it is made by.

        Args:
            shadows: Answers on the training records and then on those of the test set.
            test: The latter's positions among the held-out records.
        """
        score = -left_out(shadows) if self.grade == "hardest" else memorisation(shadows)
        settings = {f.name: getattr(self, f.name) for f in fields(ByMemory)}
        return Graded(**settings, score=-score if self.grade == "least" else score, test=test)

    def choose(self, sets: Sets) -> Int[Tensor, " f"]:
        del sets
        raise ValueError(
            "a forget set by memorisation is chosen by shadow models, which take a run: use "
            "`expunge run`, or `seeing(lab.shadows(n), ...)` in Python"
        )


@dataclass(frozen=True, kw_only=True)
class Graded(ByMemory):
    """The same with the grades at hand.

    Attributes:
        score: What records are ranked by, highest first: training, then test records.
        test: The test records' positions among the held-out ones.
    """

    score: Float[Tensor, " pool"] = field(compare=False, repr=False)
    test: Int[Tensor, " t"] = field(compare=False, repr=False)

    def choose(self, sets: Sets) -> Int[Tensor, " f"]:
        n = len(sets.train)
        count = how_many(self.count, self.fraction, n)
        return self.score[:n].argsort(descending=True, stable=True)[:count].sort().values

    def alike(self, sets: Sets) -> Int[Tensor, " k"]:
        """Return held-out records graded high, of every class in the forget set's proportion.

        As many as are graded no lower than the last record to forget, or a tenth of all where
        that is more; of each class the highest.
        """
        held = self.score[len(sets.train) :][: len(self.test)]
        chosen = self.choose(sets)
        enough = max(int((held >= self.score[chosen].min()).sum()), len(held) // 10, 1)
        order = held.argsort(descending=True, stable=True)
        y, there = sets.train.y.cpu()[chosen], sets.test.y.cpu()[self.test]
        if y.dim() != 1:
            return self.test[order[:enough]].sort().values
        rows = []
        for label, goal in zip(*y.unique(return_counts=True), strict=True):
            quota = max(1, round(enough * int(goal) / len(y)))
            rows.append(order[there[order] == label][:quota])
        return self.test[torch.cat(rows)].sort().values
