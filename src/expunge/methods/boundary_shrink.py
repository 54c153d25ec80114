"""Boundary shrink: teach each forgotten record the wrong class that lies nearest to it.

Chen, Gao, Liu, Peng and Wang, "Boundary Unlearning: Rapid Forgetting of Deep Networks via
Shifting the Decision Boundary", CVPR 2023, https://arxiv.org/abs/2303.11570

Departures from the paper and the code that goes by its name:
    1. The true class cannot be the nearest wrong one. Where the attack fails, the code gives
       the true class back, which teaches what is to be forgotten.
    2. Labels depend on the original alone, so they are found once, for unaugmented records in
       eval mode; the code finds them again in every step.
    3. BatchNorm's statistics stay as they are; the code has forget batches move them
       (`norms="update"`).
    4. `steps` beyond 1 search along a path of the same reach for the first wrong class met;
       the paper speaks of such a search, the code takes one step.
    5. The attack's reach is in pixels from 0 to 1, before the network's own normalisation.
       The code of the Membership Recall Attack steps on normalised images, then clamps those
       to [0, 1]; its presets here have the reach in pixels, and clamp pixels.
    6. The curvature term and the weighting of records that the code offers are left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from expunge.core import notes
from expunge.core.cost import Cost
from expunge.core.descent import Pass, descend
from expunge.core.head import check_classes
from expunge.core.losses import cross_entropy
from expunge.core.relabel import allowed, row_of
from expunge.core.rng import generator
from expunge.core.state import mode
from expunge.method import Method, MethodCard, Preset, Sizes
from expunge.types import Batch, Descent, Inputs, Refused, Request

CODE = "https://github.com/rainmilk/mra4mu, scripts/{}/unlearn.sh; eps there is of images that "
SCALED = "were divided by about 0.25: here a quarter of it"
FLAT = (
    "the loss has no gradient in the records, which the search for the nearest wrong class "
    "follows; the network probably rounds, looks up or detaches its input: use random_label, "
    "which needs no gradient there"
)


class Nearest(NamedTuple):
    """What a search found for each record.

    Attributes:
        classes: The nearest class that is allowed.
        flipped: Whether the search left the true class; else this is the runner-up there.
        moved: Whether the loss had a slope to follow.
    """

    classes: Int[Tensor, " n"]
    flipped: Bool[Tensor, " n"]
    moved: Bool[Tensor, " n"]


def nearest_wrong(
    model: Callable[[Tensor], Tensor],
    x: Float[Tensor, "n ..."],
    y: Int[Tensor, " n"],
    forbidden: Bool[Tensor, "n classes"],
    *,
    eps: float,
    steps: int,
    clamp: bool,
) -> Nearest:
    """Walk each record up its loss, in a box of ±eps, to the first wrong class.

    With one step this is the fast gradient sign method: Goodfellow, Shlens and Szegedy, ICLR
    2015, https://arxiv.org/abs/1412.6572

    Args:
        model: Gives logits; read as it is.
        x: Records.
        y: Their true classes.
        forbidden: Where a class must not be given to a record.
        eps: Reach of the whole walk, in every number of a record.
        steps: Of equal length.
        clamp: Whether the walk stays in [0, 1].

    Returns:
        Of each record the likeliest class that is not forbidden, where the walk first left
        the true class, or where it ended if it never did.

    Raises:
        Refused: Where the loss does not depend on `x` by way of derivatives.
    """
    at, nearest = x, torch.full_like(y, -1)
    flipped, moved = torch.zeros_like(y, dtype=torch.bool), torch.zeros_like(y, dtype=torch.bool)
    for step in range(steps + 1):
        last = step == steps
        with torch.set_grad_enabled(not last):
            here = at.detach().requires_grad_(not last)
            logits = model(here).float()
        if step > 0:
            guess = logits.detach().masked_fill(forbidden, -torch.inf).argmax(1)
            nearest = torch.where(flipped, nearest, guess)
            flipped = flipped | (logits.argmax(1) != y)
        if not last:
            slope = _slope(logits, y, here)
            moved = moved | slope.flatten(1).any(1)
            at = at + slope.sign() * (eps / steps)
            at = at.clamp(0, 1) if clamp else at
    return Nearest(nearest, flipped, moved)


def _slope(logits: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of the records' losses in the records."""
    slope = None
    if logits.requires_grad:
        total = cross_entropy(logits, y).sum()
        (slope,) = torch.autograd.grad(total, x, allow_unused=True)
    if slope is None:
        raise Refused(FLAT)
    return slope


def real(x: Inputs) -> Tensor:
    """Return records that are one tensor of real numbers.

    Raises:
        Refused: Where they are anything else.
    """
    if isinstance(x, Tensor) and x.is_floating_point():
        return x
    what = "a dict of tensors" if isinstance(x, dict) else f"numbers of type {x.dtype}"
    raise Refused(
        f"boundary_shrink moves records by small steps, for which it needs one tensor of real "
        f"numbers, got {what}; use random_label, which moves none"
    )


def check_pixels(x: Tensor) -> None:
    """Refuse images that are not pixels in [0, 1].

    Raises:
        Refused: Naming the range found.
    """
    low, high = x.min().item(), x.max().item()
    if low < 0 or high > 1:
        raise Refused(
            f"expected pixels in [0, 1], got {low:.3g} to {high:.3g}; have the network "
            "normalise its input itself, or set clamp=False and give eps in these units"
        )


def as_run(folder: str, lr: float, batch_size: int, eps: float, epochs: int = 10) -> Preset:
    """Return what the authors of the Membership Recall Attack ran on a data set."""
    descent = {"lr": lr, "epochs": epochs, "batch_size": batch_size, "weight_decay": 5e-4}
    settings = {"descent": descent, "eps": eps / 4, "norms": "update"}
    return Preset(settings, CODE.format(folder) + SCALED)


@dataclass(frozen=True, kw_only=True)
class BoundaryShrink(Method):
    """Teach forgotten records the nearest wrong class, so that their own class shrinks.

    Attributes:
        descent: The optimiser.
        eps: How far the search for a wrong class may go, in every number of a record: in
            pixels from 0 to 1 where records are images.
        steps: Of that search.
        avoid: What no record is given: its `true` class, or any class that the forget set has
            records of (`forgotten`), which is right where whole classes are forgotten and
            impossible where all classes are among them.
        clamp: Whether searched images stay in [0, 1]. Other records are never clamped.
        norms: BatchNorm's policy.
    """

    card = MethodCard(
        name="boundary_shrink",
        source="https://arxiv.org/abs/2303.11570",
        needs=("original", "forget"),
        norms="frozen by default",
        null={"descent": {"lr": 0.0}},
        toy={"descent": {"lr": 5e-2}},
        presets={
            "paper": Preset(
                {
                    "descent": {"lr": 5e-4, "epochs": 10, "batch_size": 256, "weight_decay": 5e-3},
                    "eps": 0.075,
                    "norms": "update",
                },
                "Sui et al., IJCAI 2025, section 5.1, prints momentum and decay alone; the rest "
                "is its code's for CIFAR-10, with eps in pixels",
            ),
            "authors_code": as_run("cifar10", 5e-4, 256, 0.3),
            "authors_code_cifar100": as_run("cifar100", 5e-4, 256, 1.0),
            "authors_code_pet37": as_run("pet37", 5e-5, 32, 1.0),
            "authors_code_flowers102": as_run("flower102", 1e-5, 32, 0.2, epochs=20),
            "unofficial_code": Preset(
                {
                    "descent": {"lr": 1e-5, "epochs": 10, "batch_size": 64},
                    "eps": 0.1,
                    "norms": "update",
                },
                "https://github.com/TY-LEE-KR/Boundary-Unlearning-Code, boundary_unlearning.py",
            ),
        },
        tasks=("classification",),
        mechanisms=("relabel", "train on forget"),
    )

    descent: Descent = Descent(lr=1e-4, epochs=10, batch_size=64)
    eps: float = 0.1
    steps: int = 1
    avoid: Literal["true", "forgotten"] = "true"
    clamp: bool = True
    norms: Literal["freeze", "update"] = "freeze"

    def __post_init__(self) -> None:
        if not (self.eps > 0 and self.steps >= 1):
            raise ValueError(f"expected eps > 0 and steps >= 1, got {self.eps} and {self.steps}")

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        check_classes(request.task, request.forget.y)
        draws, recipe = generator(seed, "order"), request.recipe
        labels, row = self._labels(model, request, draws), row_of(request.forget)

        def mislead(batch: Batch) -> Tensor:
            return request.task.loss(model, batch._replace(y=labels[row(batch)]))

        rounds = [[Pass(request.forget, mislead, self.norms)]] * self.descent.epochs
        descend(model, rounds, self.descent, recipe, draws, watch=request.watch)
        return model

    def _labels(self, model: nn.Module, request: Request, draws: torch.Generator) -> Tensor:
        """Return the nearest wrong class of every forgotten record, in their order."""
        outputs, forget = request.task.outputs, request.forget
        kept = allowed(request.task, forget.y, self.avoid)
        everywhere = torch.zeros(outputs, dtype=torch.bool)
        if kept is not None:
            everywhere = ~F.one_hot(kept, outputs).any(0)
        found = []
        with mode(model, training=False):
            for batch in request.recipe.ordered(forget, self.descent.batch_size, draws):
                x, y = real(batch.x), batch.y
                if clamp := self.clamp and x.dim() == 4:
                    check_pixels(x)
                forbidden = F.one_hot(y, outputs).bool() | everywhere.to(y.device)
                reach = {"eps": self.eps, "steps": self.steps, "clamp": clamp}
                found.append(nearest_wrong(model, x, y, forbidden, **reach))
        classes, flipped, moved = (torch.cat(part) for part in zip(*found, strict=True))
        if not moved.any():
            raise Refused(FLAT)
        notes.add("found", flipped.float().mean().item())
        return classes

    def work(self, sizes: Sizes) -> Cost:
        forward = sizes.forget * (self.steps + 1 + self.descent.epochs)
        return Cost(forward=forward, backward=sizes.forget * (self.steps + self.descent.epochs))
