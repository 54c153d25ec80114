"""Membership inference by one number per record, learned across the records.

Logistic regression on the loss, by stratified cross-validation: Salgado Herrera et al.,
"Comparative Analysis of Machine Unlearning Approaches for Data Protection", CAID 2024.
`accuracy_splits` is the accuracy as the starting kit of the NeurIPS 2023 Machine Unlearning
Challenge takes it, https://github.com/unlearning-challenge/starting-kit: ten stratified
shuffles of which a tenth is tried, as many records on each side, the loss as it is.
Confidence, entropy and modified entropy: Song and Mittal, "Systematic Evaluation of
Privacy Risks of Machine Learning Models", USENIX Security 2021,
https://arxiv.org/abs/2003.10595

Departures from the paper:
    1. Non-members have the forget set's mix of classes, and are test records, which no
       method has seen.
    2. Accuracy is balanced: chance is 0.5 however many records there are on each side.
    3. Modified entropy as published by Song and Mittal; much code indexes the classes of
       the whole batch, so that a record's score depends on its neighbours.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score
from torch import Tensor

from expunge import stats
from expunge.audit import Answer, Audit, AuditCard, Case
from expunge.core.attackers import crossfit
from expunge.core.rng import derive, generator
from expunge.core.signals import SIGNALS, Name, Signal
from expunge.membership import check_folds
from expunge.subject import Access, Subject

FURTHER: tuple[Name, ...] = ("confidence", "entropy", "modified_entropy")
"""Signals that are tried beside the loss, in classification."""


class Attack(NamedTuple):
    """An attack fitted on some folds and tried on the other, for each fold.

    Attributes:
        scores: The signal, turned so that more means member, by the fitting folds.
        risk: Probability of membership that the attacker would state, in [0, 1].
        fold: Which fold each record was tried in.
    """

    scores: Float[Tensor, " n"]
    risk: Float[Tensor, " n"]
    fold: Tensor


def attack(signal: Float[Tensor, " n"], member: Tensor, folds: int, seed: int) -> Attack:
    """Fit a logistic regression on the signal; the attacker learns which way it points."""

    def judge(known: np.ndarray, y: np.ndarray, asked: np.ndarray) -> np.ndarray:
        # Standardised by what the attacker knows; losses reach from 1e-8 to 1e2.
        center, scale = known.mean(), known.std() or 1.0
        model = LogisticRegression(class_weight="balanced")
        model.fit((known - center) / scale, y)
        sign = 1.0 if model.coef_[0, 0] >= 0 else -1.0
        risk = model.predict_proba((asked - center) / scale)[:, 1]
        return np.column_stack([sign * asked[:, 0], risk])

    said, fold = crossfit(signal[:, None], member, judge, folds, seed)
    return Attack(said[:, 0].contiguous(), said[:, 1].contiguous(), fold)


def accuracy_by_split(
    members: Float[Tensor, " m"], others: Float[Tensor, " n"], seed: int, splits: int = 10
) -> Float[Tensor, " splits"]:
    """Return the accuracy of a logistic regression on the loss, in each of some random splits.

    Of the larger side as many records are drawn as the smaller one has, so chance is 0.5.
    Fewer than ten on a side leave one of them out of a tenth, and give NaN.
    """
    n = min(len(members), len(others))
    if n < 10:
        return torch.full((splits,), torch.nan, dtype=torch.double)
    draws = generator(seed, "balance")
    kept = [side[torch.randperm(len(side), generator=draws)[:n]] for side in (members, others)]
    x, y = torch.cat(kept).double().numpy()[:, None], np.repeat([1, 0], n)
    split = StratifiedShuffleSplit(splits, test_size=0.1, random_state=seed % 2**32)
    return torch.from_numpy(
        cross_val_score(LogisticRegression(), x, y, cv=split, scoring="accuracy")
    )


@dataclass(frozen=True, kw_only=True)
class LossAttack(Audit):
    """How well does the loss tell forget records from records never trained on?

    Attributes:
        folds: Of the cross-validation.
    """

    card = AuditCard(
        name="loss_attack",
        version=2,
        source="https://arxiv.org/abs/2003.10595",
        access=Access.PROBABILITIES,
        alone=True,
        tasks=("classification", "next_token", "denoising"),
        decides=True,
        unit="area under the ROC curve; 0.5 is chance",
    )

    folds: int = 5

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ValueError(f"expected at least 2 folds, got {self.folds}")

    def check(self, case: Case) -> None:
        super().check(case)
        check_folds(case, self.folds, self.card.name)

    def ask(self, subject: Subject, case: Case, seed: int) -> Answer:
        task, forget, others = case.request.task, case.request.forget, case.nonmembers
        member = torch.cat([torch.ones(len(forget)), torch.zeros(len(others))]).bool()

        def run(signal: Signal) -> Attack:
            parts = [subject.score(data, task, signal, seed) for data in (forget, others)]
            return attack(torch.cat(parts), member, self.folds, derive(seed, "folds"))

        main = run(task.losses)
        further = FURTHER if task.card.name == "classification" else ()
        also = {f"auc_{name}": _auc(run(SIGNALS[name]), member) for name in further}
        records, sizes = _by_fold(main, member)

        def summary(*groups: Tensor) -> dict[str, Tensor]:
            return _summary(groups[: self.folds], groups[self.folds :])

        members, unknown = (subject.score(d, task, task.losses, seed) for d in (forget, others))
        by_split = accuracy_by_split(members, unknown, derive(seed, "splits"))
        fpr, tpr = stats.roc(main.scores[member], main.scores[~member])
        answer = Answer.over(
            summary,
            *records,
            null=stats.auc_by_chance(sizes),
            arrays={
                "roc_fpr": fpr,
                "roc_tpr": tpr,
                "risk": main.risk[member],
                "index": forget.index.cpu(),
                "accuracy_by_split": by_split,
            },
        )
        accuracy = _balanced(main, member)
        splits = {"accuracy_splits": float(by_split.mean())}
        return answer.plus({"accuracy": accuracy} | splits | also)


def _by_fold(attack: Attack, member: Tensor) -> tuple[list[Tensor], list[tuple[int, int]]]:
    folds = range(int(attack.fold.max()) + 1)
    inside = [attack.scores[member & (attack.fold == k)] for k in folds]
    outside = [attack.scores[~member & (attack.fold == k)] for k in folds]
    sizes = [(len(i), len(o)) for i, o in zip(inside, outside, strict=True)]
    return inside + outside, sizes


def _summary(inside: tuple[Tensor, ...], outside: tuple[Tensor, ...]) -> dict[str, Tensor]:
    aucs = [stats.auc(i, o) for i, o in zip(inside, outside, strict=True)]
    tpr = stats.tpr_at(torch.cat(inside, -1), torch.cat(outside, -1), 0.01)
    return {"auc": torch.stack(aucs).mean(0), "tpr_at_1%_fpr": tpr}


def _auc(attack: Attack, member: Tensor) -> float:
    records, _ = _by_fold(attack, member)
    half = len(records) // 2
    return float(_summary(tuple(records[:half]), tuple(records[half:]))["auc"])


def _balanced(attack: Attack, member: Tensor) -> float:
    said = attack.risk > 0.5
    return ((said[member]).double().mean() + (~said[~member]).double().mean()).item() / 2
