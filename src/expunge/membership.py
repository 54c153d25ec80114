"""What every attack on membership reports, whatever its scores are made of.

Rates at few false positives: Carlini et al., "Membership Inference Attacks From First
Principles", S&P 2022, https://arxiv.org/abs/2112.03570
"""

import math
from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from expunge import stats
from expunge.audit import Answer, Case
from expunge.stats import Interval
from expunge.subject import Refused
from expunge.types import Data

RATES = (0.001, 0.01, 0.1)
"""False positive rates at which the share of members found is told."""

FLAGGED = 0.1
"""False positive rate at which a record counts as flagged by an audit."""


def membership(
    inside: Float[Tensor, " m"],
    outside: Float[Tensor, " n"],
    forget: Data,
    arrays: Mapping[str, Tensor] | None = None,
) -> Answer:
    """Return what the scores of an attack on membership tell of a model.

    Args:
        inside: Score of each record to be forgotten; higher is more like a member.
        outside: Score of each record never trained on.
        forget: The records of `inside`, in their order.
        arrays: What else to keep.

    Raises:
        Refused: For fewer than two records on a side, or scores that are not numbers.
    """
    for name, scores in (("forget", inside), ("never-trained", outside)):
        if bool(scores.isnan().any()):
            raise Refused(
                f"{int(scores.isnan().sum())} of {len(scores)} {name} records have no score; the "
                "model's answers or its shadows' are probably not finite"
            )
    fpr, tpr = stats.roc(inside, outside)
    return Answer.over(
        summary,
        inside,
        outside,
        null=stats.auc_by_chance([(len(inside), len(outside))]),
        arrays={
            "roc_fpr": fpr,
            "roc_tpr": tpr,
            "scores": inside,
            "flagged": flagged(inside, outside),
            "index": forget.index.cpu(),
            **(arrays or {}),
        },
        exact={name_of(rate): found(inside, outside, rate) for rate in RATES},
        warnings=unresolved(len(outside)),
        paired=stats.delong,
    ).plus({"balanced_accuracy": float(stats.balanced_accuracy(inside, outside))})


def check_folds(case: Case, folds: int, name: str) -> None:
    """Refuse a case with too few records to fit an attacker on all folds but one.

    Args:
        case: Which records there are.
        folds: Each takes two records of either side; 1 where nothing is fitted.
        name: Of the audit that asks.
    """
    forget, others = case.request.forget, case.nonmembers
    if min(len(forget), len(others)) < 2 * folds:
        folded, lower = (f" with {folds} folds", "lower `folds`, ") if folds > 1 else ("", "")
        raise Refused(
            f"{name}{folded} needs {2 * folds} records on each side, got {len(forget)} to forget "
            f"and {len(others)} never trained on; {lower}forget more records or hold more out"
        )


def summary(inside: Tensor, outside: Tensor) -> dict[str, Tensor]:
    """Return the area under the ROC curve, of whatever dimensions lead."""
    return {"auc": stats.auc(inside, outside)}


def name_of(rate: float) -> str:
    """Return how the true positive rate at a false positive rate is called."""
    return f"tpr_at_{100 * rate:g}%_fpr"


def found(inside: Tensor, outside: Tensor, rate: float) -> Interval:
    """Return the share of members found at a false positive rate, with exact bounds.

    The bounds are Clopper and Pearson's for the members; the threshold counts as given.
    """
    share = float(stats.tpr_at(inside, outside, rate))
    return stats.proportion(round(share * len(inside)), len(inside))


def flagged(inside: Tensor, outside: Tensor) -> Tensor:
    """Return which records lie above all but a tenth of those never trained on."""
    allowed = int(FLAGGED * len(outside))
    return inside > outside.sort(descending=True).values[allowed]


def unresolved(outside: int, rates: Sequence[float] = RATES) -> tuple[str, ...]:
    """Return a warning where so many non-members cannot resolve some of the false positive rates.

    Args:
        outside: How many non-members there are.
        rates: That are told of.
    """
    unseen = [rate for rate in sorted({*rates}) if rate * outside < 1]
    if not unseen:
        return ()
    named = " and ".join(f"{100 * rate:g} %" for rate in unseen)
    least = math.ceil(1 / min(unseen))
    return (
        f"{outside} records never trained on cannot resolve a false positive rate of {named}: "
        f"what stands there is the share found at none at all; hold out at least {least:,}",
    )
