"""Wrong answers on the forget set, right ones on the retain set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from expunge.core.descent import Pass
from expunge.core.state import Norms
from expunge.types import Batch, Data, Refused, Request, Settings, Task

Redraw = Literal["once", "epoch", "batch"]
"""When a wrong answer is drawn: once for all, at the start of each epoch, in every batch."""

Avoid = Literal["none", "true", "forgotten"]
"""Which classes are never given as an answer: none, the record's own, or all classes that
the forget set has records of, whole or in part."""


@dataclass(frozen=True, kw_only=True)
class Misleading(Settings):
    """How wrong answers are taught, and right ones beside them.

    Attributes:
        redraw: When a wrong answer is drawn.
        avoid: Which classes are never drawn.
        retain: Whether retained records are taught their right answers.
        mixed: Whether both sets are shuffled into one pass; else one pass follows the other.
        balanced: Whether each epoch has only as many retained records as forgotten ones, drawn
            anew every time.
        norms: BatchNorm's policy on retained records, and on batches of both.
        forget_norms: BatchNorm's policy on batches of forgotten records alone.
    """

    redraw: Redraw = "batch"
    avoid: Avoid = "true"
    retain: bool = True
    mixed: bool = False
    balanced: bool = False
    norms: Norms = "update"
    forget_norms: Literal["freeze", "update"] = "freeze"

    def __post_init__(self) -> None:
        if not self.retain and (self.mixed or self.balanced or self.norms == "recalibrate"):
            raise ValueError(
                "mixed, balanced and norms='recalibrate' are about retained records, which "
                "retain=False leaves out; drop them or retain=False"
            )

    def epoch(self, forget: int, retain: int) -> int:
        """Return how many records one epoch has."""
        return forget + self.retain * (min(forget, retain) if self.balanced else retain)


def mislead_then_teach(
    model: nn.Module, request: Request, how: Misleading, epochs: int, draws: torch.Generator
) -> Sequence[Sequence[Pass]]:
    """Return rounds of passes that teach wrong answers and, perhaps, right ones.

    Args:
        model: What is being trained.
        request: Whose records and task.
        how: Which answers, which records, in which order.
        epochs: Rounds.
        draws: Of the wrong answers, and of the retained records where not all are taught.
    """
    task, forget = request.task, request.forget

    def teach(batch: Batch) -> Tensor:
        return task.loss(model, batch)

    if how.mixed:
        return [[_mixed(model, request, how, draws)]] * epochs
    wrong = Wrong(task, forget, how, draws)

    def mislead(batch: Batch) -> Tensor:
        return task.loss(model, batch._replace(y=wrong(batch)))

    passes = [Pass(forget, mislead, how.forget_norms, before=wrong.begin)]
    if how.balanced:
        sample = Sample(request.retain, 0, len(forget), draws)
        passes.append(Pass(sample, teach, how.norms, before=sample.draw))
    elif how.retain:
        passes.append(Pass(request.retain, teach, how.norms))
    return [passes] * epochs


def _mixed(model: nn.Module, request: Request, how: Misleading, draws: torch.Generator) -> Pass:
    """Return a pass over both sets, shuffled together."""
    task, count = request.task, len(request.forget)
    # In what is joined, positions below `count` are the forgotten records'.
    both = request.forget.join(request.retain)
    wrong = Wrong(task, both.select(torch.arange(count)), how, draws)
    sample = Sample(both, count, count if how.balanced else len(request.retain), draws)

    def begin() -> None:
        wrong.begin()
        sample.draw()

    def teach(batch: Batch) -> Tensor:
        forgotten = (batch.index < count).nonzero()[:, 0]
        if len(forgotten):
            rows, y = forgotten.to(batch.y.device), batch.y.clone()
            y[rows] = wrong(Batch(batch.x, batch.y[rows], batch.index[forgotten]))
            batch = batch._replace(y=y)
        return task.loss(model, batch)

    return Pass(sample, teach, how.norms, before=begin)


class Wrong:
    """Wrong answers for the records of one data set."""

    def __init__(self, task: Task, forget: Data, how: Misleading, draws: torch.Generator) -> None:
        if how.redraw != "batch" and type(task).pose is not Task.pose:
            raise Refused(
                f"redraw='{how.redraw}' needs answers that belong to the records, but "
                f"{task.card.name} draws them with each question; use redraw='batch'"
            )
        self._task, self._draws, self._redraw, self._y = task, draws, how.redraw, forget.y
        self._classes = allowed(task, forget.y, how.avoid)
        self._answers: Tensor | None = None
        self._row = row_of(forget)

    def begin(self) -> None:
        """Draw the answers that the coming epoch is to have."""
        if self._redraw == "epoch" or (self._redraw == "once" and self._answers is None):
            self._answers = self._draw(self._y)

    def __call__(self, batch: Batch) -> Tensor:
        """Return the wrong answers of a batch's records; what they see is not read."""
        if self._redraw == "batch":
            return self._draw(batch.y)
        if self._answers is None:
            self.begin()
        assert self._answers is not None
        return self._answers[self._row(batch)]

    def _draw(self, y: Tensor) -> Tensor:
        if self._classes is None:
            return self._task.relabel(y, self._draws)
        drawn = torch.randint(len(self._classes), y.shape, generator=self._draws)
        return self._classes[drawn].to(y.device)


def allowed(task: Task, y: Tensor, avoid: Avoid) -> Int[Tensor, " k"] | None:
    """Return the classes to draw from, in order; None where each record avoids its own.

    Raises:
        Refused: Where the task has no classes to choose from, or none would be left.
    """
    if avoid == "true":
        return None
    if task.card.name != "classification":
        raise Refused(
            f"avoid='{avoid}' is about classes of records, and {task.card.name} has none; "
            "use avoid='true'"
        )
    kept = torch.ones(task.outputs, dtype=torch.bool)
    if avoid == "forgotten":
        kept[y.cpu().unique()] = False
    if not kept.any():
        raise Refused(
            "avoid='forgotten' leaves no class to give: the forget set has records of all "
            f"{task.outputs} classes; use avoid='true', which avoids each record's own"
        )
    return kept.nonzero()[:, 0]


class Sample(Data):
    """The first records of a data set, then some of the others, drawn anew at will.

    Nothing is copied: records are read where they are.
    """

    def __init__(self, data: Data, first: int, count: int, draws: torch.Generator) -> None:
        """Take the first `first` records and, of the others, at most `count`."""
        self._data, self._first, self._draws = data, first, draws
        self._count = min(count, len(data) - first)
        self._rows = torch.arange(first + self._count)

    def draw(self) -> None:
        """Draw the others, without replacement; where all are taken there is no draw."""
        others = len(self._data) - self._first
        if self._count < others:
            drawn = torch.randperm(others, generator=self._draws)[: self._count]
            self._rows[self._first :] = self._first + drawn

    @property
    def index(self) -> Int[Tensor, " n"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._data.index[self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def y(self) -> Tensor:
        return self._data.y[self._rows.to(self._data.y.device)]

    def read(self, rows: Int[Tensor, " k"]) -> Batch:
        return self._data.read(self._rows[rows.cpu()])

    def select(self, rows: Int[Tensor, " k"]) -> Data:
        return self._data.select(self._rows[rows.cpu()])

    def join(self, other: Data) -> Data:
        return self._data.select(self._rows).join(other)

    def to(self, device: str) -> Data:
        return self._data.select(self._rows).to(device)


def row_of(data: Data) -> Callable[[Batch], Tensor]:
    """Return what finds a batch's rows in `data`, wherever the answers of `data` are."""
    rows = torch.zeros(int(data.index.max()) + 1, dtype=torch.long)
    rows[data.index] = torch.arange(len(data))
    device = data.y.device
    return lambda batch: rows[batch.index.cpu()].to(device)
