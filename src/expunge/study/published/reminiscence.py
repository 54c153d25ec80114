"""What is printed about the reminiscence attack, from `reminiscence.toml`."""

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Literal, NamedTuple

Kind = Literal["class", "sample"]
COARSE = "coarse_label"  # of CIFAR-100: its 20 superclasses


class Told(NamedTuple):
    """Numbers of one model.

    Attributes:
        numbers: As printed.
        about: What to say of the model; empty where it is the method itself.
    """

    numbers: Sequence[float]
    about: str = ""


@cache
def tables() -> Mapping[str, Any]:
    """Return every table, keyed as in the file."""
    file = files("expunge.study.published") / "reminiscence.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


def row(data: Mapping[str, Any]) -> str | None:
    """Return the earlier version's name of a record's data, or None where it has none."""
    if data["name"] != "withheld":
        return None
    of = (data.get("settings") or {}).get("of") or {}
    if of.get("name") != "cifar100":
        return None
    return "cifar20" if of.get("label") == COARSE else "cifar100"


def quality(data: str | None, method: str) -> list[Told]:
    """Return test, forget and retain accuracy, MIA and seconds of what a method stands beside."""
    return _told(tables()["quality"].get(data, {}), method)


def attack(data: str | None, method: str, share: float) -> tuple[list[Told], str]:
    """Return balanced accuracy and true positive rate, and of which share of the class.

    Of the shares that are printed for the method, it is the nearest one.
    """
    known = {
        percent: found
        for percent, table in tables()["attack"].get(data, {}).items()
        if (found := _told(table, method))
    }
    if not known:
        return [], ""
    nearest = min(known, key=lambda percent: abs(float(percent) - 100 * share))
    return known[nearest], f"{nearest} %"


def geometry(method: str) -> list[Told]:
    """Return variance, silhouette and overlap of the forgotten class in a plane."""
    return _told(tables()["geometry"], method)


def gain(kind: Kind) -> float:
    """Return the best ratio to the accuracy of attacks before, as the abstract has it."""
    return float(tables()["abstract"][f"{kind}_gain"])


def reproduced(data: str, forget: str, method: str) -> tuple[Sequence[float], Sequence[float]]:
    """Return another's areas before and after the fine-tuning; empty where there are none."""
    table = tables()["reproduction"]
    if (data, forget) != (table["data"], "random"):
        return (), ()
    return table["before"].get(method, ()), table["after"].get(method, ())


def _told(table: Mapping[str, Sequence[float]], method: str) -> list[Told]:
    names = tables()["methods"].get(method, [method])
    return [Told(table[n], tables()["told"].get(n, "")) for n in names if n in table]
