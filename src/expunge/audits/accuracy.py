"""Accuracy on every set, whole and by class.

Jia et al., "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023 (unlearning,
remaining and testing accuracy), https://arxiv.org/abs/2304.04934; the ratio of forget to
validation accuracy is Salgado Herrera et al., "Comparative Analysis of Machine Unlearning
Approaches for Data Protection", CAID 2024.
"""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from expunge.audit import Answer, Audit, AuditCard, Case
from expunge.stats import Interval, by_class, confusion
from expunge.subject import Access, Subject
from expunge.types import Data

SETS = ("forget", "retain", "val", "test")


def summary(*right: Tensor) -> dict[str, Tensor]:
    """Return the accuracy of each set, in the order of `SETS`, and forget over val."""
    values = {name: r.double().mean(-1) for name, r in zip(SETS, right, strict=True)}
    return values | {"forget/val": values["forget"] / values["val"]}


@dataclass(frozen=True, kw_only=True)
class Accuracy(Audit):
    """How often is the model right, on the forget set and on every other?"""

    card = AuditCard(
        name="accuracy",
        source="https://arxiv.org/abs/2304.04934",
        access=Access.LABELS,
        alone=True,
        tasks=("classification", "next_token"),
        decides=True,
        unit="fraction of records",
    )

    def ask(self, subject: Subject, case: Case, seed: int) -> Answer:
        del seed
        task, request = case.request.task, case.request
        sets = (request.forget, request.retain, request.val, case.test)

        def right(data: Data) -> Float[Tensor, " n"]:
            return subject.right(data, task)

        arrays: dict[str, Tensor] = {}
        if task.card.name == "classification":
            for name, data in zip(SETS, sets, strict=True):
                matrix = confusion(*subject.said(data, task), task.outputs)
                arrays[f"per_class_{name}"] = by_class(matrix)
                if name in ("forget", "test"):
                    arrays[f"confusion_{name}"] = matrix
        null = _reach(right(request.forget), right(case.nonmembers))
        return Answer.over(summary, *map(right, sets), null=null, arrays=arrays)


def _reach(forget: Tensor, others: Tensor) -> Interval:
    """Return where the mean of as many other records as there are forget ones may lie."""
    deviation = float(others.std()) * math.sqrt(1 / len(forget) + 1 / len(others))
    center, reach = float(others.mean()), 1.96 * deviation
    return Interval(center, max(0.0, center - reach), min(1.0, center + reach))
