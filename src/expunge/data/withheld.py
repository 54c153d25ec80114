"""Another data set, of which some classes are withheld from training altogether.

An attack that asks whether a class was ever trained on is calibrated on classes that never were.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from expunge.data.card import SourceCard
from expunge.data.forget import class_number
from expunge.data.relabelled import Relabelled
from expunge.data.strata import alone, among
from expunge.data.tensors import TensorData
from expunge.types import Data, Sets, Source


def numbering(count: int, classes: Sequence[int]) -> Int[Tensor, " count"]:
    """Return each class's number among those of `classes`, in their order; -1 for the others."""
    numbers = torch.full((count,), -1)
    numbers[torch.tensor(classes)] = torch.arange(len(classes))
    return numbers


@dataclass(frozen=True, kw_only=True)
class Withheld(Source):
    """Another data set without some of its classes, whose records are kept apart.

    The other classes keep their order and their names, and are numbered anew from 0, so that a
    network has outputs for them alone. So are those withheld, in the order they are given in;
    their training and test records are put together, since no model is trained on either.

    Attributes:
        of: The data set.
        classes: Those withheld, by name or by number in that data set.
    """

    card = SourceCard(
        name="withheld",
        source="https://arxiv.org/abs/2507.20573",
        note="another data set, of which some classes are withheld from training",
    )

    of: Source
    classes: tuple[str | int, ...]

    def __post_init__(self) -> None:
        if not self.classes:
            raise ValueError("expected at least one class to withhold, got none")

    def load(self) -> Sets:
        sets = self.of.load()
        y = sets.train.y.cpu()
        if y.dim() != 1 or y.is_floating_point():
            raise ValueError(
                f"the records of {self.of.card.name} have no classes to withhold: their answers "
                f"are of shape {tuple(y.shape)} and {y.dtype}"
            )
        if sets.planted is not None or sets.unseen is not None:
            kind = "planted records" if sets.planted is not None else "withheld classes"
            raise ValueError(
                f"{self.of.card.name} has {kind} already; withhold all classes in one go, and "
                "plant records in what is left: give this data set as the `of` of the other"
            )
        count = max(len(sets.classes), 1 + int(max(y.max(), sets.test.y.max())))
        out = [class_number(name, sets.classes, count) for name in self.classes]
        if len(set(out)) < len(out):
            raise ValueError(f"expected each class to withhold once, got {list(self.classes)}")
        kept = [number for number in range(count) if number not in out]
        if len(kept) < 2:
            raise ValueError(
                f"withholding {len(out)} of {count} classes leaves {len(kept)} to train on; "
                "withhold fewer"
            )
        return _parted(sets, numbering(count, kept), numbering(count, out))


def _parted(sets: Sets, kept: Tensor, out: Tensor) -> Sets:
    """Return the records of the classes that are kept, and besides those of the others.

    Args:
        sets: Of all classes.
        kept: Each class's new number among those kept, or -1.
        out: Each class's new number among those withheld, or -1.
    """
    train, test = (_of(data, kept) for data in (sets.train, sets.test))
    rows = (kept[sets.train.y.cpu().long()] >= 0).nonzero()[:, 0]
    names = tuple(name for number, name in enumerate(sets.classes) if kept[number] >= 0)
    unseen = _of(sets.train, out).join(_of(sets.test, out))
    left = among(sets, rows)
    return left._replace(train=train, test=test, classes=names, unseen=unseen)


def _of(data: Data, numbers: Tensor) -> Data:
    """Return the records of the classes that have a number, answered with it."""
    answers = numbers[data.y.cpu().long()]
    rows = (answers >= 0).nonzero()[:, 0]
    chosen, y = alone(data, rows), answers[rows].to(data.y)
    return TensorData(chosen.x, y) if isinstance(chosen, TensorData) else Relabelled(chosen, y)
