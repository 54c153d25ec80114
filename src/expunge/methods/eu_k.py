"""EU-k: draw the last k layers anew and train them on the retain set; the others stay.

Goel, Prabhu, Sanyal, Lim, Torr and Kumaraguru, "Towards Adversarial Evaluations for Inexact
Machine Unlearning", 2022, https://arxiv.org/abs/2201.06640

What the last k layers knew of the forget set is gone, as after retraining; what the layers
before them know stays, and the new ones can learn to read it. With k of all layers it is
retraining.

Departures from the paper's code:
    1. The last layers are the last to run; the code takes the last that were defined, which
       need not be the same.
    2. BatchNorm between and after them is drawn anew too. The code leaves it the weights and
       statistics that it learned with the forget set.
    3. The frozen part is in eval mode, so that its statistics keep their bits; the code trains
       in train mode throughout, and they drift.
    4. Embeddings and recurrent layers count as layers, so that there is more than one to
       choose from in a network for tokens.
    5. Gradients are not clipped, and no schedule has warm restarts.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from expunge.core.cost import Cost
from expunge.core.last_layers import AS_RUN, CODE, LastLayers
from expunge.core.rng import derive, fenced
from expunge.method import Method, MethodCard, Preset, Sizes
from expunge.types import Request


def as_run(data: str, epochs: int) -> Preset:
    """Return what the authors ran on a data set."""
    return Preset({"k": 10, "descent": {**AS_RUN, "epochs": epochs}}, CODE.format(data))


@torch.no_grad()
def renew(model: nn.Module, fresh: nn.Module, names: Iterable[str]) -> None:
    """Copy the named modules' own weights and buffers from an untrained network, in place."""
    for name in names:
        old, new = (
            itertools.chain(part.parameters(recurse=False), part.buffers(recurse=False))
            for part in (model.get_submodule(name), fresh.get_submodule(name))
        )
        for before, drawn in zip(old, new, strict=True):
            before.copy_(drawn)


@dataclass(frozen=True, kw_only=True)
class ExactUnlearnLast(LastLayers, Method):
    """Draw the last layers anew and train them as the original was; freeze the rest.

    What is drawn anew is what training would have started from: pretrained weights, where
    the recipe has them.

    Attributes:
        k: How many layers, convolutions, linear ones, embeddings or recurrent ones, from the
            last to run backwards.
        descent: The optimiser; None is that of the original's recipe. What a given one leaves
            out is not the recipe's.
    """

    card = MethodCard(
        name="eu_k",
        source="https://arxiv.org/abs/2201.06640",
        needs=("original", "retain"),
        norms="drawn anew and updated in the last layers, frozen before them",
        null=None,
        toy={"k": 2, "descent": {"lr": 0.05, "epochs": 3, "batch_size": 32}},
        quick=False,
        presets={
            "authors_code_cifar10": as_run("cifar10", 62),
            "authors_code_cifar100": as_run("cifar100", 126),
        },
        mechanisms=("re-initialise weights", "train on retain"),
    )

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        names = self.find(model, request, seed)
        with fenced(derive(seed, "fresh layers")):
            renew(model, request.recipe.fresh(), names)
        self.teach(model, request, names, "update", seed)
        return model

    def work(self, sizes: Sizes) -> Cost:
        samples = sizes.retain * self.epochs(sizes.epochs)
        return Cost(forward=1 + samples, backward=samples)
