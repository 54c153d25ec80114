"""Gradient ascent on the forget set.

Golatkar, Achille and Soatto, "Eternal Sunshine of the Spotless Net", CVPR 2020 (there as
the NegGrad baseline), https://arxiv.org/abs/1911.04933

Departures from the paper:
    1. BatchNorm's statistics stay as they are. Forget batches alone would drag them
       along, which by itself ruins the retained records. `norms="update"` lets them.
    2. A record may be left alone once its loss exceeds `cap`; the loss climbed has no
       upper bound of its own.
    3. The ascent may end once it has cost too much on validation records (`tolerance`).
       What it has done to the forget set is never looked at: without a model that was
       retrained there is nothing to compare that with.
"""

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from expunge.core import notes
from expunge.core.cost import Cost
from expunge.core.descent import Pass, descend
from expunge.core.head import check_classes
from expunge.core.rng import generator
from expunge.core.state import mode
from expunge.method import Method, MethodCard, Preset, Sizes
from expunge.types import Batch, Descent, Request

CODE = "https://github.com/rainmilk/mra4mu, scripts/{}/unlearn.sh"


def as_run(folder: str, lr: float, batch_size: int, epochs: int = 10) -> Preset:
    """Return what the authors of the Membership Recall Attack ran on a data set."""
    descent = {"lr": lr, "epochs": epochs, "batch_size": batch_size, "weight_decay": 5e-4}
    return Preset({"descent": descent, "norms": "update"}, CODE.format(folder))


class Floor:
    """What validation records may suffer: undoes the epoch that makes them suffer more."""

    def __init__(self, model: nn.Module, request: Request, tolerance: float, size: int, seed: int):
        self._model, self._request = model, request
        self._tolerance, self._size, self._seed = tolerance, size, seed
        self._limit: float | None = None
        self._kept: dict[str, Tensor] = {}
        self._over = False
        self.epochs = -1  # the first look, before any epoch, makes it 0

    def broken(self) -> bool:
        """Look at the validation records, unless it is over; return whether it is now."""
        if self._over:
            return True
        loss = self._loss()
        if self._limit is None:
            self._limit = loss + self._tolerance
        self._over = not loss <= self._limit  # NaN is over it too
        if self._over:
            self._model.load_state_dict(self._kept)
        else:
            self._kept = copy.deepcopy(self._model.state_dict())
            self.epochs += 1
        return self._over

    @torch.no_grad()
    def _loss(self) -> float:
        """Return the mean loss, in nats, on questions that are the same at every look."""
        request, total = self._request, 0.0
        draws = generator(self._seed, "validation")
        with mode(self._model, training=False):
            for batch in request.recipe.ordered(request.val, self._size, draws):
                losses = request.task.losses(self._model(batch.x).float(), batch.y)
                total += losses.double().sum().item()
        return total / len(request.val)


@dataclass(frozen=True, kw_only=True)
class GradientAscent(Method):
    """Climb the loss on the forget set.

    Attributes:
        descent: The ascent's optimiser.
        cap: Loss, in nats, beyond which a record is no longer pushed; None pushes on.
            Log of the number of classes is the loss of a guess.
        tolerance: By how much the mean loss on validation records may rise, in nats. The
            epoch that exceeds it is undone and ends the ascent, so `work` is then the most
            that is done. None does not look at validation records, and undoes nothing.
        norms: BatchNorm's policy.
    """

    card = MethodCard(
        name="gradient_ascent",
        source="https://arxiv.org/abs/1911.04933",
        needs=("original", "forget", "val"),
        norms="frozen by default",
        null={"descent": {"lr": 0.0}},
        presets={
            "paper": Preset(
                {
                    "descent": {"lr": 4e-5, "epochs": 10, "batch_size": 256, "weight_decay": 5e-3},
                    "norms": "update",
                },
                "Sui et al., IJCAI 2025, section 5.1, prints momentum and decay alone; the rest "
                "is its code's for CIFAR-10",
            ),
            "authors_code": as_run("cifar10", 4e-5, 256),
            "authors_code_cifar100": as_run("cifar100", 2e-4, 256),
            "authors_code_pet37": as_run("pet37", 6e-5, 32),
            "authors_code_flowers102": as_run("flower102", 8e-5, 32, epochs=8),
            "tuned": Preset(
                {"descent": {"lr": 1e-3, "epochs": 20}, "tolerance": 0.2},
                "ours, by the gap to retraining on digits: half of three classes, a class, a tenth",
            ),
            "unlearn_sparse": Preset(
                {"descent": {"lr": 1e-4, "epochs": 5, "batch_size": 256, "weight_decay": 5e-4}},
                "https://github.com/OPTML-Group/Unlearn-Sparse, README",
            ),
        },
        mechanisms=("raise the loss", "train on forget"),
    )

    descent: Descent = Descent(lr=1e-3, epochs=3)
    cap: float | None = None
    tolerance: float | None = None
    norms: Literal["freeze", "update"] = "freeze"

    def __post_init__(self) -> None:
        if self.tolerance is not None and self.tolerance < 0:
            raise ValueError(f"expected tolerance >= 0 nats, got {self.tolerance}")

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        check_classes(request.task, request.forget.y)
        draws = generator(seed, "order")
        floor = None
        if self.tolerance is not None:
            floor = Floor(model, request, self.tolerance, self.descent.batch_size, seed)

        def climb(batch: Batch) -> Tensor:
            losses = request.task.losses(model(batch.x).float(), batch.y)
            return -losses.clamp(max=self.cap).mean() if self.cap else -losses.mean()

        up = Pass(request.forget, climb, self.norms, skip=None if floor is None else floor.broken)
        rounds = [[up]] * self.descent.epochs
        descend(model, rounds, self.descent, request.recipe, draws, watch=request.watch)
        if floor is not None:
            floor.broken()
            notes.add("epochs", floor.epochs)
        return model

    def work(self, sizes: Sizes) -> Cost:
        samples = sizes.forget * self.descent.epochs
        looks = 0 if self.tolerance is None else sizes.val * (self.descent.epochs + 1)
        return Cost(forward=samples + looks, backward=samples)
