"""Zero retrain forgetting: likeness to networks that were never trained at all.

Chundawat, Tarun, Mandal and Kankanhalli, "Can Bad Teaching Induce Forgetting? Unlearning in Deep
Networks Using an Incompetent Teacher", AAAI 2023, https://arxiv.org/abs/2205.08096

Departures from the paper and its code:
    1. The Jensen-Shannon divergence is the textbook one, in bits: 0 for equal answers, 1 for
       answers that share no class, so that the metric fills [0, 1] as the paper says. The code
       takes Kullback and Leibler's divergence with its arguments swapped, and averages over
       classes, which puts nearly every network near 1. `as_published` is the code's number.
    2. Several untrained networks are averaged over; the paper has one, by chance.
    3. The paper reads high values as forgetting, and rightly warns of too high ones. A model that
       never saw the records is not random on them: where the value should be, retrained models
       say, and without them records never trained on.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from expunge.audit import Answer, Audit, AuditCard, Case
from expunge.core import losses
from expunge.core.cost import Cost
from expunge.core.rng import derive, fenced
from expunge.lab import beside
from expunge.peers import typical
from expunge.subject import Access, Subject, WhiteBox
from expunge.types import Data, Request

SETS = ("forget", "never_trained")


def likeness(
    outputs: Float[Tensor, "n *positions classes"], teacher: Float[Tensor, "n *positions classes"]
) -> Float[Tensor, " n"]:
    """Return 1 minus the Jensen-Shannon divergence in bits, in [0, 1]."""
    return (1 - losses.jensen_shannon(outputs, teacher) / math.log(2)).clamp(0, 1)


def as_published(
    outputs: Float[Tensor, "n *positions classes"], teacher: Float[Tensor, "n *positions classes"]
) -> Float[Tensor, " n"]:
    """Return 1 minus what the paper's code takes for that divergence; it has no lower bound."""
    p, q = (part.double().log_softmax(-1) for part in (outputs, teacher))
    m = torch.logaddexp(p, q) - math.log(2)
    swapped = 0.5 * m.exp() * (2 * m - p - q)
    return 1 - swapped.reshape(len(p), -1).mean(1)


def summary(*groups: Tensor) -> dict[str, Tensor]:
    """Return the means on each of `SETS`, then the code's on the forget set."""
    names = [*SETS, "as_published"]
    return {name: group.double().mean(-1) for name, group in zip(names, groups, strict=True)}


@dataclass(frozen=True, kw_only=True)
class ZeroRetrainForgetting(Audit):
    """How much, from 0 to 1, does the model answer like networks that were never trained?

    Answering at random is not having forgotten, so this does not decide.

    Attributes:
        teachers: Untrained networks that are averaged over.
    """

    card = AuditCard(
        name="zero_retrain_forgetting",
        source="https://arxiv.org/abs/2205.08096",
        access=Access.PROBABILITIES,
        alone=True,
        tasks=("classification", "next_token"),
        unit="1 minus the Jensen-Shannon divergence in bits",
    )

    teachers: int = 3

    def __post_init__(self) -> None:
        if self.teachers < 1:
            raise ValueError(f"expected at least 1 teacher, got {self.teachers}")

    def work(self, request: Request, test: Data) -> Cost:
        asked = len(request.forget) + len(beside(request, test))
        return Cost(forward=self.teachers * asked)

    def ask(self, subject: Subject, case: Case, seed: int) -> Answer:
        task, sets = case.request.task, (case.request.forget, case.nonmembers)
        likes, published = [], []
        for number in range(self.teachers):
            teacher = self._teacher(case, derive(seed, "teacher", number))
            for data in sets:
                mine, other = (
                    model.score(data, task, lambda outputs, _: outputs, seed)
                    for model in (subject, teacher)
                )
                likes.append(likeness(mine, other))
                published.append(as_published(mine, other))
        forget, others = (torch.stack(likes[i :: len(sets)]).mean(0) for i in range(len(sets)))
        code = torch.stack(published[:: len(sets)]).mean(0)
        arrays = {"likeness": forget, "index": case.request.forget.index.cpu()}
        return Answer.over(summary, forget, others, code, null=typical(others), arrays=arrays)

    def _teacher(self, case: Case, seed: int) -> WhiteBox:
        """Return a network of the target's architecture, drawn at random."""
        with fenced(seed):
            return WhiteBox(case.request.recipe.drawn().to(case.request.forget.y.device))
