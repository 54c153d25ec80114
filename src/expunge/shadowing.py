"""What attacks by shadow models compare: a target's margins beside its shadows'."""

import torch
from jaxtyping import Float
from torch import Tensor

from expunge.audit import Case
from expunge.core import losses
from expunge.lab import Lab
from expunge.pool import Shadows
from expunge.subject import Subject
from expunge.types import Data


def lab_of(case: Case) -> Lab:
    """Return the case's lab; without one an audit that needs models has been refused."""
    assert case.lab is not None
    return case.lab


def enough(shadows: int) -> None:
    """Refuse a number of shadow models that leaves a record with fewer than two on a side.

    Raises:
        ValueError: Below four.
    """
    if shadows < 4:
        raise ValueError(
            f"expected at least 4 shadows, so that each record has 2 on either side, got {shadows}"
        )


def margins(subject: Subject, case: Case, sets: tuple[Data, ...], seed: int) -> Float[Tensor, " n"]:
    """Return log p - log(1 - p) of the right answer, of one set's records after another's."""
    task = case.request.task
    return torch.cat([subject.score(data, task, losses.confidence, seed) for data in sets])


def shadows_on(case: Case, count: int, sets: tuple[Data, ...]) -> Shadows:
    """Return what so many shadow models say of the same records, in the same order."""
    lab = lab_of(case)
    shadows = lab.shadows(count)
    return shadows.at(torch.cat([lab.pool.find(data) for data in sets]))
