"""Records that may be compared: the same data, model, training and kind of forget set."""

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

Record = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, eq=False, kw_only=True)
class Group:
    """One problem and every record about it.

    Attributes:
        title: The data set, the model and the forget set, told apart from other groups'.
        records: In the order they were read.
    """

    title: str
    records: Sequence[Record] = field(repr=False)

    @property
    def first(self) -> Record:
        return self.records[0]


def flat(settings: Mapping[str, Any], head: str = "") -> dict[str, Any]:
    """Return nested settings as one level of dotted names."""
    out: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            out |= flat(value, f"{head}{name}.")
        else:
            out[head + name] = value
    return out


def spoken(value: object) -> str:
    """Return a setting as a person writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def labels(things: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return each thing's name, with the settings that tell it from its namesakes."""
    settings = [flat(thing.get("settings") or {}) for thing in things]
    out = []
    for thing, mine in zip(things, settings, strict=True):
        namesakes = [
            s for other, s in zip(things, settings, strict=True) if other["name"] == thing["name"]
        ]
        names = dict.fromkeys(name for s in namesakes for name in s)
        differing = [n for n in names if len({spoken(s.get(n)) for s in namesakes}) > 1]
        told = ", ".join(f"{n.split('.')[-1]} {spoken(mine.get(n))}" for n in differing)
        out.append(f"{thing['name']} ({told})" if told else str(thing["name"]))
    return out


def gathered(things: Iterable[T], by: Callable[[T], Hashable]) -> dict[Hashable, list[T]]:
    """Return the things in lists of those that `by` gives the same, in order."""
    out: dict[Hashable, list[T]] = {}
    for thing in things:
        out.setdefault(by(thing), []).append(thing)
    return out


def frozen(*parts: object) -> str:
    """Return plain data as text that is equal where the data is."""
    return json.dumps(parts, sort_keys=True)


def group(records: Sequence[Record]) -> list[Group]:
    """Return the records in groups that may be compared, in the order they first occur."""

    def problem(record: Record) -> Hashable:
        parts = [
            (record[k]["name"], record[k].get("settings")) for k in ("data", "model", "forget")
        ]
        return frozen(*parts, record["data"].get("digest"), record["training"])

    lists = list(gathered(records, problem).values())
    firsts = [records[0] for records in lists]
    named = [labels([first[part] for first in firsts]) for part in ("data", "model", "forget")]
    titles = [" · ".join(parts) for parts in zip(*named, strict=True)]
    training = labels(
        [{"name": t, "settings": f["training"]} for t, f in zip(titles, firsts, strict=True)]
    )
    return [Group(title=t, records=r) for t, r in zip(training, lists, strict=True)]
