"""Kinds of flags, and what every command is."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar, runtime_checkable

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

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


NESTED = ConstructorRegistry()
"""Reads settings within settings, such as a method's own methods, as `name,key=value`."""


@NESTED.primitive_rule
def _named(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    types = sys.modules.get("expunge.types")  # help does not wait for torch
    if types is None or info.type not in types.NAMED:
        return None
    from expunge.cli.compact import table

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="NAME[,KEY=VALUE]",
        instance_from_str=lambda given: types.NAMED[info.type](table(given[0])),
        is_instance=lambda value: isinstance(value, info.type),
        str_from_instance=lambda value: [value.card.name],
    )


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
