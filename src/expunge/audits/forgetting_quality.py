"""The score of the NeurIPS 2023 Machine Unlearning Challenge.

Triantafillou et al., "Are we making progress in unlearning? Findings from the first NeurIPS
unlearning competition", 2024, https://arxiv.org/abs/2406.09073; the maths and its source are in
`expunge.core.epsilon`.

N models are unlearned from one original, N are retrained. For each forgotten record an observer
tries some 160,000 rules to tell the two samples of confidences apart; F is high where even the
best of them fails. It is multiplied by the accuracies' ratios on retained and on test records.

Departures from the challenge:
    1. Beside F always stands its floor: F of N retrained against N further retrained models,
       which is about 0.2 and not 1. The challenge prints F alone.
    2. N is 32, not 512; the floor hardly depends on it.
    3. There is no limit of time; `cost` says what was spent.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean

import torch
from jaxtyping import Float
from torch import Tensor

from expunge import stats
from expunge.audit import Answer, Audit, AuditCard, Case
from expunge.core.descent import Diverged
from expunge.core.epsilon import Mode, Quality, floored, forgetting_quality
from expunge.core.losses import confidence
from expunge.ensemble import Ensemble, Group
from expunge.lab import Needs
from expunge.stats import Interval
from expunge.subject import Access, Subject


def summary(parts: Float[Tensor, "*batch s"]) -> dict[str, Tensor]:
    """Return F, the mean of what the records contribute."""
    return {"forgetting_quality": parts.mean(-1)}


def read(models: Iterable[Subject], case: Case, seed: int) -> Group:
    """Return each model's confidences on the forget set, and its accuracies.

    Returns:
        `confidence`, one row per model; `accuracy` on retained and on test records.

    Raises:
        Diverged: For a model whose confidences are not finite.
    """
    request, rows, accuracies = case.request, [], []
    for model in models:
        rows.append(
            model.score(
                request.forget,
                request.task,
                lambda outputs, y: floored(confidence(outputs.double(), y)),
                seed,
            )
        )
        if not bool(rows[-1].isfinite().all()):
            raise Diverged(
                f"model {len(rows)} of a group has confidences that are not finite; lower the "
                "learning rate of its method or training"
            )
        right = [model.right(data, request.task) for data in (request.retain, case.test)]
        accuracies.append(torch.stack([part.mean() for part in right]))
    return {"confidence": torch.stack(rows), "accuracy": torch.stack(accuracies)}


@dataclass(frozen=True, kw_only=True)
class ForgettingQuality(Audit):
    """Can many unlearned models be told from as many retrained ones, record by record?

    The original is one model. As many copies of it are a single point, which the challenge's
    rules call collapsed: its F is 0 by rule, not by measurement. A retrained control is
    answered for by a group of retrained models it is one of, against others; which ones is
    drawn by chance for each, so that controls show how far F may vary.

    Attributes:
        models: Unlearned and retrained ones each, the subject included; the challenge has 512.
        delta: Of (epsilon, delta)-unlearning.
        mode: Whether error rates are taken as they are, as in the challenge, or bounded.
        halvings: Random halvings of the retrained models, whose mean F is the floor.
    """

    card = AuditCard(
        name="forgetting_quality",
        source="https://arxiv.org/abs/2406.09073",
        access=Access.PROBABILITIES,
        tasks=("classification",),
        unit="F in [0, 1]; of retrained models it is about 0.2",
        quick=False,
        toy={"models": 3, "halvings": 2},
    )

    models: int = 32
    delta: float = 1e-5
    mode: Mode = "challenge"
    halvings: int = 5

    def __post_init__(self) -> None:
        if self.models < 2 or self.halvings < 1:
            raise ValueError(
                "expected at least 2 models, since one shows no distribution, and at least 1 "
                f"halving, got {self.models} and {self.halvings}"
            )
        if not 0 <= self.delta < 1:
            raise ValueError(f"expected delta in [0, 1), got {self.delta}")

    @property
    def needs(self) -> Needs:
        return Needs(unlearned=self.models - 1, retrained=2 * self.models)

    def ask(self, subject: Subject, case: Case, seed: int) -> Answer:
        ensemble = self.ensemble(case, seed)
        group, reference = ensemble.of(subject)
        quality = self._quality(group, reference)
        floor = self._floor(ensemble)
        retain, test = (group["accuracy"].mean(0) / reference["accuracy"].mean(0)).tolist()
        arrays = {"epsilon": quality.epsilon, "index": case.request.forget.index.cpu()}
        answer = Answer.over(summary, quality.parts, null=floor, arrays=arrays)
        return answer.plus(
            {
                "floor": floor.value,
                "of_floor": quality.score / floor.value if floor.value else float("nan"),
                "score": quality.score * retain * test,
                "retain_ratio": retain,
                "test_ratio": test,
                "median_epsilon": float(quality.epsilon.median()),
            }
        )

    def ensemble(self, case: Case, seed: int) -> Ensemble:
        """Return the groups of models that are compared."""

        def told(models: Iterable[Subject]) -> Group:
            return read(models, case, seed)

        about = {"answer": "confidences and accuracies"}
        return Ensemble(case=case, count=self.models, read=told, about=about, seed=seed)

    def _floor(self, ensemble: Ensemble) -> Interval:
        """Return F between two random halves of the retrained models, and its reach at 95 %."""

        def halve() -> Group:
            found = [self._quality(*halves).score for halves in ensemble.halves(self.halvings)]
            return {"floor": torch.tensor(found, dtype=torch.double)}

        about = ensemble.key("retrained", 2 * self.models)
        about |= {"answer": "floor of F", "seed": ensemble.seed, "settings": self}
        values = ensemble.lab.keep(about, halve)["floor"].tolist()
        center, reach = mean(values), stats.spread(values)
        if reach is None:
            return Interval(center)
        return Interval.share(center, reach, len(values))

    def _quality(self, group: Group, reference: Group) -> Quality:
        first, second = group["confidence"], reference["confidence"]
        return forgetting_quality(first, second, delta=self.delta, mode=self.mode)
