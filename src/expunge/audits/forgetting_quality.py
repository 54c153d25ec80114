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

from collections.abc import Iterable, Mapping
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
from expunge.core.rng import generator
from expunge.lab import Lab, Needs
from expunge.stats import Interval
from expunge.subject import Access, Subject
from expunge.types import Json

Group = Mapping[str, Tensor]


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
        right = [model.said(data, request.task) for data in (request.retain, case.test)]
        accuracies.append(torch.stack([(said == y).double().mean() for said, y in right]))
    return {"confidence": torch.stack(rows), "accuracy": torch.stack(accuracies)}


def chosen(group: Group, rows: Tensor) -> Group:
    """Return some models of a group."""
    return {name: part[rows] for name, part in group.items()}


def joined(first: Group, second: Group) -> Group:
    """Return the models of both groups."""
    return {name: torch.cat([part, second[name]]) for name, part in first.items()}


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
        decides=True,
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
        group, reference = self._groups(subject, case, seed)
        quality = self._quality(group, reference)
        floor = self._floor(case, seed)
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

    def _groups(self, subject: Subject, case: Case, seed: int) -> tuple[Group, Group]:
        """Return the subject's group, and the retrained models it is held against."""
        n, own, pool = self.models, read([subject], case, seed), self._pool(case, seed)
        if subject is case.original:
            return chosen(own, torch.zeros(n, dtype=torch.long)), chosen(pool, torch.arange(n))
        if subject is case.unlearned:
            others = self._told("unlearned", n - 1, case, seed)
            return joined(own, others), chosen(pool, torch.arange(n))
        draws = generator(seed, "control", subject.digest or "")
        order = torch.randperm(2 * n, generator=draws)
        made = _lab(case).made
        rest = order[[made.get(("retrained", i)) is not subject for i in order.tolist()]]
        return joined(own, chosen(pool, rest[: n - 1])), chosen(pool, rest[n - 1 : 2 * n - 1])

    def _floor(self, case: Case, seed: int) -> Interval:
        """Return F between two random halves of the retrained models, and its reach at 95 %."""
        n, pool, draws = self.models, self._pool(case, seed), generator(seed, "halves")

        def halve() -> Group:
            found = []
            for _ in range(self.halvings):
                order = torch.randperm(2 * n, generator=draws)
                first, second = chosen(pool, order[:n]), chosen(pool, order[n:])
                found.append(self._quality(first, second).score)
            return {"floor": torch.tensor(found, dtype=torch.double)}

        about = self._about("retrained", 2 * n, case) | {"seed": seed, "settings": self}
        values = _lab(case).keep(about, halve)["floor"].tolist()
        center, reach = mean(values), stats.spread(values)
        if reach is None:
            return Interval(center)
        return Interval(center, max(0.0, center - reach), min(1.0, center + reach))

    def _quality(self, group: Group, reference: Group) -> Quality:
        first, second = group["confidence"], reference["confidence"]
        return forgetting_quality(first, second, delta=self.delta, mode=self.mode)

    def _pool(self, case: Case, seed: int) -> Group:
        return self._told("retrained", 2 * self.models, case, seed)

    def _told(self, kind: str, count: int, case: Case, seed: int) -> Group:
        """Return what the lab's models say, read once."""
        lab = _lab(case)
        about = self._about(kind, count, case)
        return lab.keep(about, lambda: read(lab.each(kind, count), case, seed))

    def _about(self, kind: str, count: int, case: Case) -> dict[str, Json]:
        lab, request = _lab(case), case.request
        data = {"retain": request.retain, "forget": request.forget, "test": case.test}
        method = lab.unlearn.about if lab.unlearn and kind == "unlearned" else None
        return {
            "answer": f"confidences of {count} {kind} models",
            "recipe": request.recipe,
            "data": {name: part.digest for name, part in data.items()},
            "lab": lab.seed,
            "method": method,
        }


def _lab(case: Case) -> Lab:
    assert case.lab is not None  # `check` has seen to it
    return case.lab
