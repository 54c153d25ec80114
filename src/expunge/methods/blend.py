"""Blend: one of several methods, chosen by the seed with given shares.

toshi_k and marvelworld (fifth in the final list), "5th place solution", NeurIPS 2023 Machine
Unlearning Challenge,
https://www.kaggle.com/competitions/neurips-2023-machine-unlearning/discussion/458531

The challenge compared 512 unlearned models with 512 retrained ones. The authors made some by
Rotate and the others by pseudo-labels: what one leaves behind, the other may not.

Departures from the write-up:
    1. Each model's method is drawn with these shares; the authors' counts are exact.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from expunge.core import notes
from expunge.core.cost import Cost
from expunge.core.rng import derive, generator
from expunge.method import Method, MethodCard, Preset, Sizes
from expunge.types import Request

SOURCE = "https://www.kaggle.com/competitions/neurips-2023-machine-unlearning/discussion/458531"


@dataclass(frozen=True, kw_only=True)
class Blend(Method):
    """Apply one of several methods, which one is up to the seed.

    Attributes:
        methods: To choose from, each with settings of its own.
        shares: How often each is chosen, as relative numbers; none given, all alike.
    """

    card = MethodCard(
        name="blend",
        source=SOURCE,
        needs=(),
        norms="as the chosen method has it",
        null={"methods": [{"name": "finetune", "descent": {"lr": 0.0}, "norms": "freeze"}]},
        toy={
            "methods": [{"name": "finetune"}, {"name": "finetune", "norms": "freeze"}],
            "shares": [0.48, 0.52],
        },
        quick=False,
        presets={
            f"authors_{rotated}": Preset(
                {
                    "methods": [{"name": "rotate"}, {"name": "pseudo_label"}],
                    "shares": [rotated, 512 - rotated],
                },
                f"{SOURCE}: {rotated} of 512 models by Rotate",
            )
            for rotated in (246, 266)
        },
    )

    methods: tuple[Method, ...]
    shares: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.methods:
            raise ValueError("expected methods to choose from, got none; name at least one")
        if self.shares and len(self.shares) != len(self.methods):
            raise ValueError(
                f"expected one share for each of {len(self.methods)} methods, got "
                f"{len(self.shares)}; leave `shares` out to choose all alike"
            )
        if not all(0 < share < math.inf for share in self.shares):
            raise ValueError(f"expected shares above 0, got {self.shares}; leave out the others")

    @property
    def parts(self) -> tuple[Method, ...]:
        return self.methods

    def chances(self) -> list[float]:
        """Return each method's probability."""
        shares = self.shares or (1.0,) * len(self.methods)
        return [share / sum(shares) for share in shares]

    def choose(self, seed: int) -> Method:
        """Return the method that is applied with this seed."""
        chances = torch.tensor(self.chances(), dtype=torch.float64)
        place = torch.multinomial(chances, 1, generator=generator(seed, "choice"))
        return self.methods[int(place)]

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        method = self.choose(seed)
        notes.add("chosen", self.methods.index(method))
        return method.apply(model, request, derive(seed, "chosen"))

    def work(self, sizes: Sizes) -> Cost:
        """Return the mean over the choice, which no plan knows the seed of."""
        costs = [method.work(sizes) for method in self.methods]
        weighed = list(zip(self.chances(), costs, strict=True))
        return Cost(
            forward=round(sum(chance * cost.forward for chance, cost in weighed)),
            backward=round(sum(chance * cost.backward for chance, cost in weighed)),
        )
