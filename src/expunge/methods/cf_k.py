"""CF-k: fine-tune the last k layers on the retain set, in the hope that they forget.

Goel, Prabhu, Sanyal, Lim, Torr and Kumaraguru, "Towards Adversarial Evaluations for Inexact
Machine Unlearning", 2022, https://arxiv.org/abs/2201.06640

The name is for catastrophic forgetting: what is not rehearsed is lost. With k of all layers it
is fine-tuning.

Departures from the paper's code:
    1. The last layers are the last to run; the code takes the last that were defined, which
       need not be the same.
    2. The frozen part is in eval mode, so that its statistics keep their bits; the code trains
       in train mode throughout, and they drift.
    3. Embeddings and recurrent layers count as layers, so that there is more than one to
       choose from in a network for tokens.
    4. Gradients are not clipped, and no schedule has warm restarts.
"""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from expunge.core.cost import Cost
from expunge.core.last_layers import AS_RUN, CODE, LastLayers
from expunge.method import Method, MethodCard, Preset, Sizes
from expunge.types import Request


def as_run(data: str, epochs: int) -> Preset:
    """Return what the authors ran on a data set."""
    return Preset({"k": 10, "descent": {**AS_RUN, "epochs": epochs}}, CODE.format(data))


@dataclass(frozen=True, kw_only=True)
class CatastrophicallyForgetLast(LastLayers, Method):
    """Go on training the last layers, without the forget set; freeze the rest.

    Attributes:
        k: How many layers, convolutions, linear ones, embeddings or recurrent ones, from the
            last to run backwards.
        descent: The optimiser; None is that of the original's recipe. What a given one leaves
            out is not the recipe's.
        norms: BatchNorm's policy in the last layers.
    """

    card = MethodCard(
        name="cf_k",
        source="https://arxiv.org/abs/2201.06640",
        needs=("original", "retain"),
        norms="updated on retained records in the last layers by default, frozen before them",
        null={"descent": {"lr": 0.0}, "norms": "freeze"},
        toy={"k": 2, "descent": {"lr": 0.05, "epochs": 3, "batch_size": 32}},
        quick=False,
        presets={
            "authors_code_cifar10": as_run("cifar10", 30),
            "authors_code_cifar100": as_run("cifar100", 62),
        },
        mechanisms=("train on retain",),
    )

    norms: Literal["freeze", "update"] = "update"

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        names = self.find(model, request, seed)
        self.teach(model, request, names, self.norms, seed)
        return model

    def work(self, sizes: Sizes) -> Cost:
        samples = sizes.retain * self.epochs(sizes.epochs)
        return Cost(forward=1 + samples, backward=samples)
