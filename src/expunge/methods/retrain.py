"""Retraining from scratch without the forget set: exact, and the measure of all others.

Cao and Yang, "Towards Making Systems Forget with Machine Unlearning", IEEE S&P 2015
(there as the naive way), https://doi.org/10.1109/SP.2015.35
"""

from dataclasses import dataclass

from torch import nn

from expunge.core.cost import Cost
from expunge.core.descent import train
from expunge.method import Method, MethodCard, Sizes
from expunge.types import Request


@dataclass(frozen=True, kw_only=True)
class Retrain(Method):
    """Train a new network on the retain set by the original's recipe.

    The original is not read, let alone reset: a network with a few layers drawn anew is
    not a network that never saw the records.
    """

    card = MethodCard(
        name="retrain",
        source="https://doi.org/10.1109/SP.2015.35",
        needs=("retain",),
        norms="as in training",
        null=None,
        mechanisms=("re-initialise weights", "train on retain"),
    )

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        del model
        return train(request.recipe, request.retain, seed, request.watch)

    def work(self, sizes: Sizes) -> Cost:
        samples = sizes.retain * sizes.epochs
        return Cost(forward=samples, backward=samples)
