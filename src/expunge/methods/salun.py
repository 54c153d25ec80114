"""SalUn: random labels, but only for the weights that matter to the forget set.

Fan, Liu, Zhang, Wong, Wei and Liu, "SalUn: Empowering Machine Unlearning via Gradient-
based Weight Saliency", ICLR 2024, https://arxiv.org/abs/2310.12508

Departures from the paper and its code:
    1. Weights outside the mask keep their bits: decay is folded into the gradient before
       masking. Masking the gradient alone lets decay and old momentum move them.
    2. Exactly the asked fraction is kept, ties broken by position; a threshold keeps all
       ties, which can be most of a network with dead units.
    3. Saliency is the gradient of the mean loss over unaugmented records, in eval mode.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from expunge.core.cost import Cost
from expunge.core.descent import descend
from expunge.core.grads import mean_gradient
from expunge.core.relabel import Redraw, mislead_then_teach
from expunge.core.rng import generator
from expunge.method import Method, MethodCard, Preset, Sizes
from expunge.types import Descent, Request


def salient(
    gradient: Mapping[str, Float[Tensor, "..."]], fraction: float
) -> dict[str, Bool[Tensor, "..."]]:
    """Return the `fraction` of weights with the largest gradients, over all layers."""
    sizes = torch.cat([g.abs().flatten() for g in gradient.values()])
    kept = round(fraction * len(sizes))
    order = sizes.argsort(descending=True, stable=True)
    chosen = torch.zeros_like(sizes, dtype=torch.bool)
    chosen[order[:kept]] = True
    parts = chosen.split([g.numel() for g in gradient.values()])
    return {k: part.view_as(gradient[k]) for k, part in zip(gradient, parts, strict=True)}


@dataclass(frozen=True, kw_only=True)
class SalUn(Method):
    """Random labels on salient weights; every other weight keeps its bits.

    Attributes:
        descent: Its epochs are rounds of one pass over each set.
        fraction: Of weights that may move, those the forget loss is most sensitive to.
        redraw: Whether a wrong answer is drawn once, in every epoch or in every batch.
        retain: Whether there is a retain pass.
    """

    card = MethodCard(
        name="salun",
        source="https://arxiv.org/abs/2310.12508",
        needs=("original", "retain", "forget"),
        norms="frozen on forget passes, updated on retain passes",
        null={"fraction": 0.0, "retain": False},
        toy={"descent": {"lr": 5e-2}},
        presets={
            "authors_code": Preset(
                {
                    "descent": {
                        "lr": 0.013,
                        "epochs": 10,
                        "batch_size": 256,
                        "weight_decay": 5e-4,
                    },
                    "fraction": 0.5,
                },
                "https://github.com/OPTML-Group/Unlearn-Saliency, README",
            )
        },
    )

    descent: Descent = Descent(lr=1e-2, epochs=5)
    fraction: float = 0.5
    redraw: Redraw = "batch"
    retain: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"expected fraction in [0, 1], got {self.fraction}")

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        draws = generator(seed, "order")
        still = request.recipe.ordered(request.forget, self.descent.batch_size, draws)
        mask = salient(mean_gradient(model, request.task, still), self.fraction)
        rounds = mislead_then_teach(
            model, request, self.descent.epochs, draws, redraw=self.redraw, retain=self.retain
        )
        descend(model, rounds, self.descent, request.recipe, draws, watch=request.watch, mask=mask)
        return model

    def work(self, sizes: Sizes) -> Cost:
        epochs = self.descent.epochs
        samples = sizes.forget + (sizes.forget + sizes.retain * self.retain) * epochs
        return Cost(forward=samples, backward=samples)
