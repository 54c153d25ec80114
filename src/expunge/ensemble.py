"""Groups of models: what a subject's like say, against what retrained models say.

What compares distributions over models needs many of each kind. A subject stands for a group: the
unlearned model for further runs of its method, the original for copies of itself, a retrained
control for retrained models it is one of.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from expunge.audit import Case
from expunge.core.rng import generator
from expunge.lab import Lab
from expunge.subject import Subject
from expunge.types import Json

Group = Mapping[str, Tensor]
"""What is known of some models: named tensors with a row for each."""

Read = Callable[[Iterable[Subject]], Group]


def chosen(group: Group, rows: Tensor) -> Group:
    """Return some models of a group."""
    return {name: part[rows] for name, part in group.items()}


def joined(first: Group, second: Group) -> Group:
    """Return the models of both groups."""
    return {name: torch.cat([part, second[name]]) for name, part in first.items()}


@dataclass(frozen=True, eq=False, kw_only=True)
class Ensemble:
    """As many models of a subject's kind as of retrained ones; twice as many of these are made.

    Attributes:
        case: Whose lab makes them.
        count: Models on each side, the subject included.
        read: Returns what is known of models; asked once of each kind, and kept.
        about: Plain data that tells this `read` from others.
        seed: Of the draws between retrained models.
    """

    case: Case
    count: int
    read: Read = field(repr=False)
    about: Mapping[str, Json]
    seed: int

    def of(self, subject: Subject) -> tuple[Group, Group]:
        """Return the subject's group and the retrained models it is held against.

        Which retrained models a retrained control is with, and which against, is drawn for
        each, so that controls show how far chance goes; it never is against itself.
        """
        n, own = self.count, self.read([subject])
        if subject is self.case.original:
            copies = chosen(own, torch.zeros(n, dtype=torch.long))
            return copies, chosen(self.retrained, torch.arange(n))
        if subject is self.case.unlearned:
            group = joined(own, self._told("unlearned", n - 1))
            return group, chosen(self.retrained, torch.arange(n))
        order = torch.randperm(
            2 * n, generator=generator(self.seed, "control", subject.digest or "")
        )
        made = self.lab.made
        rest = order[[made.get(("retrained", i)) is not subject for i in order.tolist()]]
        group = joined(own, chosen(self.retrained, rest[: n - 1]))
        return group, chosen(self.retrained, rest[n - 1 : 2 * n - 1])

    def halves(self, times: int) -> Iterator[tuple[Group, Group]]:
        """Yield random halves of the retrained models: what chance alone sets apart."""
        draws = generator(self.seed, "halves")
        for _ in range(times):
            order = torch.randperm(2 * self.count, generator=draws)
            first, second = order[: self.count], order[self.count :]
            yield chosen(self.retrained, first), chosen(self.retrained, second)

    @cached_property
    def retrained(self) -> Group:
        """Twice as many retrained models as a side has."""
        return self._told("retrained", 2 * self.count)

    @property
    def lab(self) -> Lab:
        """What makes the models."""
        assert self.case.lab is not None  # an audit that needs models is refused without one
        return self.case.lab

    def key(self, kind: str, count: int) -> dict[str, Json]:
        """Return plain data that what is kept of so many models of a kind depends on."""
        request, unlearn = self.case.request, self.lab.unlearn
        data = {"retain": request.retain, "forget": request.forget, "test": self.case.test}
        return {
            **self.about,
            "models": [kind, count],
            "recipe": request.recipe,
            "data": {name: part.digest for name, part in data.items()},
            "lab": self.lab.seed,
            "method": unlearn.about if unlearn and kind == "unlearned" else None,
        }

    def _told(self, kind: str, count: int) -> Group:
        """Return what the lab's models say, read once."""
        return self.lab.keep(self.key(kind, count), lambda: self.read(self.lab.each(kind, count)))
