"""What a model answers to records it was never trained on: one posterior per group of records.

Of a classifier a group is the records that it gives one class; of a sequence model, a position.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from expunge.core.losses import PADDING
from expunge.types import Refused

Answer = tuple[Tensor, Tensor]
"""Logits of some records, and what is right."""

NONE = (
    "expected records that the model was never trained on, got none; hold more out (`holdout`), "
    "or give some of the forget set's kind"
)
TINY = 1e-8  # least probability: what is 0 would make a divergence infinite


class Sums(NamedTuple):
    """Posteriors added up by group, and how many records each group has."""

    total: Float[Tensor, "groups classes"]
    records: Int[Tensor, " groups"]


def sums_by_class(answers: Iterable[Answer]) -> Sums:
    """Return the posteriors' sums, by the class of their largest entry."""
    sums = []
    for logits, _ in answers:
        p = logits.double().softmax(-1)
        group = F.one_hot(logits.argmax(1), p.shape[1])
        sums.append(Sums(group.to(p).T @ p, group.sum(0)))
    return _added(sums)


def sums_by_position(answers: Iterable[Answer]) -> Sums:
    """Return the posteriors' sums at each position, where an answer is wanted."""
    sums = []
    for logits, y in answers:
        wanted = y != PADDING
        p = logits.double().softmax(-1) * wanted[..., None]
        sums.append(Sums(p.sum(0), wanted.sum(0)))
    return _added(sums)


def _added(sums: list[Sums]) -> Sums:
    if not sums:
        raise Refused(NONE)
    totals, records = zip(*sums, strict=True)
    return Sums(torch.stack(totals).sum(0), torch.stack(records).sum(0))


def by_class(sums: Sums, enough: int) -> Float[Tensor, "classes classes"]:
    """Return the mean posterior of each class (row), shrunk where it has few records.

    Where a class has fewer than `enough`, as many as that are added that look like the mean over
    all records, with its largest entry swapped into the class's place.

    Args:
        sums: Of each class.
        enough: Records that need no help.

    Raises:
        ValueError: Where there are no records at all.
    """
    return _settled(_shrunk(sums, swapped(_overall(sums)), enough))


def by_position(sums: Sums) -> Float[Tensor, "positions classes"]:
    """Return the mean posterior at each position; at one without records, that over all.

    Raises:
        ValueError: Where there are no records at all.
    """
    return _settled(_shrunk(sums, _overall(sums).expand_as(sums.total), 1))


def swapped(p: Float[Tensor, " classes"]) -> Float[Tensor, "classes classes"]:
    """Return, for each class (row), the posterior with its largest entry in that class's place."""
    top, every = int(p.argmax()), torch.arange(len(p), device=p.device)
    rows = p.repeat(len(p), 1)
    rows[:, top] = p
    rows[every, every] = p[top]
    return rows


def divergences(
    log_p: Float[Tensor, "*n classes"],
    logits: Float[Tensor, "n *positions classes"],
    wanted: Bool[Tensor, "n positions"] | None = None,
) -> Float[Tensor, " n"]:
    """Return KL(p || softmax of logits) per record in nats, averaged over its wanted positions.

    Its gradient by the logits is the difference of the posteriors: bounded, and largest where the
    model is surer than p. The other way round it would vanish there.

    Args:
        log_p: Logarithm of p: of each record, or of each position and the same for all records.
        logits: Of the model.
        wanted: Which positions count; None where there are no positions.
    """
    each = (log_p.exp() * (log_p - logits.log_softmax(-1))).sum(-1)
    if wanted is None:
        return each
    return (each * wanted).sum(1) / wanted.sum(1).clamp(min=1)


def _overall(sums: Sums) -> Tensor:
    if not int(sums.records.sum()):
        raise Refused(NONE)
    return sums.total.sum(0) / sums.records.sum()


def _shrunk(sums: Sums, fallback: Tensor, enough: int) -> Tensor:
    helped = torch.where(sums.records < enough, enough, 0)
    return (sums.total + helped[:, None] * fallback) / (sums.records + helped)[:, None]


def _settled(p: Tensor) -> Tensor:
    """Return p away from 0, its rows adding up to 1."""
    p = p.clamp(min=TINY)
    return p / p.sum(-1, keepdim=True)
