"""How far a subject's answers are from those of retrained models, record by record."""

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from expunge.audit import Answer, Case
from expunge.stats import Interval
from expunge.subject import Subject
from expunge.types import Data

SETS = ("forget", "retain", "test", "never_trained")

Distance = Callable[[Tensor, Tensor], Tensor]
"""Takes a retrained model's outputs and the subject's, returns one number per record."""


def distances(subject: Subject, case: Case, kinds: Mapping[str, Distance], seed: int) -> Answer:
    """Return the mean of each kind of distance on each of `SETS`, kind by kind.

    A record's distance is the mean over the case's retrained models. Where there are none it
    is that from the original.

    Args:
        subject: Whose answers; a retrained model is not among those of its own case.
        case: Holds the others.
        kinds: What is measured, by name; the first, on the forget set, is the headline.
        seed: Of the questions, where the task draws them at random.
    """
    references = case.retrained or (case.original,)
    sets = (case.request.forget, case.request.retain, case.test, case.nonmembers)
    names = [f"{kind}_{name}" for kind in kinds for name in SETS]

    def answers(subject: Subject, data: Data) -> Tensor:
        return subject.score(data, case.request.task, lambda outputs, _: outputs, seed)

    def distance(data: Data, kind: Distance) -> Tensor:
        mine = answers(subject, data)
        between = torch.stack([kind(answers(r, data), mine) for r in references])
        return between.clamp(min=0).mean(0)  # rounding may go below by 1e-9

    def summary(*groups: Tensor) -> dict[str, Tensor]:
        return {name: d.double().mean(-1) for name, d in zip(names, groups, strict=True)}

    groups = [distance(data, kind) for kind in kinds.values() for data in sets]
    return Answer.over(summary, *groups, null=typical(groups[SETS.index("never_trained")]))


def typical(scores: Float[Tensor, " n"]) -> Interval:
    """Return the mean over records with its Gaussian interval."""
    reach = 1.96 * float(scores.std()) / math.sqrt(len(scores))
    center = float(scores.mean())
    return Interval(center, center - reach, center + reach)
