"""What both models together give away: the answers before against the answers after unlearning.

Chen, Zhang, Wang, Backes, Humbert and Zhang, "When Machine Unlearning Jeopardizes Privacy", CCS
2021, https://arxiv.org/abs/2005.02205

Whoever kept the original's answers and asks again after the update tells the forgotten records
from those that neither model was trained on: only the former's answers had a reason to change.

Departures from the paper:
    1. The attacker learns on part of the very records that are asked about, and is asked about
       the others; the paper's learns from shadow models. So the risk is bounded from above.
    2. All records are forgotten at once, by the request in question; the paper forgets one.
    3. A logistic regression or a random forest; the paper has decision trees and networks too.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from expunge import stats
from expunge.audit import Answer, Audit, AuditCard, Case
from expunge.core.attackers import learned_scores
from expunge.core.rng import derive
from expunge.membership import check_folds, membership
from expunge.subject import Access, Subject

Features = Literal[
    "direct_concatenation",
    "sorted_concatenation",
    "direct_difference",
    "sorted_difference",
    "euclidean_distance",
]

ROUNDING = 1e-6  # of probabilities; the same model served elsewhere differs by so much


def pair_features(
    before: Float[Tensor, "n classes"], after: Float[Tensor, "n classes"], kind: Features
) -> Float[Tensor, "n features"]:
    """Return what the attacker sees of each record's two answers.

    Sorted features have the classes in the order of the answer before, least likely first, so
    that an attacker learns of ranks and not of classes. A change within rounding is none.

    Args:
        before: Probabilities by the original.
        after: Probabilities by the other model.
        kind: Which of the paper's five.
    """
    after = torch.where((after - before).abs() < ROUNDING, before, after)
    if kind.startswith("sorted"):
        order = before.argsort(dim=1, stable=True)
        before, after = before.gather(1, order), after.gather(1, order)
    if kind.endswith("concatenation"):
        return torch.cat([before, after], 1)
    if kind.endswith("difference"):
        return before - after
    return (before - after).norm(dim=1, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class UpdateDifference(Audit):
    """Does the change of a record's answer give away that it was forgotten?

    Retraining leaks here too; that is the paper's point. So retrained models show what
    deletion itself gives away, and only what lies beyond them is the method's own. An update
    that changed nothing scores 0.5 for differences and has not forgotten. So the audit tells and
    does not decide.

    `auc_before` is the same attacker's area with the original's answers alone: what was known
    before anyone asked for deletion.

    Attributes:
        features: What the attacker sees of both answers. Concatenations show the original's own
            answer too, and so what its training gave away.
        attacker: What learns from them.
        folds: Of the cross-fitting.
    """

    card = AuditCard(
        name="update_difference",
        source="https://arxiv.org/abs/2005.02205",
        access=Access.PROBABILITIES,
        tasks=("classification",),
        unit="area under the ROC curve; 0.5 is chance, and retraining may lie above it",
    )

    features: Features = "sorted_difference"
    attacker: Literal["logistic_regression", "random_forest"] = "logistic_regression"
    folds: int = 5

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ValueError(f"expected at least 2 folds, got {self.folds}")

    def check(self, case: Case) -> None:
        super().check(case)
        check_folds(case, self.folds, self.card.name)

    def ask(self, subject: Subject, case: Case, seed: int) -> Answer:
        sets = case.request.forget, case.nonmembers
        member = torch.arange(sum(map(len, sets))) < len(sets[0])

        def probabilities(model: Subject) -> Tensor:
            task = case.request.task
            outputs = [model.score(data, task, lambda out, _: out, seed) for data in sets]
            return torch.cat(outputs).double().softmax(-1)

        def scores(features: Tensor) -> Tensor:
            folds = derive(seed, "folds")
            return learned_scores(features, member, self.attacker, self.folds, folds)

        before, after = probabilities(case.original), probabilities(subject)
        told = scores(pair_features(before, after, self.features))
        alone = scores(before.sort(dim=1).values)
        answer = membership(told[member], told[~member], case.request.forget)
        return answer.plus({"auc_before": float(stats.auc(alone[member], alone[~member]))})
