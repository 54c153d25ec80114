"""Distance between weights.

Wu, Dobriban and Davidson, "DeltaGrad: Rapid Retraining of Machine Learning Models",
ICML 2020 (there as the measure of success), https://arxiv.org/abs/2006.14755
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from expunge.audit import Answer, Audit, AuditCard, Case
from expunge.subject import Access, Subject


def norm(differences: Iterable[Tensor]) -> float:
    """Return the Euclidean norm of all entries together."""
    squares = [d.double().square().sum() for d in differences]
    return torch.stack(squares).sum().sqrt().item() if squares else 0.0


def differences(one: nn.Module, other: nn.Module) -> dict[str, Tensor]:
    """Return the difference of every floating-point entry, BatchNorm's buffers included.

    Between networks of other shapes, as an ensemble and one network are, there is none: every
    entry is then NaN.
    """
    theirs = other.state_dict()
    if {k: v.shape for k, v in theirs.items()} != {k: v.shape for k, v in one.state_dict().items()}:
        return {k: torch.full_like(v, torch.nan) for k, v in one.named_parameters()}
    return {
        k: v.detach().cpu().double() - theirs[k].detach().cpu().double()
        for k, v in one.state_dict().items()
        if v.is_floating_point()
    }


@dataclass(frozen=True, kw_only=True)
class WeightDistance(Audit):
    """How far, in Euclidean distance, has the state moved from the original's?"""

    card = AuditCard(
        name="weight_distance",
        source="https://arxiv.org/abs/2006.14755",
        access=Access.WEIGHTS,
        tasks=("classification", "next_token", "denoising"),
        unit="Euclidean distance",
    )

    def ask(self, subject: Subject, case: Case, seed: int) -> Answer:
        del seed
        moved = differences(subject.model, case.original.model)
        weights = {name for name, _ in subject.model.named_parameters()}
        size = norm(p.detach() for p in case.original.model.parameters())
        parameters = norm(d for name, d in moved.items() if name in weights)
        values = {
            "l2": norm(moved.values()),
            "parameters": parameters,
            "buffers": norm(d for name, d in moved.items() if name not in weights),
            "relative": parameters / size if size else float("nan"),
        }
        if case.retrained:
            ways = [norm(differences(subject.model, r.model).values()) for r in case.retrained]
            values["to_nearest_retrained"] = min(ways)
        return Answer(values=values)
