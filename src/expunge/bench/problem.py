"""A deletion problem: records, which of them go, and how the original was trained."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch

from expunge.config import key
from expunge.core import descent
from expunge.data.check import checked
from expunge.data.split import Forget, Holdout, Parts, comparable, divide, request, unseen
from expunge.lab import Lab
from expunge.pool import Pool
from expunge.subject import WhiteBox
from expunge.tasks.categorical import Classification, NextToken
from expunge.tasks.denoising import Denoising
from expunge.types import (
    Architecture,
    Augment,
    Data,
    Descent,
    Recipe,
    Request,
    Sets,
    Settings,
    Source,
    Start,
    Task,
)


@dataclass(frozen=True, kw_only=True)
class Training(Settings):
    """How originals and their controls are trained.

    Attributes:
        descent: The optimiser.
        augment: Changes of the images.
        weights: Of the classes in the loss.
        task: What the model is asked. Left out, an architecture that denoises denoises, and any
            other is asked for the records' answers: the next token, or the class.
    """

    descent: Descent = Descent(lr=0.05, epochs=20, schedule="onecycle", weight_decay=5e-4)
    augment: Augment = Augment()
    weights: tuple[float, ...] | None = None
    task: Literal["denoising"] | None = None


@dataclass(frozen=True, kw_only=True)
class Pretraining(Settings):
    """Training on other records first: what stands in for weights from a model hub.

    Every model of the run then starts from the same weights, all but its head; so do the
    retrained ones, since a network that was to be deleted from was not born at random.

    Attributes:
        data: The other records; every part of them is trained on but the test set.
        descent: The optimiser.
        augment: Changes of the images.
        seed: Of the weights and of the order.
    """

    data: Source
    descent: Descent = Descent(lr=0.05, epochs=20, schedule="onecycle", weight_decay=5e-4)
    augment: Augment = Augment()
    seed: int = 0

    def recipe(self, sets: Sets, model: Architecture) -> Recipe:
        """Return how `model` is trained on the other records."""
        return Recipe(
            model=model,
            inputs=sets.train.shape,
            task=task_of(sets, model, Training()),
            descent=self.descent,
            augment=self.augment,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem:
    """Everything an unlearning method and its audits start from.

    Attributes:
        source: Where the records come from; None for records handed over in Python.
        forget: How the forget set was chosen.
        sets: The records.
        parts: Positions of each part.
        recipe: How the original was trained.
        request: What a method is shown.
        test: What no method is shown.
        known: Whether it is known that the original was trained by the recipe.
        alike: What of it, or besides it, audits compare with the forget set; None: all of it.
    """

    source: Source | None
    forget: Forget
    sets: Sets = field(repr=False)
    parts: Parts = field(repr=False)
    recipe: Recipe
    request: Request = field(repr=False)
    test: Data = field(repr=False)
    known: bool = True
    alike: Data | None = field(default=None, repr=False)

    @cached_property
    def digests(self) -> dict[str, str]:
        """Content hashes of every part."""
        names = ("retain", "forget", "val", "nonmembers")
        found = {name: getattr(self.request, name).digest for name in names}
        if self.alike is not None:
            found["alike"] = self.alike.digest
        if self.sets.unseen is not None:
            found["unseen"] = self.sets.unseen.digest
        return found | {"train": self.sets.train.digest, "test": self.test.digest}

    @cached_property
    def pool(self) -> Pool:
        """What shadow models draw from: the same for every forget set of these records."""
        records = self.sets.train.join(self.test)
        planted = self.sets.planted
        return Pool(records) if planted is None else Pool(records.join(planted), len(planted))

    @cached_property
    def shadowing(self) -> Lab:
        """A lab that is asked what shadows take; it trains none."""
        return self.lab(0)

    def lab(self, seed: int, **more: Any) -> Lab:
        """Return a lab for this problem; `more` are further fields of it."""
        parts = {"test": self.test, "alike": self.alike, "records": self.pool}
        return Lab(request=self.request, seed=seed, known=self.known, **parts, **more)

    @cached_property
    def key(self) -> str:
        """Hash of the records' content, the split and the recipe."""
        return key({"digests": self.digests, "recipe": self.recipe})

    def train(self, seed: int = 0) -> torch.nn.Module:
        """Train an original in memory, by the recipe, on retain and forget together."""
        return descent.train(self.recipe, self.sets.train, seed)

    def retrained(self, seed: int = 0) -> WhiteBox:
        """Train a control in memory that never sees the forget set."""
        return WhiteBox(descent.train(self.recipe, self.request.retain, seed))


def pose(
    sets: Sets,
    forget: Forget,
    model: Architecture,
    training: Training,
    *,
    holdout: Holdout | None = None,
    source: Source | None = None,
    start: Start | None = None,
    device: str = "cpu",
) -> Problem:
    """Check the records, divide them, and say how the original was trained.

    Raises:
        ValueError: In one sentence, for records or settings that make no sense together.
    """
    task = task_of(sets, model, training)
    on_device(device)
    checked(sets, task)
    parts = divide(sets, forget, holdout or Holdout())
    sets = sets._replace(train=sets.train.to(device), test=sets.test.to(device))
    if sets.planted is not None:
        sets = sets._replace(planted=sets.planted.to(device))
    if sets.unseen is not None:
        sets = sets._replace(unseen=sets.unseen.to(device))
    recipe = Recipe(
        model=model,
        inputs=sets.train.shape,
        task=task,
        descent=training.descent,
        augment=training.augment,
        start=start,
    )
    posed = request(sets, parts, recipe)
    return Problem(
        source=source,
        forget=forget,
        sets=sets,
        parts=parts,
        recipe=recipe,
        request=posed,
        test=unseen(sets, parts),
        alike=comparable(sets, parts),
    )


def task_of(sets: Sets, model: Architecture, training: Training) -> Task:
    """Return the task that the architecture or the training names, or the answers call for.

    Raises:
        ValueError: For a denoiser of records that have no class, or more than it is made for.
    """
    if model.denoises or training.task == "denoising":
        return _denoising(sets, model, training)
    if sets.train.y.dim() > 1:
        found = NextToken(classes=1 + int(max(sets.train.y.max(), sets.test.y.max())))
        return model.adapt(found)
    classes = len(sets.classes) or 1 + int(sets.train.y.max())
    weights = training.weights
    found = Classification(classes=classes, weights=tuple(weights) if weights else None)
    return model.adapt(found)  # some networks are trained by a loss of their own


def _denoising(sets: Sets, model: Architecture, training: Training) -> Denoising:
    if training.weights is not None:
        raise ValueError("denoising does not weigh classes; leave `weights` out of the training")
    y = sets.train.y
    if y.dim() > 1 or y.is_floating_point():
        raise ValueError(
            f"denoising is conditioned on one class for each record, got answers of shape "
            f"{tuple(y.shape[1:])} and {y.dtype}; take records of images or features with a class"
        )
    classes = max(len(sets.classes), 1 + int(max(y.max(), sets.test.y.max())))
    conditions = getattr(model, "conditions", classes)
    if conditions < classes:
        raise ValueError(
            f"the data has {classes} classes, but '{model.card.name}' is made for {conditions} "
            f"conditions; set conditions = {classes}"
        )
    pixels = len(sets.train.shape) == 3
    return Denoising(mean=0.5, std=0.5) if pixels else Denoising()


def on_device(name: str) -> torch.device:
    """Return the device, or say why it cannot be used."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device '{name}'; known: cpu, cuda, cuda:0, mps") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device '{name}' was asked for, but this PyTorch ({torch.__version__}) sees no "
            "GPU; install a CUDA build and a driver, or use --device cpu"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device 'mps' was asked for, but it is not available; use --device cpu")
    return device
