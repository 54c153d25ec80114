"""Distance of the answers from those of retrained models.

Golatkar, Achille and Soatto, "Forgetting Outside the Box", ECCV 2020 (activation
distance), https://arxiv.org/abs/2003.02960; Chundawat et al., "Can Bad Teaching Induce
Forgetting?", AAAI 2023 (Jensen-Shannon), https://arxiv.org/abs/2205.08096

Departures from the papers:
    1. The divergences are the textbook ones, summed over classes; much published code
       swaps the arguments and averages, and exceeds ln 2.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.audit import Answer, Audit, AuditCard, Case
from expunge.core import losses
from expunge.stats import Interval
from expunge.subject import Access, Subject
from expunge.types import Data

SETS = ("forget", "retain", "test", "never_trained")

Distance = Callable[[Tensor, Tensor], Tensor]


def summary(*distances: Tensor) -> dict[str, Tensor]:
    """Return the mean of each group: Jensen-Shannon, then KL, on each of `SETS`."""
    names = [f"{kind}_{name}" for kind in ("js", "kl") for name in SETS]
    return {name: d.double().mean(-1) for name, d in zip(names, distances, strict=True)}


@dataclass(frozen=True, kw_only=True)
class OutputDivergence(Audit):
    """How far, in nats, are the answers from those of retrained models?

    A retrained model that is itself the subject is compared with the others. Without
    another retrained model the distances are from the original's answers, and only
    tell how much more the forget records moved than records never trained on.
    """

    card = AuditCard(
        name="output_divergence",
        source="https://arxiv.org/abs/2205.08096",
        access=Access.PROBABILITIES,
        tasks=("classification", "next_token"),
        decides=True,
        unit="nats",
        peers=True,
    )

    def ask(self, subject: Subject, case: Case, seed: int) -> Answer:
        references = case.retrained or (case.original,)
        sets = (case.request.forget, case.request.retain, case.test, case.nonmembers)

        def answers(subject: Subject, data: Data) -> Tensor:
            return subject.score(data, case.request.task, lambda outputs, _: outputs, seed)

        def distance(data: Data, kind: Distance) -> Tensor:
            mine = answers(subject, data)
            between = torch.stack([kind(answers(r, data), mine) for r in references])
            return between.clamp(min=0).mean(0)  # rounding may go below by 1e-9

        kinds = (losses.jensen_shannon, losses.kl)
        groups = [distance(data, kind) for kind in kinds for data in sets]
        return Answer.over(summary, *groups, null=_mean(groups[SETS.index("never_trained")]))


def _mean(distances: Tensor) -> Interval:
    reach = 1.96 * float(distances.std()) / math.sqrt(len(distances))
    center = float(distances.mean())
    return Interval(center, center - reach, center + reach)
