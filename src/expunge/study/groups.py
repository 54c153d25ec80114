"""Records that may be compared: the same data, model, training and kind of forget set."""

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

Record = Mapping[str, Any]
T = TypeVar("T")

LISTED = 4  # entries of a list that are worth naming all
LEFT = (None, [], "")  # values of settings that are left out


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
    if isinstance(value, list | tuple) and len(value) > LISTED:
        some = ", ".join(spoken(part) for part in value[: LISTED - 1])
        return f"[{some}, … {len(value)} in all]"
    return json.dumps(value, ensure_ascii=False)


def labels(things: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return each thing's name, with the settings that tell it from its namesakes.

    A setting that was left out is not named, unless nothing else tells two things apart.
    """
    settings = [flat(thing.get("settings") or {}) for thing in things]
    pairs = [(str(thing["name"]), mine) for thing, mine in zip(things, settings, strict=True)]
    namesakes = gathered(pairs, lambda pair: pair[0])
    differing = {name: _differing([s for _, s in same]) for name, same in namesakes.items()}

    def label(name: str, mine: Mapping[str, Any], *, all_of_them: bool) -> str:
        named = [n for n in differing[name] if n in mine and (all_of_them or mine[n] not in LEFT)]
        told = ", ".join(_told(n, mine) for n in named)
        return f"{name} ({told})" if told else name

    brief, full = ([label(*p, all_of_them=every) for p in pairs] for every in (False, True))
    return brief if len({*brief}) == len({*full}) else full


def _told(name: str, settings: Mapping[str, Any]) -> str:
    """Return a setting and its value; what is part of another is called after that."""
    whose, _, last = name.rpartition(".")
    word = whose.rpartition(".")[2] if whose and last == "name" else last
    value = settings[name]
    return f"no {word}" if value in LEFT else f"{word} {spoken(value)}"


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the settings that are not the same in all."""
    if len(settings) == 1:
        return []
    names = dict.fromkeys(name for each in settings for name in each)
    names = [name for name in names if not name.endswith(".version")]  # of what is named already
    return [n for n in names if len({frozen(each.get(n)) for each in settings}) > 1]


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
        parts = [(record[k]["name"], record[k].get("settings")) for k in ("data", "model")]
        return frozen(*parts, _kind(record), record["data"].get("digest"), record["training"])

    kinds = gathered(records, problem).values()
    lists = [split for same in kinds for split in _splits(same)]
    firsts = [records[0] for records in lists]
    named = [labels([first[part] for first in firsts]) for part in ("data", "model", "forget")]
    titles = [" · ".join(parts) for parts in zip(*named, strict=True)]
    training = labels(
        [{"name": t, "settings": f["training"]} for t, f in zip(titles, firsts, strict=True)]
    )
    return [Group(title=t, records=r) for t, r in zip(training, lists, strict=True)]


def _kind(record: Record) -> tuple[str, dict[str, Any]]:
    """Return what kind of forget set it is, whatever was drawn."""
    settings = record["forget"].get("settings") or {}
    return record["forget"]["name"], {k: v for k, v in settings.items() if k != "seed"}


def _splits(records: Sequence[Record]) -> list[list[Record]]:
    """Return the records by the seed of their forget set, unless each run has its own.

    Where every seed of a run drew a forget set of its own, that is one problem repeated; its
    controls are told apart by the run's seed. Else a seed would have controls of several problems.
    """
    drawn = gathered(records, lambda r: frozen(r["forget"].get("settings")))
    pairs = {(r["seed"], frozen(r["forget"].get("settings"))) for r in records}
    if len(pairs) == len({seed for seed, _ in pairs}) == len(drawn):
        return [list(records)]
    return list(drawn.values())
