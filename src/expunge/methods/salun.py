"""SalUn: random labels, but only for the weights that matter to the forget set.

Fan, Liu, Zhang, Wong, Wei and Liu, "SalUn: Empowering Machine Unlearning via Gradient-
based Weight Saliency", ICLR 2024, https://arxiv.org/abs/2310.12508

Departures from the paper and its code:
    1. Weights outside the mask keep their bits: decay is folded into the gradient before
       masking. Masking the gradient alone lets decay and old momentum move them.
    2. Exactly the asked fraction is kept, ties broken by position; a threshold keeps all
       ties, which can be most of a network with dead units.
    3. Saliency is the gradient of the mean loss over unaugmented records, in eval mode.
    4. A wrong answer is never the right one by chance; `avoid="none"` lets it be, as the
       code does. Labels are of all the task's classes; the code of the Membership Recall
       Attack draws from the first ten only.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from expunge.core.cost import Cost
from expunge.core.descent import descend, settle
from expunge.core.grads import mean_gradient
from expunge.core.head import check_classes
from expunge.core.order import largest
from expunge.core.relabel import Misleading, mislead_then_teach
from expunge.core.rng import generator
from expunge.method import Method, MethodCard, Preset, Sizes
from expunge.types import Descent, Request

CODE = "https://github.com/rainmilk/mra4mu, scripts/{}/unlearn.sh and unlearn/SalUn.py"
AS_RUN = {
    "fraction": 0.8,
    "mask_from": "train",
    "avoid": "forgotten",
    "retain": False,
    "forget_norms": "update",
}


def as_run(folder: str, lr: float, batch_size: int) -> Preset:
    """Return what the authors of the Membership Recall Attack ran on a data set."""
    descent = {"lr": lr, "epochs": 10, "batch_size": batch_size, "weight_decay": 5e-4}
    return Preset({"descent": descent, **AS_RUN}, CODE.format(folder))


def salient(
    gradient: Mapping[str, Float[Tensor, "..."]], fraction: float
) -> dict[str, Bool[Tensor, "..."]]:
    """Return the `fraction` of weights with the largest gradients, over all layers."""
    sizes = torch.cat([g.abs().flatten() for g in gradient.values()])
    chosen = largest(sizes, round(fraction * len(sizes)))
    parts = chosen.split([g.numel() for g in gradient.values()])
    return {k: part.view_as(gradient[k]) for k, part in zip(gradient, parts, strict=True)}


@dataclass(frozen=True, kw_only=True)
class SalUn(Misleading, Method):
    """Random labels on salient weights; every other weight keeps its bits.

    Attributes:
        descent: Its epochs are rounds of one pass over each set.
        fraction: Of weights that may move, those the loss is most sensitive to.
        mask_from: Whose loss that is: the forget set's, or all training records' (`train`).
        redraw: Whether a wrong answer is drawn once, in every epoch or in every batch.
        avoid: Which classes are never drawn: `none`, the record's `true` one, or all that the
            forget set has records of (`forgotten`).
        retain: Whether there is a retain pass.
        mixed: Whether both sets are shuffled into one pass; else one pass follows the other.
        balanced: Whether an epoch has only as many retained records as forgotten ones, drawn
            anew every time.
        norms: BatchNorm's policy on retained records, and on mixed batches.
        forget_norms: BatchNorm's policy on forget passes.
    """

    card = MethodCard(
        name="salun",
        source="https://arxiv.org/abs/2310.12508",
        needs=("original", "retain", "forget"),
        norms="frozen on forget passes, updated on retain passes by default",
        null={"fraction": 0.0, "retain": False},
        toy={"descent": {"lr": 5e-2}},
        presets={
            "paper": Preset(
                {
                    "descent": {"lr": 8e-5, "epochs": 10, "batch_size": 256, "weight_decay": 5e-3},
                    **AS_RUN,
                },
                "Sui et al., IJCAI 2025, section 5.1, prints momentum and decay alone; the rest "
                "is its code's for CIFAR-10",
            ),
            "authors_code": as_run("cifar10", 8e-5, 256),
            "authors_code_cifar100": as_run("cifar100", 1e-3, 256),
            "authors_code_pet37": as_run("pet37", 9e-5, 32),
            "authors_code_flowers102": as_run("flower102", 5e-6, 32),
            "tuned": Preset(
                {"mixed": True},
                "ours, by the gap to retraining on digits: half of three classes, a class, a tenth",
            ),
            "salun_authors": Preset(
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
            ),
        },
        mechanisms=("choose by gradients", "relabel", "train on forget", "train on retain"),
    )

    descent: Descent = Descent(lr=1e-2, epochs=5)
    fraction: float = 0.5
    mask_from: Literal["forget", "train"] = "forget"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"expected fraction in [0, 1], got {self.fraction}")

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        check_classes(request.task, request.forget.y)
        draws, recipe = generator(seed, "order"), request.recipe
        rounds = mislead_then_teach(model, request, self, self.descent.epochs, draws)
        whose = [request.forget, request.retain][: 1 + (self.mask_from == "train")]
        still = (recipe.ordered(data, self.descent.batch_size, draws) for data in whose)
        gradient = mean_gradient(model, request.task, itertools.chain.from_iterable(still))
        mask = salient(gradient, self.fraction)
        descend(model, rounds, self.descent, recipe, draws, watch=request.watch, mask=mask)
        settle(model, request.retain, self.norms, self.descent, recipe, draws)
        return model

    def work(self, sizes: Sizes) -> Cost:
        read = sizes.forget + sizes.retain * (self.mask_from == "train")
        samples = read + self.epoch(sizes.forget, sizes.retain) * self.descent.epochs
        again = sizes.retain * (self.norms == "recalibrate")
        return Cost(forward=samples + again, backward=samples)
