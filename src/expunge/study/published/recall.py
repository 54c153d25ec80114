"""The tables of the paper on membership recall, from `membership_recall.toml`."""

import math
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple


class Told(NamedTuple):
    """What the paper prints of one method: accuracies, in [0, 1].

    Attributes:
        unlearned: Of the unlearned model.
        recalled: Of the attacker's model.
        difference: As printed, or, for the ablation, worked out.
    """

    unlearned: float
    recalled: float
    difference: float


@cache
def tables() -> Mapping[str, Any]:
    """Return every table, keyed as in the file."""
    file = files("expunge.study.published") / "membership_recall.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


def told(data: str, method: str, case: str, part: str) -> Told | None:
    """Return what the paper prints, or None where it has no such number.

    Args:
        data: Name of the data set, as ours are called.
        method: Name of the method, as ours are called.
        case: `distilled`, `closed` or `open`.
        part: `forget` or `test`.
    """
    paper = tables()
    if data not in paper["data"] or method not in paper["methods"]:
        return None
    at = paper["methods"].index(method)
    # The ablation has no numbers of the unlearned model: it is the one of the other cases.
    printed = paper["closed" if case == "distilled" else case][data][part]
    unlearned, recalled = printed["ulm"][at], paper["ablation"][data][case][part][at]
    if math.isnan(unlearned):
        return None
    if case == "distilled":
        return Told(unlearned, recalled, recalled - unlearned)
    return Told(unlearned, recalled, printed["difference"][at])
