"""Kinds of flags, and what every command is."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Protocol, TypeVar, runtime_checkable

import tyro

T = TypeVar("T")
Work = Callable[[], int]

Switch = Annotated[bool, tyro.conf.arg(help_behavior_hint="")]
MaybePath = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
# `--flag a b` and `--flag a --flag b` are the same; the parser alone would drop the first.
Paths = Annotated[
    tuple[tuple[Path, ...], ...],
    tyro.conf.UseAppendAction,
    tyro.conf.arg(metavar="PATH ...", help_behavior_hint=""),
]
Names = Annotated[
    tuple[tuple[str, ...], ...],
    tyro.conf.UseAppendAction,
    tyro.conf.arg(metavar="NAME ...", help_behavior_hint=""),
]
Conditions = Annotated[
    tuple[tuple[str, ...], ...],
    tyro.conf.UseAppendAction,
    tyro.conf.arg(metavar="CONDITION ...", help_behavior_hint=""),
]


@runtime_checkable
class Command(Protocol):
    """One of the verbs of the command line."""

    def prepare(self) -> Work:
        """Read and check all that the user gave, write nothing, and return the rest.

        Only here is a ValueError the user's mistake, told in a sentence. One that comes
        up during the work is ours, and keeps its traceback.
        """
        ...


def flat(groups: Sequence[Sequence[T]], flag: str) -> tuple[T, ...]:
    """Return what several uses of a flag gave together.

    Raises:
        ValueError: When a use of it gave nothing: a gate left empty must not stand open.
    """
    if not all(groups):
        raise ValueError(f"{flag} was given without a value; give one, or leave it out")
    return tuple(value for group in groups for value in group)
