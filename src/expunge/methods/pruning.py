"""Pruning: keep one weight in a hundred, draw the others anew, fine-tune on the retain set.

Oleszko (fourth in the final list), "4th place solution", NeurIPS 2023 Machine Unlearning
Challenge,
https://www.kaggle.com/competitions/neurips-2023-machine-unlearning/discussion/459148; compared
under this name by Salgado Herrera et al., "Comparative Analysis of Machine Unlearning
Approaches for Data Protection", CAID 2024.

Departures from the write-up:
    1. Classes are counted in the retain set, the only one that is read, and their weights
       replace any that the task has. On tokens, positions are counted, not records.
    2. Convolutions over lines are pruned as well as those over planes.
    3. The result is rounded to half precision, buffers included. Public code for it does
       so, the write-up is silent; `half=False` leaves it out.
"""

import copy
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from expunge.core import notes
from expunge.core.cost import Cost
from expunge.core.descent import Pass, covered, descend, settle
from expunge.core.layers import fan_in, smallest, weighted
from expunge.core.losses import PADDING, entropy
from expunge.core.rng import generator
from expunge.core.state import Norms
from expunge.method import Method, MethodCard, Preset, Sizes
from expunge.types import Batch, Descent, Request, steps_of

SEED_PAPER = (
    "https://hal.science/hal-05046594v1: the number of epochs; class weights and rounding are "
    "left out because it names neither"
)


@torch.no_grad()
def prune(model: nn.Module, fraction: float, draws: torch.Generator) -> int:
    """Draw the smallest weights of convolutions and linear layers anew, in place.

    Smallness is compared over all those layers, weights and biases alike. A pruned weight
    becomes uniform in ±1 / √fan_in, a pruned bias 0.

    Returns:
        How many were pruned.
    """
    layers = weighted(model)
    numbers = {f"{name}.{k}": p for name, m in layers.items() for k, p in m.named_parameters()}
    pruned = smallest(numbers, fraction)
    for name, layer in layers.items():
        bound = 1 / math.sqrt(fan_in(layer))
        drawn = bound * (2 * torch.rand(layer.weight.shape, generator=draws) - 1)
        mask = pruned[f"{name}.weight"]
        layer.weight.copy_(torch.where(mask, drawn.to(layer.weight), layer.weight))
        if layer.bias is not None:
            layer.bias.masked_fill_(pruned[f"{name}.bias"], 0)
    return sum(int(mask.sum()) for mask in pruned.values())


def class_weights(
    y: Int[Tensor, "n *positions"], classes: int, power: float
) -> Float[Tensor, " classes"]:
    """Return each class's count to the power of `-power`; only their ratios matter."""
    counts = torch.bincount(y[y != PADDING], minlength=classes)
    return counts.clamp(min=1).float() ** -power  # a class without records weighs on nothing


def objective(
    logits: Float[Tensor, "n *positions classes"],
    original: Float[Tensor, "n *positions classes"],
    y: Int[Tensor, "n *positions"],
    weights: Float[Tensor, " classes"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return weighted cross-entropy in nats, and the mean squared gap of entropies in nats²."""
    taught = F.cross_entropy(logits.movedim(-1, 1), y, weights, ignore_index=PADDING)
    asked = y != PADDING
    gap = entropy(logits[asked]) - entropy(original[asked])
    return taught, gap.square().mean()


@torch.no_grad()
def halve(model: nn.Module) -> None:
    """Round weights and buffers to half precision, in place; their type stays."""
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.half())


@dataclass(frozen=True, kw_only=True)
class Pruning(Method):
    """Draw the smallest weights anew; then teach labels, and the original's entropies.

    Attributes:
        descent: The fine-tuning's optimiser.
        extra: Fraction of an epoch, in [0, 1), that is trained after the whole ones.
        fraction: Of weights and biases, those that are pruned: the smallest of all layers.
        strength: Of the squared gap of entropies, beside cross-entropy.
        balance: Power of a class's count by which its weight is divided; 0 weighs all alike.
        half: Whether the result is rounded to half precision.
        norms: BatchNorm's policy.
    """

    card = MethodCard(
        name="pruning",
        source="https://www.kaggle.com/competitions/neurips-2023-machine-unlearning/discussion/459148",
        needs=("original", "retain"),
        norms="updated on retained records by default",
        null={
            "descent": {"lr": 0.0},
            "fraction": 0.0,
            "half": False,
            "norms": "freeze",
        },
        toy={"descent": {"lr": 1e-2, "batch_size": 16}},
        quick=False,
        presets={
            f"seed_paper_{epochs}": Preset(
                {"descent": {"epochs": epochs}, "extra": 0.0, "balance": 0.0, "half": False},
                SEED_PAPER,
            )
            for epochs in (5, 9, 20)
        },
        tasks=("classification", "next_token"),
        mechanisms=("prune weights", "re-initialise weights", "train on retain"),
    )

    descent: Descent = Descent(lr=5e-4, epochs=3, batch_size=64, weight_decay=5e-4)
    extra: float = 0.2
    fraction: float = 0.99
    strength: float = 1.0
    balance: float = 0.1
    half: bool = True
    norms: Norms = "update"

    def __post_init__(self) -> None:
        if not (0 <= self.extra < 1 and 0 <= self.fraction <= 1 and self.strength >= 0):
            raise ValueError(
                "expected extra in [0, 1), fraction in [0, 1] and strength >= 0, got "
                f"{self.extra}, {self.fraction} and {self.strength}; whole epochs belong to "
                "descent.epochs"
            )

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        original, retain = copy.deepcopy(model).eval(), request.retain
        notes.add("pruned", prune(model, self.fraction, generator(seed, "weights")))
        weights = class_weights(retain.y, request.task.outputs, self.balance)
        draws = generator(seed, "order")

        def teach(batch: Batch) -> Tensor:
            with torch.no_grad():
                before = original(batch.x).float()
            taught, gap = objective(model(batch.x).float(), before, batch.y, weights)
            return taught + self.strength * gap

        whole = Pass(retain, teach, self.norms)
        rounds = [[whole]] * self.descent.epochs
        if steps := self._extra_steps(len(retain)):
            rounds.append([whole._replace(steps=steps)])
        descend(model, rounds, self.descent, request.recipe, draws, watch=request.watch)
        settle(model, retain, self.norms, self.descent, request.recipe, draws)
        if self.half:
            halve(model)
        return model

    def work(self, sizes: Sizes) -> Cost:
        last = covered(sizes.retain, self.descent.batch_size, self._extra_steps(sizes.retain))
        samples = sizes.retain * self.descent.epochs + last
        again = sizes.retain * (self.norms == "recalibrate")
        return Cost(forward=2 * samples + again, backward=samples)

    def _extra_steps(self, records: int) -> int:
        """Return how many batches follow the whole epochs: fractions of one are dropped."""
        return int(self.extra * steps_of(records, self.descent.batch_size))
