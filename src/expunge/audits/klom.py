"""Distribution of the margins against that of retrained models, record by record.

Georgiev, Rinberg, Park, Garg, Ilyas, Madry and Neel, "Attribute-to-Delete: Machine Unlearning via
Datamodel Matching", ICLR 2025, https://arxiv.org/abs/2410.23232

Departures from the paper:
    1. The unlearned models come from one original, by other seeds of the method; the paper
       trains as many originals. They differ less from each other than retrained models do,
       which by itself raises the divergence; so the audit measures and does not decide.
    2. There are 32 models on a side, not 100. Few models leave bins empty, and retrained models
       are then far from each other too: that distance, the floor, always stands beside.
    3. A permutation test says how often models dealt out anew are as far apart. The controls
       cannot: all are groups of the same retrained models, and differ less than they should.
    4. The histograms' last bin holds its upper end; see core/klom.py.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean

import torch
from torch import Tensor

from expunge.audit import Answer, Audit, AuditCard, Case
from expunge.core.descent import Diverged
from expunge.core.klom import by_chance, klom
from expunge.core.losses import confidence
from expunge.core.rng import generator
from expunge.ensemble import Ensemble, Group
from expunge.lab import Needs
from expunge.subject import Access, Subject

SETS = ("forget", "retain", "test")


def summary(*divergences: Tensor) -> dict[str, Tensor]:
    """Return each set's mean, then each set's 95th percentile, of the records' divergences."""
    means = {name: d.mean(-1) for name, d in zip(SETS, divergences, strict=True)}
    tails = {
        f"{name}_95%": d.quantile(0.95, dim=-1) for name, d in zip(SETS, divergences, strict=True)
    }
    return means | tails


@dataclass(frozen=True, kw_only=True)
class KLoM(Audit):
    """How far, in nats, are unlearned models' margins from those of retrained models?

    The original is one model, and so its group is a point: it is as far from retraining as a
    sample of so many can be, or nearly. A retrained control is answered for by a group of
    retrained models it is one of, against others.

    Attributes:
        models: Unlearned and retrained ones each, the subject included; the paper has 100.
        bins: Of the histograms.
        halvings: Random halvings of the retrained models, whose mean is the floor.
        deals: Of the permutation test on the forget set.
    """

    card = AuditCard(
        name="klom",
        source="https://arxiv.org/abs/2410.23232",
        access=Access.PROBABILITIES,
        tasks=("classification",),
        ideal="min",
        unit="nats; of retrained models it is not 0 but the floor",
        quick=False,
        toy={"models": 4, "halvings": 2, "deals": 19},
    )

    models: int = 32
    bins: int = 20
    halvings: int = 5
    deals: int = 199

    def __post_init__(self) -> None:
        if min(self.models, self.bins) < 2 or min(self.halvings, self.deals) < 1:
            raise ValueError(
                "expected at least 2 models, since one shows no distribution, at least 2 bins, 1 "
                f"halving and 1 deal, got {self.models}, {self.bins}, {self.halvings} and "
                f"{self.deals}"
            )

    @property
    def needs(self) -> Needs:
        return Needs(unlearned=self.models - 1, retrained=2 * self.models)

    def ask(self, subject: Subject, case: Case, seed: int) -> Answer:
        def read(models: Iterable[Subject]) -> Group:
            return margins(models, case, seed)

        about = {"answer": "margins on every set"}
        ensemble = Ensemble(case=case, count=self.models, read=read, about=about, seed=seed)
        group, reference = ensemble.of(subject)
        divergences = self._divergences(group, reference)
        p = by_chance(
            group["forget"],
            reference["forget"],
            draws=self.deals,
            rng=generator(seed, "deals"),
            bins=self.bins,
        )
        floors = self._floors(ensemble)
        arrays = {"divergence": divergences["forget"], "index": case.request.forget.index.cpu()}
        least = floors["floor_forget"]
        return Answer.over(
            summary,
            *(divergences[name] for name in SETS),
            arrays=arrays,
            warnings=(
                f"on the forget set, retrained models are {least:.3f} from retrained models by "
                f"this measure of {self.models} against {self.models}; only what lies above "
                "that tells anything",
            ),
        ).plus(floors | {"p_permutation": p})

    def _divergences(self, group: Group, reference: Group) -> Group:
        return {name: klom(group[name], reference[name], bins=self.bins) for name in SETS}

    def _floors(self, ensemble: Ensemble) -> dict[str, float]:
        """Return what `summary` is between retrained models, on average over halvings."""

        def halve() -> Group:
            found = [
                summary(*self._divergences(*halves).values())
                for halves in ensemble.halves(self.halvings)
            ]
            return {name: torch.stack([f[name] for f in found]) for name in found[0]}

        about = ensemble.key("retrained", 2 * self.models)
        about |= {"answer": "floor", "seed": ensemble.seed, "settings": self}
        kept = ensemble.lab.keep(about, halve)
        return {f"floor_{name}": mean(values.tolist()) for name, values in kept.items()}


def margins(models: Iterable[Subject], case: Case, seed: int) -> Group:
    """Return the margins of each model (row) on each record (column) of each set.

    Raises:
        Diverged: For a model whose margins are not finite.
    """
    request = case.request
    sets = {"forget": request.forget, "retain": request.retain, "test": case.test}
    rows: list[Group] = []
    for model in models:
        rows.append(
            {name: model.score(d, request.task, confidence, seed) for name, d in sets.items()}
        )
        if not all(bool(part.isfinite().all()) for part in rows[-1].values()):
            raise Diverged(
                f"model {len(rows)} of a group has margins that are not finite; lower the "
                "learning rate of its method or training"
            )
    return {name: torch.stack([row[name] for row in rows]) for name in sets}
