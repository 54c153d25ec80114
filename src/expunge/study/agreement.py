"""Whether audits agree: on which records they flag, from seed to seed, and in their verdicts.

Sets of flagged records are compared by Jaccard's index, shared over all, beside what
independent sets of the same sizes would give: two audits that flag a tenth each at random
share a twentieth of what they flag. Jaccard, "The distribution of the flora in the alpine
zone", New Phytologist 1912, https://doi.org/10.1111/j.1469-8137.1912.tb05611.x
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations as choose
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from scipy.special import gammaln

from expunge.study.groups import Record, frozen, gathered
from expunge.study.summary import Kind, findings, told

WORST = ("leaks", "overshoots", "cannot tell", "like never trained", "like retraining")
SIDES = {
    "leaks": "leaks",
    "overshoots": "overshoots",
    "like retraining": "no sign",
    "like never trained": "no sign",
}
Pair = tuple[str, str]
Together = tuple[str, ...]


class Flags(NamedTuple):
    """The records an audit was asked about, and those among them that it flagged."""

    asked: frozenset[int]
    flagged: frozenset[int]


class Jaccard(NamedTuple):
    """How much sets of flagged records share, and how much independent ones would."""

    value: float
    chance: float


class Said(NamedTuple):
    """The worst that an audit concluded of a method, in how many of its models."""

    verdict: str
    times: int
    of: int


@dataclass(frozen=True, eq=False)
class Model:
    """The flags that every audit set in one model.

    Attributes:
        flags: By the audit's label.
    """

    flags: Mapping[str, Flags]

    @cached_property
    def index(self) -> frozenset[int]:
        """The forget set: some audits are asked about a part of it only."""
        return frozenset[int]().union(*(each.asked for each in self.flags.values()))

    def common(self, audits: Iterable[str]) -> frozenset[int]:
        """Return the records that all of these audits were asked about."""
        return frozenset.intersection(*(self.flags[audit].asked for audit in audits))


# Pure functions of flags.


def jaccard(one: Flags, other: Flags) -> Jaccard | None:
    """Return what two sets share, over the records asked about in both; None for empty sets."""
    common = one.asked & other.asked
    first, second = one.flagged & common, other.flagged & common
    if not first and not second:
        return None
    value = len(first & second) / len(first | second)
    return Jaccard(value, by_chance(len(common), *sorted((len(first), len(second)))))


@lru_cache(maxsize=1 << 16)
def by_chance(count: int, one: int, other: int) -> float:
    """Return the mean Jaccard index of two sets drawn independently.

    The size of what they share follows the hypergeometric distribution.

    Args:
        count: How many records there are to draw from.
        one: Size of one set.
        other: Size of the other.

    Raises:
        ValueError: If a size is not possible, or both are 0.
    """
    if not (0 <= one <= count and 0 <= other <= count and one + other):
        raise ValueError(
            f"expected sets of at most {count} records, not both empty, got {one} and {other}"
        )
    shared = np.arange(max(0, one + other - count), min(one, other) + 1)
    parts = (shared, one - shared, other - shared, count - one - other + shared)
    logs = -np.sum([gammaln(part + 1) for part in parts], axis=0)
    weights = np.exp(logs - logs.max())
    return float(np.average(shared / (one + other - shared), weights=weights))


def mean(found: Iterable[Jaccard | None]) -> Jaccard | None:
    """Return the mean of those that could be compared; None where none could."""
    known = [each for each in found if each is not None]
    return Jaccard(*(fmean(part) for part in zip(*known, strict=True))) if known else None


def pairs(models: Sequence[Model], audits: Sequence[str]) -> dict[Pair, Jaccard]:
    """Return what every two audits share, as a mean over models."""
    shared = {
        (a, b): mean(jaccard(m.flags[a], m.flags[b]) for m in models if {a, b} <= m.flags.keys())
        for a, b in choose(audits, 2)
    }
    return {pair: each for pair, each in shared.items() if each is not None}


def averaged(told: Sequence[Mapping[Pair, Jaccard]]) -> dict[Pair, Jaccard]:
    """Return the mean of each pair over those that have it."""
    keys = dict.fromkeys(pair for each in told for pair in each)
    means = {pair: mean(each.get(pair) for each in told) for pair in keys}
    return {pair: each for pair, each in means.items() if each is not None}


def stability(models: Sequence[Model], audits: Sequence[str]) -> dict[str, Jaccard]:
    """Return what each audit's flags share from model to model.

    Only models with the same forget set are compared; where no two have, there is nothing.
    """
    alike = [(m, n) for m, n in choose(models, 2) if m.index == n.index]
    shared = {
        a: mean(jaccard(m.flags[a], n.flags[a]) for m, n in alike if a in m.flags and a in n.flags)
        for a in audits
    }
    return {audit: each for audit, each in shared.items() if each is not None}


def combinations(models: Sequence[Model], audits: Sequence[str]) -> dict[Together, float]:
    """Return how many records exactly these audits flag, as a mean over models.

    Models that not every audit was asked about are left out, and so are records. The empty
    combination holds the records that none flags.
    """
    models = whole(models, audits)
    counts: Counter[Together] = Counter()
    for model in models:
        by = [model.flags[audit].flagged for audit in audits]
        for record in model.common(audits):
            counts[tuple(a for a, f in zip(audits, by, strict=True) if record in f)] += 1
    return {together: count / len(models) for together, count in counts.items()}


def independent(models: Sequence[Model], audits: Sequence[str], together: Together) -> float:
    """Return how many records exactly these audits would flag if each chose by itself."""
    expected = []
    for model in whole(models, audits):
        common = model.common(audits)
        shares = {a: len(model.flags[a].flagged & common) / len(common) for a in audits}
        chances = [share if a in together else 1 - share for a, share in shares.items()]
        expected.append(len(common) * float(np.prod(chances)))
    return fmean(expected) if expected else 0.0


def often(models: Sequence[Model], audits: Sequence[str]) -> dict[int, float]:
    """Return by how many audits each record is flagged, as a mean over models that had it."""
    told: dict[int, list[int]] = {}
    for model in whole(models, audits):
        for record in model.common(audits):
            count = sum(record in model.flags[audit].flagged for audit in audits)
            told.setdefault(record, []).append(count)
    return {record: fmean(counts) for record, counts in told.items()}


def whole(models: Sequence[Model], audits: Sequence[str]) -> list[Model]:
    """Return the models that every audit was asked about, some records of each by all."""
    every = set(audits)
    return [m for m in models if every <= m.flags.keys() and m.common(audits)]


# Records to flags.


def flagging(records: Sequence[Record]) -> list[str]:
    """Return the labels of the audits that say which records they flag."""
    told = [
        label
        for record in records
        for label, finding in findings(record).items()
        if _flags(finding["unlearned"]) is not None
    ]
    return list(dict.fromkeys(told))


def holds(records: Sequence[Record]) -> bool:
    """Return whether two audits of one model say which records they flag."""
    return any(len(flagging([record])) > 1 for record in records)


def models(records: Sequence[Record], kind: Kind) -> list[Model]:
    """Return a row's models; those whose scores are the same in all audits count once.

    Args:
        records: A method's; for a control, every record of a group.
        kind: Of the row.
    """
    flagged = [{a: x for a, x in each.items() if _flags(x)} for each in told(records, kind)]
    firsts = gathered([each for each in flagged if each], _fingerprint).values()
    return [Model({a: f for a, x in same[0].items() if (f := _flags(x))}) for same in firsts]


def _flags(answer: Mapping[str, Any]) -> Flags | None:
    flagged, index = (answer["arrays"].get(name) for name in ("flagged", "index"))
    if not flagged or not index:
        return None
    chosen = (i for i, sure in zip(index, flagged, strict=True) if sure)
    return Flags(frozenset(index), frozenset(chosen))


def _fingerprint(answers: Mapping[str, Any]) -> str:
    kept = ("index", "flagged", "scores")
    return frozen({a: [answer["arrays"].get(k) for k in kept] for a, answer in answers.items()})


# Verdicts.


def verdicts(record: Record) -> dict[str, str]:
    """Return what each audit that decides concluded of one model, by its label."""
    return {
        label: finding["verdict"]
        for label, finding in findings(record).items()
        if finding.get("decides", True) and finding["verdict"] in WORST
    }


def worst(models: Sequence[Mapping[str, str]]) -> dict[str, Said]:
    """Return what each audit concluded of a method's models, at its worst."""
    told: dict[str, list[str]] = {}
    for each in models:
        for audit, verdict in each.items():
            told.setdefault(audit, []).append(verdict)
    first = {audit: min(every, key=WORST.index) for audit, every in told.items()}
    return {a: Said(first[a], every.count(first[a]), len(every)) for a, every in told.items()}


def sides(found: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the audits of one model by what they say; those that cannot tell say nothing."""
    able = [audit for audit, verdict in found.items() if verdict in SIDES]
    return {str(side): same for side, same in gathered(able, lambda a: SIDES[found[a]]).items()}


def disagree(found: Mapping[str, str]) -> bool:
    """Return whether those audits of one model that can tell say different things."""
    return len(sides(found)) > 1


def dissent(models: Sequence[Mapping[str, str]]) -> dict[str, tuple[int, int]]:
    """Return in how many models each audit contradicts most of the others that can tell.

    The second number is in how many it could have: it could tell, and more of the others say
    one thing than say any other.
    """
    counts: dict[str, tuple[int, int]] = {}
    for found in models:
        able = {audit: SIDES[verdict] for audit, verdict in found.items() if verdict in SIDES}
        for audit, mine in able.items():
            others = Counter(side for a, side in able.items() if a != audit).most_common(2)
            if not others or (len(others) == 2 and others[0][1] == others[1][1]):
                continue
            against, of = counts.get(audit, (0, 0))
            counts[audit] = against + (mine != others[0][0]), of + 1
    return counts
