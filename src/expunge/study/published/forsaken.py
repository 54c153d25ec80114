"""The tables of the paper on Forsaken, from `forsaken.toml`."""

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Literal

Kind = Literal["OOD", "ID"]


@cache
def tables() -> Mapping[str, Any]:
    """Return every table, keyed as in the file."""
    file = files("expunge.study.published") / "forsaken.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


def row(kind: Kind, of: str, others: str | None) -> str | None:
    """Return the paper's name of a data set, or None where it has none.

    Args:
        kind: `OOD` where outsiders are forgotten, `ID` where records of the task are.
        of: Our name of the data set.
        others: Our name of the one that outsiders are from, `mislabelled` for records of the
            data set itself, or `classes` for classes that the task leaves out.
    """
    for name, about in tables()["data"].items():
        if (about["kind"], about["of"]) == (kind, of) and others in about.get("others", [others]):
            return name
    return None


def printed(table: str, *keys: str) -> Sequence[float]:
    """Return what the paper prints at a place of a table; empty where it prints nothing."""
    found: Any = tables()[table]
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    if found is None:
        return []
    return [float(value) for value in (found if isinstance(found, list) else [found])]


def note(number: str) -> str:
    """Return what to know of a table's numbers before setting others beside them."""
    return tables()["notes"].get(number, "")
