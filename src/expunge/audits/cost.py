"""What unlearning cost, beside training anew.

Run-time efficiency of Jia et al., "Model Sparsity Can Simplify Machine Unlearning",
NeurIPS 2023, https://arxiv.org/abs/2304.04934, with a twin that no hardware changes: the
samples that went through the network, a backward counted as two forwards.
"""

import math
from dataclasses import dataclass
from statistics import mean

from expunge.audit import Answer, Audit, AuditCard, Case
from expunge.core.cost import Cost
from expunge.subject import Access, Subject


def training(case: Case) -> Cost:
    """Return what the recipe costs on the retain set, counted without training."""
    samples = len(case.request.retain) * case.request.recipe.descent.epochs
    return Cost(forward=samples, backward=samples)


@dataclass(frozen=True, kw_only=True)
class CostAudit(Audit):
    """What did it cost, as a share of retraining?

    The original stands for its own training. A model of which nobody said what it cost
    has no numbers here.
    """

    card = AuditCard(
        name="cost",
        source="https://arxiv.org/abs/2304.04934",
        access=Access.LABELS,
        tasks=("classification", "next_token", "denoising"),
        ideal="min",
        unit="fraction of retraining's samples",
    )

    def ask(self, subject: Subject, case: Case, seed: int) -> Answer:
        del seed
        cost, reference = subject.cost, training(case)
        if cost is None:
            return Answer(values={"of_retraining": math.nan})
        values = {
            "of_retraining": cost.passes / reference.passes,
            "forward": float(cost.forward),
            "backward": float(cost.backward),
        }
        measured = {"seconds": cost.seconds}
        if cost.peak_bytes is not None:
            measured["peak_bytes"] = float(cost.peak_bytes)
        seconds = [r.cost.seconds for r in case.retrained if r.cost]
        if seconds and mean(seconds):
            measured["seconds_of_retraining"] = cost.seconds / mean(seconds)
        return Answer(values=values, measured=measured)
