"""Whatever can be audited: a model, a served function, a table of predictions."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from safetensors.torch import save
from torch import Tensor, nn

from expunge.core.cost import Cost
from expunge.core.losses import PADDING
from expunge.core.rng import generator
from expunge.core.state import finite, mode
from expunge.types import Data, Inputs, Json, Task, fingerprints
from expunge.types import Refused as Refused

Score = Callable[[Tensor, Tensor], Tensor]
Answers = tuple[Tensor, Tensor]

SLACK = 1e-2  # by which rounded probabilities may miss a sum of 1
KEPT = 2**26  # numbers kept per data set, 256 MiB; larger answers are computed anew


class Access(IntEnum):
    """What a subject gives; each level includes those below it."""

    LABELS = 1
    PROBABILITIES = 2
    QUERIES = 3  # probabilities for any record that the auditor makes up
    WEIGHTS = 4


@dataclass(frozen=True, eq=False, kw_only=True)
class Subject(ABC):
    """A model as its auditor may see it.

    Attributes:
        cost: What it took to make it, where that is known.
        notes: What its maker noted of the making, as plain data.
        answers: What audits have learned of it, where they may ask again.
    """

    cost: Cost | None = None
    notes: Mapping[str, Json] = field(default_factory=dict)
    answers: dict[Hashable, Any] = field(default_factory=dict, repr=False, init=False)
    _kept: WeakKeyDictionary[Data, Answers] = field(
        default_factory=WeakKeyDictionary, repr=False, init=False
    )

    @property
    @abstractmethod
    def access(self) -> Access:
        """What it gives."""

    @property
    def live(self) -> bool:
        """Whether it answers for any record, not only for those whose answers were saved."""
        return True

    @abstractmethod
    def outputs(self, x: Inputs) -> Tensor:
        """Return what the task's losses take: logits, or log-probabilities."""

    @property
    def digest(self) -> str | None:
        """Hash of what it is, for what is kept of it; None where that cannot be known."""
        return None

    @property
    def model(self) -> nn.Module:
        """The network itself."""
        raise Refused(f"{type(self).__name__} has no weights; give the model itself")

    def labels(self, x: Inputs) -> Tensor:
        """Return the most likely class of each record."""
        return self.outputs(x).argmax(-1)

    def score(self, data: Data, task: Task, score: Score, seed: int, size: int = 128) -> Tensor:
        """Return `score(outputs, y)` of every record, in order, on the CPU.

        Args:
            data: The records.
            task: Poses them as questions.
            score: Takes outputs and right answers, returns one row per record.
            seed: Of the questions, where the task draws them at random.
            size: Records per batch; memory only, not the result.
        """
        parts = [score(*answer) for answer in self._answers(data, task, seed, size)]
        return torch.cat(parts) if parts else torch.empty(0)

    def said(self, data: Data, task: Task, size: int = 128) -> tuple[Tensor, Tensor]:
        """Return the class said and the right one, of every record, on the CPU."""
        if self.access > Access.LABELS:
            return self.score(data, task, lambda out, _: out.argmax(-1), 0, size), data.y.cpu()
        parts = [self.labels(batch.x).cpu() for batch in data.batches(size)]
        return torch.cat(parts), data.y.cpu()

    def right(self, data: Data, task: Task) -> Tensor:
        """Return how much of every record the model is right about, in [0, 1], on the CPU.

        That is 0 or 1 of one label. Of a sequence it is the share of the places that are asked
        for: the others are told by PADDING.

        Raises:
            Refused: For a record of which nothing is asked for.
        """
        said, y = (part.reshape(len(data), -1) for part in self.said(data, task))
        asked = y != PADDING
        counts = asked.sum(1)
        if not bool(counts.all()):
            raise Refused(
                f"no place of {int((counts == 0).sum())} of {len(data)} records is asked for: all "
                f"their answers are {PADDING}; leave such records out"
            )
        return ((said == y) & asked).sum(1).double() / counts

    def _answers(self, data: Data, task: Task, seed: int, size: int) -> Iterator[Answers]:
        """Yield outputs and right answers; several audits ask the same of a classifier."""
        if data in self._kept:
            yield self._kept[data]
            return
        drawn = type(task).pose is not Task.pose
        keep = not drawn and 0 < len(data) * task.outputs * max(1, data.y[0:1].numel()) <= KEPT
        parts: list[Answers] = []
        draws = generator(seed, "pose")
        for batch in data.batches(size):
            posed = task.pose(batch, draws)
            answer = self.outputs(posed.x).float().cpu(), posed.y.cpu()
            if keep:
                parts.append(answer)
            else:
                yield answer
        if keep:
            outputs, y = zip(*parts, strict=True)
            self._kept[data] = torch.cat(outputs), torch.cat(y)
            yield self._kept[data]


@dataclass(frozen=True, eq=False)
class WhiteBox(Subject):
    """A network at hand; read in eval mode, left in the mode it was in."""

    net: nn.Module

    @property
    def access(self) -> Access:
        return Access.WEIGHTS

    @cached_property
    def digest(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        state = {k: v.cpu().contiguous() for k, v in self.net.state_dict().items()}
        return hashlib.sha256(save(state)).hexdigest()

    @cached_property
    def finite(self) -> bool:
        """Whether all its weights are."""
        return finite(self.net)

    @property
    def model(self) -> nn.Module:
        return self.net

    @torch.no_grad()
    def outputs(self, x: Inputs) -> Tensor:
        with mode(self.net, training=False):
            return self.net(x)


def distribution(answer: Tensor) -> Tensor:
    """Return a black box's answer, if it is one probability per class.

    Raises:
        Refused: For logits, for scores that do not add up to 1, for labels alone.
    """
    if answer.dim() < 2 or not answer.is_floating_point():
        raise Refused(
            "expected one probability per class, got a "
            f"{tuple(answer.shape)} tensor of {answer.dtype}; a function that answers with "
            "labels is a Served(function, Access.LABELS)"
        )
    sums = answer.float().sum(-1)
    if not bool((answer >= 0).all() and ((sums - 1).abs() < SLACK).all()):
        raise Refused(
            "expected probabilities that add up to 1, got numbers from "
            f"{float(answer.min()):.3g} to {float(answer.max()):.3g} with sums from "
            f"{float(sums.min()):.3g} to {float(sums.max()):.3g}; if they are logits, apply "
            "softmax(-1) in the function"
        )
    return answer


@dataclass(frozen=True, eq=False)
class Served(Subject):
    """A function that answers with probabilities, or with labels alone."""

    respond: Callable[[Inputs], Tensor]
    gives: Access = Access.QUERIES

    @property
    def access(self) -> Access:
        return self.gives

    def outputs(self, x: Inputs) -> Tensor:
        if self.access < Access.PROBABILITIES:
            raise Refused("this function answers with labels; probabilities are needed")
        return distribution(self.respond(x)).clamp(min=torch.finfo(torch.float32).tiny).log()

    def labels(self, x: Inputs) -> Tensor:
        answer = self.respond(x)
        return answer if self.access is Access.LABELS else answer.argmax(-1)


@dataclass(frozen=True, eq=False)
class Table(Subject):
    """Saved predictions, found again by the content of the record.

    Attributes:
        rows: Log-probabilities by record fingerprint.
    """

    rows: Mapping[str, Tensor]

    @property
    def access(self) -> Access:
        return Access.PROBABILITIES

    @property
    def live(self) -> bool:
        return False

    @classmethod
    def of(cls, data: Data, probabilities: Tensor) -> "Table":
        """Tabulate the probabilities of `data`, record by record."""
        names = [name for x, _, _ in data.batches(256) for name in fingerprints(x)]
        tiny = torch.finfo(torch.float32).tiny
        return cls(dict(zip(names, probabilities.clamp(min=tiny).log(), strict=True)))

    def outputs(self, x: Inputs) -> Tensor:
        names = fingerprints(x)
        missing = sum(name not in self.rows for name in names)
        if missing:
            raise Refused(
                f"the table lacks {missing} of {len(names)} records asked for; export "
                "predictions for the forget set and for the non-members too"
            )
        return torch.stack([self.rows[name] for name in names])
