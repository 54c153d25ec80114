"""No unlearning at all: a method whose truth is known, to try audits and verdicts on.

The server that does not delete, against which Sommer et al. test, "Athena: Probabilistic
Verification of Machine Unlearning", PoPETs 2022, https://arxiv.org/abs/2003.04247
"""

from dataclasses import dataclass

from torch import nn

from expunge.core.cost import Cost
from expunge.method import Method, MethodCard, Sizes
from expunge.types import Request


@dataclass(frozen=True, kw_only=True)
class Unchanged(Method):
    """Pass the original off as unlearned; an audit that does not object has no power."""

    card = MethodCard(
        name="unchanged",
        source="https://arxiv.org/abs/2003.04247",
        needs=("original",),
        norms="left as they are",
        null={},
        quick=False,
    )

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        del request, seed
        return model

    def work(self, sizes: Sizes) -> Cost:
        del sizes
        return Cost()
