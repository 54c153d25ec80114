"""The attack by pairwise ratios: does the target prefer this record to most of the population?

Zarifzadeh, Liu and Shokri, "Low-Cost High-Power Membership Inference Attacks", ICML 2024,
https://arxiv.org/abs/2312.03262

Departures from the paper:
    1. The population is the test set, which the target never saw, and so holds the records that
       the forget set is set beside. For one target the score is one rising function of a
       record's own ratio, whatever the population; it decides only how finely scores differ.
    2. Shadows are trained on halves of a pool that holds the population too. So a population
       record's probability over models is taken as that of any other record.
    3. One query per record, without augmentation.
    4. `a` is a setting; the paper finds it for each data set on models of known training sets.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from expunge.audit import Answer, Audit, AuditCard, Case
from expunge.core.ratio import dominated, ratio
from expunge.core.sides import Mode
from expunge.lab import Needs
from expunge.membership import check_folds, membership
from expunge.shadowing import enough, margins, shadows_on
from expunge.subject import Access, Subject

TIED = 0.5  # share of pairs that cannot be told apart, above which there is a warning


def tied(inside: Tensor, outside: Tensor) -> float:
    """Return the share of pairs, one record of either group, with the same score."""
    ordered = outside.sort().values
    ends = [torch.searchsorted(ordered, inside, right=right) for right in (False, True)]
    return float((ends[1] - ends[0]).double().mean()) / len(outside)


@dataclass(frozen=True, kw_only=True)
class RMIA(Audit):
    """How many records of the population does the target, unlike other models, prefer this one to?

    Attributes:
        shadows: Models trained on random halves; each record is in one half of them.
        mode: `online` compares both halves, `offline` takes shadows never trained on the record.
        gamma: How many times a record's ratio must be a population record's; the paper has 2.
        a: Offline, the slope from a record's probability in models never trained on it to that
            in models trained on it; the paper has 0.3 for CIFAR-10.
    """

    card = AuditCard(
        name="rmia",
        source="https://arxiv.org/abs/2312.03262",
        access=Access.PROBABILITIES,
        alone=True,
        tasks=("classification",),
        decides=True,
        unit="area under the ROC curve; 0.5 is chance",
        toy={"shadows": 8},
    )

    shadows: int = 16
    mode: Mode = "online"
    gamma: float = 2.0
    a: float = 0.3

    def __post_init__(self) -> None:
        enough(self.shadows)
        if not (self.gamma > 0 and 0 <= self.a <= 1):
            raise ValueError(
                f"expected gamma above 0 and a in [0, 1], got gamma={self.gamma} and a={self.a}"
            )

    @property
    def needs(self) -> Needs:
        return Needs(shadows=self.shadows)

    def check(self, case: Case) -> None:
        super().check(case)
        check_folds(case, 1, self.card.name)

    def ask(self, subject: Subject, case: Case, seed: int) -> Answer:
        sets = case.request.forget, case.nonmembers, case.test
        target, known = margins(subject, case, sets, seed), shadows_on(case, self.shadows, sets)
        ratios = ratio(target, *known, mode=self.mode, a=self.a)
        forget, others, population = ratios.split([len(data) for data in sets])
        inside, outside = (dominated(x, population, self.gamma) for x in (forget, others))
        answer = membership(inside, outside, case.request.forget)
        share = tied(inside, outside)
        if share > TIED:
            answer = replace(answer, warnings=(*answer.warnings, _warning(self.gamma)))
        return answer.plus({"tied": share})


def _warning(gamma: float) -> str:
    return (
        f"in more than {TIED:.0%} of the pairs of a forget record and one never trained on both "
        f"have the same score, which hides what sets them apart; lower gamma, which is {gamma:g}, "
        "or hold out more records"
    )
