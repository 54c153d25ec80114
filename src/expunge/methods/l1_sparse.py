"""l1-sparse: fine-tune on the retain set while pulling all weights towards zero.

Jia, Liu, Ram, Yao, Liu, Liu, Sharma and Liu, "Model Sparsity Can Simplify Machine
Unlearning", NeurIPS 2023, https://arxiv.org/abs/2304.04934

Departures from the paper and its code:
    1. Biases and the scales of norms, which are one-dimensional, are not pulled:
       `vectors=True` pulls them as the code does.
    2. The pull is a soft threshold after each step (`step="proximal"`), which reaches exact
       zeros. The code adds the penalty's subgradient, which never does.
    3. `variant="ascent"` is what the code of the Membership Recall Attack has under the
       name of this method: gradient ascent on the forget set, with a constant pull.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expunge.core import notes
from expunge.core.cost import Cost
from expunge.core.descent import Pass, descend, settle
from expunge.core.head import check_classes
from expunge.core.rng import generator
from expunge.core.state import Norms
from expunge.method import Method, MethodCard, Preset, Sizes
from expunge.types import Batch, Descent, Request

CODE = "https://github.com/rainmilk/mra4mu, scripts/{}/unlearn.sh and unlearn/GA.py (GA_l1)"
NEAR = 1e-3  # weights of trained networks are tens of times as large


class Penalty:
    """The l1 norm of some weights, times a strength that changes from epoch to epoch."""

    def __init__(self, weights: Mapping[str, nn.Parameter]) -> None:
        self.strength = 0.0
        self._weights = dict(weights)

    def become(self, strength: float) -> None:
        """Take another strength."""
        self.strength = strength

    @torch.no_grad()
    def add_subgradient(self, gradients: Mapping[str, Tensor]) -> None:
        """Add strength · sign(weight) to the weights' gradients, in place."""
        for name, weight in self._weights.items():
            if name in gradients:
                gradients[name].add_(weight.sign(), alpha=self.strength)

    @torch.no_grad()
    def shrink(self, reach: float) -> None:
        """Bring every weight nearer to zero by strength · reach, and no farther, in place.

        This is the proximal step of the penalty, the soft threshold.
        """
        for weight in self._weights.values():
            weight.copy_(F.softshrink(weight, self.strength * reach))

    @torch.no_grad()
    def share_below(self, bound: float) -> float:
        """Return the share of the weights whose size is at most `bound`."""
        small = sum(int((weight.abs() <= bound).sum()) for weight in self._weights.values())
        return small / max(1, sum(weight.numel() for weight in self._weights.values()))


def as_run(folder: str, gamma: float, lr: float, batch_size: int) -> Preset:
    """Return what the authors of the Membership Recall Attack ran on a data set."""
    descent = {"lr": lr, "epochs": 10, "batch_size": batch_size, "weight_decay": 5e-4}
    settings = {"descent": descent, "gamma": gamma, "variant": "ascent", "decay": "none"}
    as_code = {"step": "subgradient", "vectors": True, "norms": "update"}
    return Preset({**settings, **as_code}, CODE.format(folder))


@dataclass(frozen=True, kw_only=True)
class L1Sparse(Method):
    """Fine-tune under an l1 penalty that fades.

    Attributes:
        descent: The optimiser.
        gamma: The penalty's strength per unit of weight, in nats, in the first epoch.
        decay: Whether it falls, epoch by epoch, in a line that reaches 0 when they are over
            (`linear`), or stays.
        variant: `retain` goes down the loss of retained records and does not read the others;
            `ascent` goes up the loss of forgotten ones and does not read the retained.
        step: Whether weights are pulled by a soft threshold after each step (`proximal`), or
            by the penalty's subgradient in it. With sgd the threshold is rate · gamma /
            (1 - momentum), so that both have the same minimum; with adamw, whose step has a
            scale for each weight, it is rate · gamma, like its decay.
        vectors: Whether one-dimensional parameters are pulled too.
        norms: BatchNorm's policy; left out, updated on retained records, frozen on forgotten.
    """

    card = MethodCard(
        name="l1_sparse",
        source="https://arxiv.org/abs/2304.04934",
        needs=("original", "retain", "forget"),
        norms="updated on retained records, frozen on forgotten ones by default",
        null={"descent": {"lr": 0.0}, "norms": "freeze"},
        presets={
            "paper": Preset(
                {
                    "descent": {"lr": 0.01, "epochs": 10, "batch_size": 256, "weight_decay": 5e-3},
                    "step": "subgradient",
                    "vectors": True,
                },
                "Sui et al., IJCAI 2025, section 5.1, prints momentum and decay alone; rate and "
                "epochs are those of https://github.com/OPTML-Group/Unlearn-Sparse, gamma is ours",
            ),
            "authors_code": as_run("cifar10", 0.01, 5e-5, 256),
            "authors_code_cifar100": as_run("cifar100", 0.01, 2e-4, 256),
            "authors_code_pet37": as_run("pet37", 0.1, 5e-3, 32),
            "authors_code_flowers102": as_run("flower102", 0.4, 2e-5, 32),
            "unlearn_sparse": Preset(
                {
                    "descent": {"lr": 0.01, "epochs": 10, "batch_size": 256, "weight_decay": 5e-4},
                    "gamma": 0.2,
                    "step": "subgradient",
                    "vectors": True,
                },
                "https://github.com/OPTML-Group/Unlearn-Sparse, README, for networks that were "
                "pruned before; far too strong for others",
            ),
        },
        mechanisms=("prune weights", "train on retain"),
    )

    descent: Descent = Descent(lr=1e-2, epochs=5)
    gamma: float = 5e-4
    decay: Literal["linear", "none"] = "linear"
    variant: Literal["retain", "ascent"] = "retain"
    step: Literal["proximal", "subgradient"] = "proximal"
    vectors: bool = False
    norms: Norms | None = None

    def __post_init__(self) -> None:
        if self.gamma < 0:
            raise ValueError(f"expected gamma >= 0, got {self.gamma}")
        if self.variant == "ascent" and self.norms == "recalibrate":
            raise ValueError(
                "norms='recalibrate' reads retained records, which variant='ascent' leaves "
                "alone; use 'freeze' or 'update'"
            )

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        down = self.variant == "retain"
        data = request.retain if down else request.forget
        check_classes(request.task, data.y, "retain" if down else "forget")
        norms = self.norms or ("update" if down else "freeze")
        weights = {k: p for k, p in model.named_parameters() if p.dim() > 1 or self.vectors}
        penalty, draws = Penalty(weights), generator(seed, "order")

        def fit(batch: Batch) -> Tensor:
            loss = request.task.loss(model, batch)
            return loss if down else -loss

        def pull(rate: float) -> None:
            penalty.shrink(self._reach(rate))

        proximal, epochs = self.step == "proximal", self.descent.epochs
        rounds = []
        for epoch in range(epochs):
            strength = self.gamma * (1 - epoch / epochs if self.decay == "linear" else 1)
            begin = partial(penalty.become, strength)
            rounds.append([Pass(data, fit, norms, before=begin, after=pull if proximal else None)])
        adjust = None if proximal else penalty.add_subgradient
        watch, recipe = request.watch, request.recipe
        descend(model, rounds, self.descent, recipe, draws, watch=watch, adjust=adjust)
        settle(model, data, norms, self.descent, recipe, draws)
        notes.add("sparsity", penalty.share_below(0.0))
        notes.add("near_zero", penalty.share_below(NEAR))
        return model

    def _reach(self, rate: float) -> float:
        """Return how far a step's unit pull carries a weight in the end, momentum included."""
        carried = 1 - self.descent.momentum if self.descent.optimizer == "sgd" else 1.0
        return rate / carried

    def work(self, sizes: Sizes) -> Cost:
        each = sizes.retain if self.variant == "retain" else sizes.forget
        samples = each * self.descent.epochs
        again = sizes.retain * (self.norms == "recalibrate")
        return Cost(forward=samples + again, backward=samples)
