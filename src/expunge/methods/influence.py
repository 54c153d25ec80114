"""Influence unlearning: one Newton step from the original to where retraining would be.

Jia, Liu, Ram, Yao, Liu, Liu, Sharma and Liu, "Model Sparsity Can Simplify Machine
Unlearning", NeurIPS 2023, https://arxiv.org/abs/2304.04934; after Koh and Liang,
"Understanding Black-box Predictions via Influence Functions", ICML 2017.

At the original the training loss has gradient g, the retained records' loss alone has g_r,
and curvature B. Where retraining ends its gradient has become g too, which is 0 had training
converged; to first order that is at a distance of B⁻¹ (g - g_r).

Departures from the paper and its code:
    1. The equation is solved, by conjugate gradient on the generalised Gauss-Newton matrix.
       The published recursion for the inverse keeps its first gradient and only rescales it,
       so that what it adds to g - g_r has no curvature in it; `curvature="identity"` is what
       published code computes in effect.
    2. The step's length is not searched by the outcome on the forget set, but is the longest
       that validation records put up with.
    3. Curvature is measured on a part of the retain set, and damped.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from expunge.core import notes
from expunge.core.cost import Cost
from expunge.core.curvature import BACKWARD, FORWARD, conjugate_gradient, curvature, flat, shaped
from expunge.core.grads import mean_gradient
from expunge.core.rng import generator
from expunge.core.state import lay_out, mode
from expunge.method import Method, MethodCard, Preset, Search, Sizes
from expunge.types import Batch, Data, Refused, Request, Task

CODE = "https://github.com/rainmilk/mra4mu, scripts"


def mass(task: Task, data: Data) -> float:
    """Return what the records count for in a training loss: their number, or class weights."""
    weights = task.weigh(data.y)
    return float(len(data) if weights is None else weights.sum())


@torch.no_grad()
def move(model: nn.Module, start: Iterable[Tensor], step: Iterable[Tensor], scale: float) -> None:
    """Put the parameters, in place, `scale` times the step away from the start."""
    for p, before, part in zip(model.parameters(), start, step, strict=True):
        p.copy_(before + scale * part)


@torch.no_grad()
def mean_loss(model: nn.Module, task: Task, batches: Iterable[Batch]) -> float:
    """Return the mean loss over records, read in eval mode."""
    with mode(model, training=False):
        losses = torch.cat([task.losses(model(x), y) for x, y, _ in batches])
    return float(losses.double().mean())


@dataclass(frozen=True, kw_only=True)
class Influence(Method):
    """Solve for the step that retraining would have made, and take it.

    The defaults cost less than three epochs of training on the retain set: one pass for its
    gradient, four products with the curvature of a twenty-fifth of it, five passes over the
    validation records. All of it runs in single precision, and where training runs in half,
    a pass costs nearly two of its epochs.

    Attributes:
        curvature: `ggn` is the generalised Gauss-Newton matrix, `empirical_fisher` the
            mean square of gradients; `identity` solves nothing and steps along the gradient.
        retain: Whether the retained records' gradient is measured. Without it training is
            taken to have converged, which saves one epoch.
        fraction: Of the retain set that curvature is measured on; a product with it costs
            as much as two or three training steps of these records.
        iterations: Of conjugate gradient, each a product with the curvature.
        damping: Added to all eigenvalues of the curvature: the smaller, the farther the step
            goes where the loss is flat. An original's weight decay belongs here too.
        step: `fixed` takes `scale`; `line_search` takes the longest of `scales` up to which
            the mean loss of the validation records rises by no more than `tolerance`, and
            no step where the first already does. It looks neither at the forget set nor at
            the test set.
        scale: Multiplies the solution; 1 is where the quadratic has its minimum.
        scales: Tried by the line search, in ascending order.
        tolerance: The rise that is put up with, as a share of the original's loss.
        batch_size: Records at once; no part of the result but for rounding.
    """

    card = MethodCard(
        name="influence",
        source="https://arxiv.org/abs/2304.04934",
        needs=("original", "retain", "forget", "val"),
        norms="frozen",
        null={"step": "fixed", "scale": 0.0},
        search={"damping": Search(1e-4, 1.0)},
        toy={"fraction": 0.5, "iterations": 3},
        presets={
            "authors_code": Preset(
                {"curvature": "identity", "step": "fixed", "scale": 0.3},
                f"{CODE}: as run on CIFAR-10 for the membership recall attack",
            ),
            "authors_code_cifar100": Preset(
                {"curvature": "identity", "step": "fixed", "scale": 600.0},
                f"{CODE}: as run on CIFAR-100 for the membership recall attack",
            ),
            "authors_code_pet37": Preset(
                {"curvature": "identity", "step": "fixed", "scale": 4.6},
                f"{CODE}: as run on Oxford-IIIT Pet for the membership recall attack",
            ),
            "authors_code_flowers102": Preset(
                {"curvature": "identity", "step": "fixed", "scale": 200.0},
                f"{CODE}: as run on Flowers-102 for the membership recall attack",
            ),
        },
        mechanisms=("use curvature",),
    )

    curvature: Literal["ggn", "empirical_fisher", "identity"] = "ggn"
    retain: bool = True
    fraction: float = 0.04
    iterations: int = 4
    damping: float = 1e-2
    step: Literal["fixed", "line_search"] = "line_search"
    scale: float = 1.0
    scales: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
    tolerance: float = 0.05
    batch_size: int = 128

    def __post_init__(self) -> None:
        if not (0 < self.fraction <= 1 and self.iterations >= 1 and self.batch_size >= 1):
            raise ValueError(
                "expected fraction in (0, 1], iterations >= 1 and batch_size >= 1, got "
                f"{self.fraction}, {self.iterations} and {self.batch_size}"
            )
        if not (self.damping > 0 and self.tolerance >= 0):
            raise ValueError(
                f"expected damping > 0 and tolerance >= 0, got {self.damping} and "
                f"{self.tolerance}; without damping a flat direction has no solution"
            )
        ascending = all(a < b for a, b in itertools.pairwise((0.0, *self.scales)))
        if not (self.scales and ascending):
            raise ValueError(f"expected positive scales in ascending order, got {self.scales}")

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        if self.step == "line_search" and not len(request.val):
            raise Refused(
                "the line search needs validation records and there are none; hold some out, "
                "or give a step of your own: step='fixed' and a scale"
            )
        lay_out(model)
        found = self._solved(model, request, self._gradient(model, request, seed), seed)
        start = [p.detach().clone() for p in model.parameters()]
        step = [*shaped(found, dict(model.named_parameters())).values()]
        scale = self.scale
        if self.step == "line_search":
            scale = self._searched(model, request, start, step, seed)
        notes.add("scale", scale)
        notes.add("step_length", scale * float(found.double().norm()))
        move(model, start, step, scale)
        return model

    def _gradient(self, model: nn.Module, request: Request, seed: int) -> Tensor:
        """Return g - g_r."""
        task, draws = request.task, generator(seed, "gradient")

        def of(data: Data) -> Tensor:
            batches = request.recipe.ordered(data, self.batch_size, draws)
            return flat(mean_gradient(model, task, batches))

        gone, kept = mass(task, request.forget), mass(task, request.retain)
        if self.retain:
            return gone / (gone + kept) * (of(request.forget) - of(request.retain))
        return gone / kept * of(request.forget)

    def _solved(self, model: nn.Module, request: Request, b: Tensor, seed: int) -> Tensor:
        if self.curvature == "identity":
            return b
        draws = generator(seed, "records")
        order = torch.randperm(len(request.retain), generator=draws)
        few = request.retain.select(order[: self._sampled(len(order))])
        batches = [*request.recipe.ordered(few, self.batch_size, draws)]
        product = curvature(model, request.task, batches, self.curvature)
        solution = conjugate_gradient(product, b, self.iterations, self.damping)
        notes.add("residual", solution.residual)
        return solution.x

    def _searched(
        self, model: nn.Module, request: Request, start: list[Tensor], step: list[Tensor], seed: int
    ) -> float:
        """Return the longest of `scales` that validation puts up with."""
        losses = []
        for scale in (0.0, *self.scales):
            move(model, start, step, scale)
            draws = generator(seed, "validation")
            batches = request.recipe.ordered(request.val, self.batch_size, draws)
            losses.append(mean_loss(model, request.task, batches))
        notes.add("validation_losses", losses)
        bound = (1 + self.tolerance) * losses[0]
        fine = itertools.takewhile(
            lambda tried: tried[1] <= bound, zip((0.0, *self.scales), losses, strict=True)
        )
        return max((scale for scale, _ in fine), default=0.0)

    def _sampled(self, retain: int) -> int:
        return max(1, round(self.fraction * retain))

    def work(self, sizes: Sizes) -> Cost:
        once = sizes.forget + sizes.retain * self.retain
        solved = self._sampled(sizes.retain) * self.iterations * (self.curvature != "identity")
        tried = sizes.val * (1 + len(self.scales)) * (self.step == "line_search")
        return Cost(forward=once + FORWARD * solved + tried, backward=once + BACKWARD * solved)
