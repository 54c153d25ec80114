"""Wrong answers on the forget set, right ones on the retain set."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from expunge.core.descent import Pass
from expunge.core.state import Norms
from expunge.types import Batch, Data, Request, Task

Redraw = Literal["once", "epoch", "batch"]
"""When a wrong answer is drawn: once for all, at the start of each epoch, in every batch."""


def mislead_then_teach(
    model: nn.Module,
    request: Request,
    epochs: int,
    draws: torch.Generator,
    *,
    redraw: Redraw = "batch",
    norms: Norms = "update",
    retain: bool = True,
) -> Sequence[Sequence[Pass]]:
    """Return rounds of one pass over the forget set and, perhaps, one over the retain set.

    Args:
        model: What is being trained.
        request: Whose records and task.
        epochs: Rounds.
        draws: Of the wrong answers.
        redraw: When a record is given its wrong answer.
        norms: BatchNorm's policy on the retain pass; the forget pass always freezes it,
            since forget batches alone would drag its statistics towards them.
        retain: Whether there is a retain pass.
    """
    task = request.task
    wrong = Wrong(task, request.forget, draws, redraw)

    def mislead(batch: Batch) -> Tensor:
        return task.loss(model, batch._replace(y=wrong(batch)))

    def teach(batch: Batch) -> Tensor:
        return task.loss(model, batch)

    passes = [Pass(request.forget, mislead, "freeze", before=wrong.begin)]
    if retain:
        passes.append(Pass(request.retain, teach, norms))
    return [passes] * epochs


class Wrong:
    """Wrong answers for the records of one data set."""

    def __init__(self, task: Task, forget: Data, draws: torch.Generator, redraw: Redraw) -> None:
        if redraw != "batch" and type(task).pose is not Task.pose:
            raise ValueError(
                f"redraw='{redraw}' needs answers that belong to the records, but "
                f"{task.card.name} draws them with each question; use redraw='batch'"
            )
        self._task, self._draws, self._redraw, self._y = task, draws, redraw, forget.y
        self._answers: Tensor | None = None
        self._row = row_of(forget)

    def begin(self) -> None:
        """Draw the answers that the coming epoch is to have."""
        if self._redraw == "epoch" or (self._redraw == "once" and self._answers is None):
            self._answers = self._task.relabel(self._y, self._draws)

    def __call__(self, batch: Batch) -> Tensor:
        """Return the wrong answers of a batch's records."""
        if self._redraw == "batch":
            return self._task.relabel(batch.y, self._draws)
        if self._answers is None:
            self.begin()
        assert self._answers is not None
        return self._answers[self._row(batch)]


def row_of(data: Data) -> Callable[[Batch], Tensor]:
    """Return what finds a batch's rows in `data`, wherever the answers of `data` are."""
    rows = torch.zeros(int(data.index.max()) + 1, dtype=torch.long)
    rows[data.index] = torch.arange(len(data))
    device = data.y.device
    return lambda batch: rows[batch.index.cpu()].to(device)
