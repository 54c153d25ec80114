"""Retraining that keeps part of the forget set: a truth half way, to try audits and verdicts on.

The server that deletes in part is an extension of the one that does not: Sommer et al.,
"Athena: Probabilistic Verification of Machine Unlearning", PoPETs 2022,
https://arxiv.org/abs/2003.04247
"""

from dataclasses import dataclass

import torch
from torch import nn

from expunge.core.cost import Cost
from expunge.core.descent import train
from expunge.core.rng import generator
from expunge.method import Method, MethodCard, Sizes
from expunge.types import Request


@dataclass(frozen=True, kw_only=True)
class PartialRetrain(Method):
    """Retrain without some of the records to forget, and with the others.

    Attributes:
        kept: Share of the forget set that is trained on all the same.
    """

    card = MethodCard(
        name="partial_retrain",
        source="https://arxiv.org/abs/2003.04247",
        needs=("retain", "forget"),
        norms="as in training",
        null=None,
        quick=False,
        mechanisms=("re-initialise weights", "train on retain", "train on forget"),
    )

    kept: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.kept <= 1:
            raise ValueError(f"expected kept in [0, 1], got {self.kept}")

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        del model
        order = torch.randperm(len(request.forget), generator=generator(seed, "kept"))
        kept = request.forget.select(order[: self._kept(len(order))].sort().values)
        return train(request.recipe, request.retain.join(kept), seed, request.watch)

    def work(self, sizes: Sizes) -> Cost:
        samples = (sizes.retain + self._kept(sizes.forget)) * sizes.epochs
        return Cost(forward=samples, backward=samples)

    def _kept(self, forget: int) -> int:
        return round(self.kept * forget)
