"""Fisher forgetting: noise on the weights that the retained records do not care about.

Golatkar, Achille and Soatto, "Eternal Sunshine of the Spotless Net: Selective Forgetting in
Deep Networks", CVPR 2020, https://arxiv.org/abs/1911.04933

With F the diagonal of the Fisher information of the retained records, each weight gets
Gaussian noise of standard deviation (alpha / F)^(1/4). The forget set is not looked at.

Departures from the paper:
    1. The exponent is -1/2 by default, as in all published code; -1/4 is the paper's, where
       alpha stands for the product of its λ and σ².
    2. The Fisher takes one answer per record, drawn from the model, by default: unbiased
       for the sum over all answers that the paper's code takes, at the cost of one of them.
    3. A standard deviation is never above `clamp`. Where F vanishes the formula has no
       bound; published code clamps likewise, and the saturated fraction, which is noted,
       says how much of the noise is the clamp's and not the Fisher's.
    4. Published code zeroes the head's row of a forgotten class. That alone answers never
       with this class again, whatever the network still knows: a shortcut that any attack
       on the features sees through. It is off by default; `zero_forgotten` turns it on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from expunge.core import notes
from expunge.core.cost import Cost, priced
from expunge.core.grads import Fisher, squared_gradients
from expunge.core.head import find_head
from expunge.core.rng import generator
from expunge.method import Method, MethodCard, Preset, Search, Sizes
from expunge.types import Request


def deviations(
    fisher: Mapping[str, Float[Tensor, "..."]], alpha: float, exponent: float, clamp: float
) -> dict[str, Float[Tensor, "..."]]:
    """Return each weight's standard deviation, (alpha / F)^-exponent, but at most `clamp`."""
    tiny = torch.finfo(torch.float32).tiny
    return {
        name: (alpha / part.clamp(min=tiny)).pow(-exponent).clamp(max=clamp)
        for name, part in fisher.items()
    }


def saturated(deviations: Mapping[str, Float[Tensor, "..."]], clamp: float) -> float:
    """Return the share of weights whose standard deviation is the clamp itself."""
    at = sum(int((part >= clamp).sum()) for part in deviations.values())
    return at / sum(part.numel() for part in deviations.values())


@torch.no_grad()
def disturb(
    model: nn.Module,
    deviations: Mapping[str, Float[Tensor, "..."]],
    factors: Mapping[str, float],
    draws: torch.Generator,
) -> None:
    """Add Gaussian noise of the standard deviations, times the factors, in place."""
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=draws).to(p)
        p.add_(factors[name] * deviations[name] * noise)


def absent(y: Int[Tensor, " n"], classes: int) -> list[int]:
    """Return the classes that no record is of."""
    return sorted({*range(classes)} - {*y.unique().tolist()})


@torch.no_grad()
def zero(layer: nn.Module, rows: list[int]) -> None:
    """Set these rows of a layer's weight, and of its bias, to zero in place."""
    for p in layer.parameters(recurse=False):
        p[rows] = 0


@dataclass(frozen=True, kw_only=True)
class FisherForgetting(Method):
    """Add noise to each weight, more of it the less the retained records need the weight.

    By default F is measured on half of the retain set, at the cost of one to two epochs of
    training on all of it; `exact` costs nearly that times the number of classes.

    Attributes:
        fisher: `empirical` squares the gradients for the right answers, `monte_carlo` those
            for one answer per record that is drawn from the model, `exact` those for every
            answer, by its probability; only a classifier has few enough for that.
        reduction: Whether F is the mean over the retain set or its sum, which changes what
            `alpha` means by the number of records.
        exponent: Of F in the standard deviation: -1/2 (published code) or -1/4 (the paper).
        alpha: Amount of noise. The default, and a clamp of √(1000 alpha), are those of the
            paper's code.
        clamp: Largest standard deviation, before both of the following factors.
        multiplier: Of the noise on all weights.
        head: Of the noise on the last linear layer, on top.
        fraction: Of the retain set that F is measured on.
        zero_forgotten: Whether, before the noise, the head's row is zeroed of each class
            that no retained record is of. It hides a class rather than forgets it.
        batch_size: Records at once; no part of the result but for rounding.
    """

    card = MethodCard(
        name="fisher_forgetting",
        source="https://arxiv.org/abs/1911.04933",
        needs=("original", "retain"),
        norms="frozen",
        null={"alpha": 0.0},
        search={"alpha": Search(1e-10, 1e-4)},
        toy={"fraction": 1.0},
        presets={
            "becker_liebig": Preset(
                {
                    "fisher": "empirical",
                    "reduction": "sum",
                    "alpha": 3e-6,
                    "clamp": 1e-3,
                    "fraction": 1.0,
                },
                "https://github.com/ROYALBEFF/"
                "evaluating_machine_unlearning_via_epistemic_uncertainty, forgetting.py",
            ),
        }
        | {
            name: Preset(
                {
                    "fisher": "empirical",
                    "reduction": "mean",
                    "alpha": alpha,
                    "clamp": 1e-3,
                    "multiplier": alpha,
                    "fraction": 1.0,
                },
                f"https://github.com/rainmilk/mra4mu, scripts: as run on {data} for the "
                "membership recall attack",
            )
            for name, alpha, data in (
                ("authors_code", 20.0, "CIFAR-10"),
                ("authors_code_cifar100", 18.0, "CIFAR-100"),
                ("authors_code_pet37", 30.0, "Oxford-IIIT Pet"),
                ("authors_code_flowers102", 16.0, "Flowers-102"),
            )
        },
        mechanisms=("use curvature", "add noise"),
    )

    fisher: Fisher = "monte_carlo"
    reduction: Literal["mean", "sum"] = "mean"
    exponent: float = -0.5
    alpha: float = 1e-6
    clamp: float = 3e-2
    multiplier: float = 1.0
    head: float = 1.0
    fraction: float = 0.5
    zero_forgotten: bool = False
    batch_size: int = 128

    def __post_init__(self) -> None:
        if self.exponent not in (-0.5, -0.25):
            raise ValueError(f"expected exponent -0.5 or -0.25, got {self.exponent}")
        if not (self.alpha >= 0 and self.clamp > 0 and self.multiplier >= 0 and self.head >= 0):
            raise ValueError(
                "expected alpha, multiplier and head >= 0 and clamp > 0, got "
                f"{self.alpha}, {self.multiplier}, {self.head} and {self.clamp}"
            )
        if not (0 < self.fraction <= 1 and self.batch_size >= 1):
            raise ValueError(
                "expected fraction in (0, 1] and batch_size >= 1, got "
                f"{self.fraction} and {self.batch_size}"
            )

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        head = self._head(model, request)
        if self.zero_forgotten:
            zero(model.get_submodule(head), absent(request.retain.y, request.task.outputs))
        spread = deviations(
            self._information(model, request, seed), self.alpha, self.exponent, self.clamp
        )
        notes.add("saturated", saturated(spread, self.clamp))
        factors = {
            name: self.multiplier * (self.head if name.rpartition(".")[0] == head else 1.0)
            for name in spread
        }
        disturb(model, spread, factors, generator(seed, "noise"))
        return model

    def _head(self, model: nn.Module, request: Request) -> str:
        """Return the name of the last layer where it is treated otherwise, or none."""
        if self.head == 1 and not self.zero_forgotten:
            return "none of the layers"
        with priced():  # one record, to see which layer answers
            x = request.retain.take(torch.arange(1)).x
            return find_head(model, x, request.task.outputs)

    def _information(self, model: nn.Module, request: Request, seed: int) -> dict[str, Tensor]:
        draws = generator(seed, "records")
        order = torch.randperm(len(request.retain), generator=draws)
        few = request.retain.select(order[: self._sampled(len(order))])
        batches = request.recipe.ordered(few, self.batch_size, draws)
        answers = generator(seed, "answers")
        mean = squared_gradients(model, request.task, batches, self.fisher, answers)
        times = len(order) if self.reduction == "sum" else 1
        return {name: times * part for name, part in mean.items()}

    def _sampled(self, retain: int) -> int:
        return max(1, round(self.fraction * retain))

    def work(self, sizes: Sizes) -> Cost:
        records = self._sampled(sizes.retain)
        return Cost(
            forward=records,
            backward=records * (sizes.outputs if self.fisher == "exact" else 1),
        )
