"""The field's baseline attacks: one attacker, and one number per record, for all records.

Song and Mittal, "Systematic Evaluation of Privacy Risks of Machine Learning Models", USENIX
Security 2021 (signals and thresholds), https://arxiv.org/abs/2003.10595; Jia et al., "Model
Sparsity Can Simplify Machine Unlearning", NeurIPS 2023 (the radial support vector machine and the
efficacy), https://arxiv.org/abs/2304.04934

Departures from the papers:
    1. Non-members have the forget set's mix of classes, and are test records.
    2. One threshold for all classes; Song and Mittal have one for each, of shadow models.
    3. The attacker learns on part of the very records that are asked about, and is asked about
       the others. It knows more than one with shadow models: the risk is bounded from above.
    4. Modified entropy as published; much code indexes the classes of the whole batch, so that a
       record's score depends on its neighbours.
    5. The efficacy's attacker is fitted on as many retained as test records, drawn at random;
       the code takes the first retained ones, as many as there are test records.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from expunge import stats
from expunge.audit import Answer, Audit, AuditCard, Case
from expunge.core.attackers import fit, learned_scores
from expunge.core.rng import derive, generator
from expunge.core.signals import Name, towards_members
from expunge.membership import check_folds, membership
from expunge.subject import Access, Refused, Subject
from expunge.types import Data, Preset

CODE = "https://github.com/OPTML-Group/Unlearn-Sparse, evaluation/SVC_MIA.py"


@dataclass(frozen=True, kw_only=True)
class Population(Audit):
    """Does one attacker, with one number per record, tell forget records from ones never seen?

    `mia_efficacy` is what much of the field reports: the share of forget records that are said
    to be no members by an attacker fitted on retained and on test records. Its aim is the
    retrained models' value, not 1. Other tasks than classification have `loss_attack`.

    Attributes:
        signal: What is made of the answer: cross-entropy, log-odds or probability of the right
            class, entropy, or the entropy that knows the right class.
        attacker: `threshold` takes the signal as it is, the way that it points for members; the
            others learn from the records, so that they find forget records whichever way these
            stand out.
        folds: A learning attacker's, of the cross-fitting.
        standardized: Whether a learning attacker sees the signal with mean 0 and variance 1.
    """

    card = AuditCard(
        name="population",
        source="https://arxiv.org/abs/2003.10595",
        access=Access.PROBABILITIES,
        alone=True,
        tasks=("classification",),
        decides=True,
        unit="area under the ROC curve; 0.5 is chance",
        presets={
            "unlearn_sparse": Preset(
                {"signal": "probability", "attacker": "svc", "standardized": False}, CODE
            )
        },
    )

    signal: Name = "modified_entropy"
    attacker: Literal["threshold", "logistic_regression", "svc"] = "threshold"
    folds: int = 5
    standardized: bool = True

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ValueError(f"expected at least 2 folds, got {self.folds}")

    def check(self, case: Case) -> None:
        super().check(case)
        check_folds(case, 1 if self.attacker == "threshold" else self.folds, self.card.name)

    def ask(self, subject: Subject, case: Case, seed: int) -> Answer:
        def read(data: Data) -> Tensor:
            return self._signal(subject, case, data, seed)

        forget, others = read(case.request.forget), read(case.nonmembers)
        member = torch.arange(len(forget) + len(others)) < len(forget)
        scores = self.scores(torch.cat([forget, others]), member, derive(seed, "folds"))
        answer = membership(scores[member], scores[~member], case.request.forget)
        retain, test = read(case.request.retain), read(case.test)
        seen = self.seen(retain, test, forget, derive(seed, "efficacy"))
        efficacy = stats.proportion(int((~seen).sum()), len(seen))
        return replace(answer, exact={**answer.exact, "mia_efficacy": efficacy}).plus(
            {"mia_efficacy": efficacy.value}
        )

    def scores(
        self, signal: Float[Tensor, " n"], member: Bool[Tensor, " n"], seed: int
    ) -> Float[Tensor, " n"]:
        """Return the attacker's score of each record; more is more like a member."""
        if self.attacker == "threshold":
            return signal
        return learned_scores(
            signal[:, None],
            member,
            self.attacker,
            self.folds,
            seed,
            standardized=self.standardized,
        )

    def seen(
        self,
        retain: Float[Tensor, " r"],
        test: Float[Tensor, " t"],
        forget: Float[Tensor, " f"],
        seed: int,
    ) -> Bool[Tensor, " f"]:
        """Return which forget records are said to be members, going by retain against test.

        Args:
            retain: The signal of retained records; more is more like a member.
            test: Of test records.
            forget: Of the records asked about.
            seed: Draws as many of the larger set as the smaller one has.
        """
        n, draws = min(len(retain), len(test)), generator(seed, "balance")
        inside, outside = (
            side[torch.randperm(len(side), generator=draws)[:n]] for side in (retain, test)
        )
        if self.attacker == "threshold":
            return forget >= stats.youden(inside, outside)
        known, member = torch.cat([inside, outside])[:, None].double(), torch.arange(2 * n) < n
        attacker = fit(
            self.attacker,
            known.numpy(),
            member.numpy(),
            standardized=self.standardized,
            seed=seed,
        )
        said = attacker.score(forget[:, None].double().numpy())
        return torch.from_numpy(said > attacker.threshold)

    def _signal(self, subject: Subject, case: Case, data: Data, seed: int) -> Float[Tensor, " n"]:
        """Return the signal of each record, turned so that more is more like a member."""
        found = subject.score(data, case.request.task, towards_members(self.signal), seed)
        if not bool(found.isfinite().all()):
            raise Refused(
                f"the {self.signal} of {int((~found.isfinite()).sum())} of {len(found)} records "
                "is not finite, probably since the model's answers are not; it diverged, and "
                "should be trained or unlearned anew"
            )
        return found
