"""Wrong answers on the forget set, right ones on the retain set."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from expunge.core.descent import Pass
from expunge.core.state import Norms
from expunge.types import Batch, Data, Request, Task

Redraw = Literal["once", "batch"]


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
        redraw: Whether a record gets its wrong answer once, or anew in every batch.
        norms: BatchNorm's policy on the retain pass; the forget pass always freezes it,
            since forget batches alone would drag its statistics towards them.
        retain: Whether there is a retain pass.
    """
    task = request.task
    wrong = _wrong(task, request.forget, draws, redraw)

    def mislead(batch: Batch) -> Tensor:
        return task.loss(model, batch._replace(y=wrong(batch)))

    def teach(batch: Batch) -> Tensor:
        return task.loss(model, batch)

    passes = [Pass(request.forget, mislead, "freeze")]
    if retain:
        passes.append(Pass(request.retain, teach, norms))
    return [passes] * epochs


def _wrong(
    task: Task, forget: Data, draws: torch.Generator, redraw: Redraw
) -> Callable[[Batch], Tensor]:
    if redraw == "batch":
        return lambda batch: task.relabel(batch.y, draws)
    if type(task).pose is not Task.pose:
        raise ValueError(
            f"redraw='once' needs answers that belong to the records, but {task.card.name} "
            "draws them with each question; use redraw='batch'"
        )
    answers = task.relabel(forget.y, draws)
    row = torch.zeros(int(forget.index.max()) + 1, dtype=torch.long)
    row[forget.index] = torch.arange(len(forget))
    return lambda batch: answers[row[batch.index.cpu()].to(answers.device)]
