"""Divergence: flatten the answers on the forget set, in turn with fine-tuning on the rest.

fanchuan (first in the final list), "NeurIPS 2023 Machine Unlearning: 2nd place solution" on the
private board, NeurIPS 2023 Machine Unlearning Challenge,
https://www.kaggle.com/competitions/neurips-2023-machine-unlearning/discussion/458721; compared
under this name by Salgado Herrera et al., "Comparative Analysis of Machine Unlearning
Approaches for Data Protection", CAID 2024.

It is for classification: a sequence has a set of class scores for each position, and a
denoiser's answers are no class scores.

Departures from the write-up:
    1. The contrastive rounds' learning rate falls by a cosine to 0, there to 1e-6, over the
       steps that are taken, there over those of all forget batches.
    2. Rounds of equal settings share an optimiser and its momentum; the authors' differ.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from expunge.core import losses
from expunge.core.cost import Cost
from expunge.core.descent import Pass, covered, descend, settle
from expunge.core.rng import generator
from expunge.core.state import Norms
from expunge.method import Method, MethodCard, Preset, Sizes
from expunge.types import Batch, Descent, Request, steps_of


def from_uniform(logits: Float[Tensor, "n classes"]) -> Float[Tensor, ""]:
    """Return the mean over records of KL(uniform ‖ answer), in nats."""
    return losses.kl(torch.zeros_like(logits), logits).mean()


def unlikeness(
    forget: Float[Tensor, "n classes"], retain: Float[Tensor, "m classes"], temperature: float
) -> Float[Tensor, ""]:
    """Return how unevenly each forget record's scores resemble those of retained records.

    The mean over all pairs of -log softmax over retained records of z_forget · z_retain / T;
    least, ln m, where a forget record resembles all of them equally.
    """
    return -(forget @ retain.T / temperature).log_softmax(-1).mean()


@dataclass(frozen=True, kw_only=True)
class Divergence(Method):
    """Push forget answers to uniform, then contrast them with retained ones and repair.

    Attributes:
        descent: Optimiser of the retain rounds; its epochs are rounds of contrast and repair.
        uniform: Optimiser of the first passes over the forget set, and how many they are.
        contrast: Optimiser of the contrastive passes; its epochs are those within one round.
            A pass pairs batches of the forget set with as many of the retain set, of the
            retain rounds' size, and ends with the shorter.
        temperature: Divides the products of class scores.
        norms: BatchNorm's policy on all passes, those over the forget set included.
    """

    card = MethodCard(
        name="divergence",
        source="https://www.kaggle.com/competitions/neurips-2023-machine-unlearning/discussion/458721",
        needs=("original", "retain", "forget"),
        norms="updated on all passes by default, as the author does",
        null={
            "descent": {"lr": 0.0},
            "uniform": {"lr": 0.0},
            "contrast": {"lr": 0.0},
            "norms": "freeze",
        },
        quick=False,
        toy={"descent": {"lr": 1e-2, "epochs": 4, "batch_size": 32}},
        presets={
            f"seed_paper_{epochs}": Preset(
                {"descent": {"epochs": epochs - 1}}, "https://hal.science/hal-05046594v1"
            )
            for epochs in (5, 9, 20)
        },
        tasks=("classification",),
        mechanisms=("train on forget", "train on retain"),
    )

    descent: Descent = Descent(lr=4e-3, epochs=8, batch_size=256, weight_decay=1e-2)
    uniform: Descent = Descent(lr=5e-3, epochs=1, batch_size=64)
    contrast: Descent = Descent(lr=3e-4, epochs=1, batch_size=64, schedule="cosine")
    temperature: float = 1.15
    norms: Norms = "update"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"expected temperature > 0, got {self.temperature}")

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        draws, recipe = generator(seed, "order"), request.recipe
        beside = self._beside(request, seed)

        def flatten(batch: Batch) -> Tensor:
            return from_uniform(model(batch.x).float())

        def contrast(batch: Batch) -> Tensor:
            pushed = model(batch.x).float()
            with torch.no_grad():  # after the other: autocast keeps what it cast for both
                still = model(next(beside).x).float()
            return unlikeness(pushed, still, self.temperature)

        def teach(batch: Batch) -> Tensor:
            return request.task.loss(model, batch)

        first = Pass(request.forget, flatten, self.norms, descent=self.uniform)
        pairs = self._pairs(len(request.forget), len(request.retain))
        push = Pass(request.forget, contrast, self.norms, descent=self.contrast, steps=pairs)
        repair = Pass(request.retain, teach, self.norms)
        rounds = [[first]] * self.uniform.epochs
        rounds += [[push] * self.contrast.epochs + [repair]] * self.descent.epochs
        descend(model, rounds, self.descent, recipe, draws, watch=request.watch)
        settle(model, request.retain, self.norms, self.descent, recipe, draws)
        return model

    def _pairs(self, forget: int, retain: int) -> int:
        """Return how many steps a contrastive pass has."""
        mine = steps_of(forget, self.contrast.batch_size)
        return min(mine, steps_of(retain, self.descent.batch_size))

    def _beside(self, request: Request, seed: int) -> Iterator[Batch]:
        """Yield the retained batches of all contrastive passes, each pass shuffled anew."""
        draws, size = generator(seed, "beside"), self.descent.batch_size
        pairs = self._pairs(len(request.forget), len(request.retain))
        while True:
            batches = request.recipe.shuffled(request.retain, size, draws)
            for _ in range(pairs):
                yield next(batches)

    def work(self, sizes: Sizes) -> Cost:
        pairs = self._pairs(sizes.forget, sizes.retain)
        pushed = covered(sizes.forget, self.contrast.batch_size, pairs)
        still = covered(sizes.retain, self.descent.batch_size, pairs)
        passes = self.descent.epochs * self.contrast.epochs
        trained = sizes.forget * self.uniform.epochs + sizes.retain * self.descent.epochs
        again = sizes.retain * (self.norms == "recalibrate")
        backward = trained + passes * pushed
        return Cost(forward=backward + passes * still + again, backward=backward)
