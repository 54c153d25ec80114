"""The likelihood-ratio attack by shadows that have unlearned.

Hayes, Shumailov, Triantafillou, Khalifa and Papernot, "Inexact Unlearning Needs More Careful
Evaluations to Avoid a False Sense of Privacy", 2024, https://arxiv.org/abs/2403.01218

Every shadow is trained on a random half by the target's recipe and then unlearns, by the method
and settings in question, what it saw of the records asked about. So for each record there are
models that were trained on it and have unlearned it, and models never trained on it.

Departures from the paper:
    1. A shadow unlearns its part of all records asked about at once, the paper's a forget set
       drawn for each. There are few shadows where the paper has 256.
    2. One variance for all records unless each has 32 shadows on a side, as `lira` has it.
    3. Original and retrained controls are held against the same unlearned shadows. So the
       original need not score higher than what was unlearned: it is like neither side.
"""

from dataclasses import dataclass, replace

from expunge.audit import Answer, Audit, AuditCard, Case
from expunge.core.likelihood import Variance, likelihood_ratio
from expunge.lab import Needs
from expunge.membership import check_folds, membership
from expunge.shadowing import enough, lab_of, margins
from expunge.subject import Access, Subject


@dataclass(frozen=True, kw_only=True)
class ULiRA(Audit):
    """Is each record's confidence that of models that unlearned it, or of models never trained?

    Attributes:
        shadows: Models trained on random halves and unlearned by the method in question.
        variance: `record` for each record its own, `fixed` for one of all; `auto` is `fixed`
            below 32 shadows on a side.
    """

    card = AuditCard(
        name="u_lira",
        source="https://arxiv.org/abs/2403.01218",
        access=Access.PROBABILITIES,
        tasks=("classification",),
        decides=True,
        unit="area under the ROC curve; 0.5 is chance",
        quick=False,
        toy={"shadows": 4},
    )

    shadows: int = 16
    variance: Variance = "auto"

    def __post_init__(self) -> None:
        enough(self.shadows)

    @property
    def needs(self) -> Needs:
        return Needs(unlearned_shadows=self.shadows)

    def check(self, case: Case) -> None:
        super().check(case)
        check_folds(case, 1, self.card.name)

    def ask(self, subject: Subject, case: Case, seed: int) -> Answer:
        sets = case.request.forget, case.nonmembers
        target = margins(subject, case, sets, seed)
        known = lab_of(case).unlearned_shadows(self.shadows)
        scores = likelihood_ratio(target, *known, variance=self.variance)
        inside, outside = scores.split([len(data) for data in sets])
        answer = membership(inside, outside, case.request.forget)
        lost = self.shadows - len(known.margin)
        if lost:
            told = (
                f"{lost} of {self.shadows} shadow models diverged as they unlearned; the rest count"
            )
            answer = replace(answer, warnings=(*answer.warnings, told))
        return answer
