"""The likelihood-ratio attack: a Gaussian of its own for every record.

Carlini, Chien, Nasr, Song, Terzis and Tramèr, "Membership Inference Attacks From First
Principles", S&P 2022, https://arxiv.org/abs/2112.03570

Shadow models are trained on random halves by the target's recipe. For each record they show how
confident models are that were trained on it, and how confident models are that were not.

Departures from the paper:
    1. The records asked about are the forget set and test records with its mix of classes, not
       all of the pool: what is left of a forget set is the question.
    2. One query per record, without augmentation; the paper's gain more with several.
    3. One variance for all records unless each has 32 shadows on a side, which the paper
       advises below 64 shadows; how it is taken says core/likelihood.py.
"""

from dataclasses import dataclass

from expunge.audit import Answer, Audit, AuditCard, Case
from expunge.core.likelihood import Variance, likelihood_ratio
from expunge.core.sides import Mode
from expunge.lab import Needs
from expunge.membership import check_folds, membership
from expunge.shadowing import enough, margins, shadows_on
from expunge.subject import Access, Subject


@dataclass(frozen=True, kw_only=True)
class LiRA(Audit):
    """Is each record's confidence that of models trained on it, or that of models never trained?

    Its shadows are trained, not unlearned: a model that hides a record by treating it unusually
    is like neither. `u_lira` knows such models.

    Attributes:
        shadows: Models trained on random halves; each record is in one half of them.
        mode: `online` compares both halves, `offline` takes shadows never trained on the record.
        variance: `record` for each its own, `fixed` for one of all records; `auto` is `fixed`
            below 32 shadows on a side.
    """

    card = AuditCard(
        name="lira",
        source="https://arxiv.org/abs/2112.03570",
        access=Access.PROBABILITIES,
        alone=True,
        tasks=("classification",),
        decides=True,
        unit="area under the ROC curve; 0.5 is chance",
        toy={"shadows": 8},
    )

    shadows: int = 16
    mode: Mode = "online"
    variance: Variance = "auto"

    def __post_init__(self) -> None:
        enough(self.shadows)

    @property
    def needs(self) -> Needs:
        return Needs(shadows=self.shadows)

    def check(self, case: Case) -> None:
        super().check(case)
        check_folds(case, 1, self.card.name)

    def ask(self, subject: Subject, case: Case, seed: int) -> Answer:
        sets = case.request.forget, case.nonmembers
        target, known = margins(subject, case, sets, seed), shadows_on(case, self.shadows, sets)
        scores = likelihood_ratio(target, *known, mode=self.mode, variance=self.variance)
        inside, outside = scores.split([len(data) for data in sets])
        return membership(inside, outside, case.request.forget)
