"""Deviation: noise on the convolutions, then fine-tuning, with a little more noise before its end.

Achour (third in the final list), "NeurIPS 2023 Machine Unlearning: 3rd place solution",
NeurIPS 2023 Machine Unlearning Challenge,
https://www.kaggle.com/competitions/neurips-2023-machine-unlearning/discussion/459334; compared
under this name by Salgado Herrera et al., "Comparative Analysis of Machine Unlearning
Approaches for Data Protection", CAID 2024.

Departures from the write-up:
    1. Public code for it disturbs the first convolution only, the write-up says "convolutional
       layers"; both are here. On all of them noise of this size is far above the weights' own
       and amounts to starting again.
    2. The batch's loss is not multiplied by its share of the challenge's largest class.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from expunge.core.cost import Cost
from expunge.core.descent import Pass, descend, settle
from expunge.core.layers import convolutions, first_convolution
from expunge.core.rng import generator
from expunge.core.state import Norms
from expunge.method import Method, MethodCard, Preset, Sizes
from expunge.types import Batch, Descent, Request


@torch.no_grad()
def disturb(weights: Iterable[Tensor], deviation: float, draws: torch.Generator) -> None:
    """Add Gaussian noise of this standard deviation to every weight, in place."""
    for weight in weights:
        noise = torch.randn(weight.shape, generator=draws)
        weight.add_(noise.to(weight), alpha=deviation)


@dataclass(frozen=True, kw_only=True)
class Deviation(Method):
    """Disturb convolutions, then fine-tune on the retain set.

    Attributes:
        descent: The fine-tuning's optimiser.
        noise: Standard deviation of what is added to the weights at the start.
        late_noise: Standard deviation of what is added before the last epoch.
        layers: Whether the first convolution to be called is disturbed, or all.
        norms: BatchNorm's policy.
    """

    card = MethodCard(
        name="deviation",
        source="https://www.kaggle.com/competitions/neurips-2023-machine-unlearning/discussion/459334",
        needs=("original", "retain"),
        norms="updated on retained records by default",
        null={"descent": {"lr": 0.0}, "noise": 0.0, "late_noise": 0.0, "norms": "freeze"},
        quick=False,
        toy={"descent": {"lr": 1e-2, "batch_size": 32}},
        presets={
            f"seed_paper_{epochs}": Preset(
                {"descent": {"epochs": epochs}}, "https://hal.science/hal-05046594v1"
            )
            for epochs in (5, 9, 20)
        },
        layers=("convolution",),
        mechanisms=("add noise", "train on retain"),
    )

    descent: Descent = Descent(
        lr=7e-4, epochs=4, batch_size=64, weight_decay=5e-4, schedule="cosine", stride="epoch"
    )
    noise: float = 0.6
    late_noise: float = 0.005
    layers: Literal["first", "all"] = "first"
    norms: Norms = "update"

    def __post_init__(self) -> None:
        if not (self.noise >= 0 and self.late_noise >= 0):
            raise ValueError(
                "expected noise and late_noise >= 0, being standard deviations, got "
                f"{self.noise} and {self.late_noise}"
            )

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        draws, noise = generator(seed, "order"), generator(seed, "noise")
        if self.layers == "all":
            found = convolutions(model)
        else:
            one = request.retain.select(torch.arange(1))
            batch = next(iter(request.recipe.ordered(one, 1, draws)))
            found = first_convolution(model, batch.x)
        weights = [layer.weight for layer in found.values()]

        def teach(batch: Batch) -> Tensor:
            return request.task.loss(model, batch)

        disturb(weights, self.noise, noise)
        plain = Pass(request.retain, teach, self.norms)
        last = plain._replace(before=lambda: disturb(weights, self.late_noise, noise))
        rounds = [[plain]] * (self.descent.epochs - 1) + [[last]] * (self.descent.epochs > 0)
        descend(model, rounds, self.descent, request.recipe, draws, watch=request.watch)
        settle(model, request.retain, self.norms, self.descent, request.recipe, draws)
        return model

    def work(self, sizes: Sizes) -> Cost:
        samples = sizes.retain * self.descent.epochs
        again = sizes.retain * (self.norms == "recalibrate")
        return Cost(forward=samples + again + (self.layers == "first"), backward=samples)
