"""Whether audits agree: on which records they flag, from seed to seed, and in their verdicts.

Sets of flagged records are compared by Jaccard's index, shared over all, beside what
independent sets of the same sizes would give: two audits that flag a tenth each at random
share a twentieth of what they flag. Jaccard, "The distribution of the flora in the alpine
zone", New Phytologist 1912, https://doi.org/10.1111/j.1469-8137.1912.tb05611.x
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import combinations as choose
from statistics import fmean
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.stats import hypergeom

from expunge.bench.groups import Group, Record, frozen, gathered, group
from expunge.bench.rows import Column, Row
from expunge.bench.summary import findings, tabulate
from expunge.bench.table import NONE, literal, ruled, said

FOUND = "tpr_at_1%_fpr"
WORST = ("leaks", "overshoots", "cannot tell", "like never trained", "like retraining")
SIDES = {
    "leaks": "leaks",
    "overshoots": "overshoots",
    "like retraining": "no sign",
    "like never trained": "no sign",
}
NO = "cannot tell"
CAPTION = (
    "Mean [95 % interval]: Student's t over seeds where two or more differ, * over the "
    "retrained models; in a single run ° over its records, by the bootstrap, and for true "
    "positive rates Clopper and Pearson's. Δ: minus the mean of retraining; ≈ in its place: "
    "no larger than chance between retrained models makes it. ∅: where records never trained "
    "on would put the value, if nothing was retrained."
)
SHARED = (
    "A record is flagged by an audit that scores it above all but a tenth of the records never "
    "trained on. Jaccard's index: of the records that either flags, the share that both flag; in "
    "parentheses what independent sets of the same sizes would share on average. Two sets with "
    "nothing in either are not compared."
)

Kind = Literal["method", "original", "retrained"]
Pair = tuple[str, str]
Together = tuple[str, ...]


class Flags(NamedTuple):
    """The records an audit was asked about, and those among them that it flagged."""

    index: frozenset[int]
    flagged: frozenset[int]


class Jaccard(NamedTuple):
    """How much sets of flagged records share, and how much independent ones would."""

    value: float
    chance: float


class Said(NamedTuple):
    """The worst that an audit concluded of a method, in how many of its models."""

    verdict: str
    count: int
    of: int


class Often(NamedTuple):
    """A record, and how many audits flag it in a mean model of each kind."""

    index: int
    audits: Mapping[str, float]


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
        return frozenset[int]().union(*(each.index for each in self.flags.values()))

    def common(self, audits: Iterable[str]) -> frozenset[int]:
        """Return the records that all of these audits were asked about."""
        return frozenset.intersection(*(self.flags[audit].index for audit in audits))


# Pure functions of flags.


def jaccard(one: Flags, other: Flags) -> Jaccard | None:
    """Return what two sets share, over the records asked about in both; None for empty sets."""
    common = one.index & other.index
    first, second = one.flagged & common, other.flagged & common
    if not first and not second:
        return None
    value = len(first & second) / len(first | second)
    return Jaccard(value, by_chance(len(common), *sorted((len(first), len(second)))))


@lru_cache(maxsize=1 << 16)
def by_chance(count: int, one: int, other: int) -> float:
    """Return the mean Jaccard index of two sets drawn independently.

    What they share follows the hypergeometric distribution.

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
    weights = hypergeom.pmf(shared, count, one, other)
    return float(np.sum(weights * shared / (one + other - shared)))


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


def models(records: Sequence[Record], kind: Kind) -> list[Model]:
    """Return a row's models; those whose scores are the same in all audits count once.

    Args:
        records: A method's; for a control, every record of a group.
        kind: Of the row.
    """
    answered = [list(asked(r, kind)) for r in records]
    if kind != "method":  # controls are repeated in every method's record
        seeds = gathered(zip(records, answered, strict=True), lambda pair: pair[0]["seed"])
        answered = [_merged([lists for _, lists in same]) for same in seeds.values()]
    every = [each for lists in answered for each in lists]
    told = [{a: x for a, x in each.items() if _flags(x)} for each in every]
    firsts = gathered([each for each in told if each], _fingerprint).values()
    return [Model({a: f for a, x in same[0].items() if (f := _flags(x))}) for same in firsts]


def asked(record: Record, kind: Kind) -> Iterator[dict[str, Mapping[str, Any]]]:
    """Yield the answers on each model of a kind, by the audit's label."""
    known = findings(record)
    if kind == "retrained":
        for number in range(max((len(f["retrained"]) for f in known.values()), default=0)):
            yield {a: f["retrained"][number] for a, f in known.items() if number < len(f[kind])}
    elif known:
        yield {a: f["unlearned" if kind == "method" else kind] for a, f in known.items()}


def _merged(lists: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the models of one seed, of every audit's answers the first."""
    out: list[dict[str, Any]] = []
    for answers in lists:
        out += [{} for _ in answers[len(out) :]]
        for mine, more in zip(out, answers, strict=False):
            mine.update({a: answer for a, answer in more.items() if a not in mine})
    return out


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


def concluded(records: Sequence[Record]) -> dict[str, Said]:
    """Return what each audit that decides concluded of a method, at its worst."""
    told: dict[str, list[str]] = {}
    for record in records:
        for label, finding in findings(record).items():
            if finding.get("decides", True) and finding["verdict"] in WORST:
                told.setdefault(label, []).append(finding["verdict"])
    worst = {label: min(verdicts, key=WORST.index) for label, verdicts in told.items()}
    return {a: Said(worst[a], v.count(worst[a]), len(v)) for a, v in told.items()}


def sides(found: Mapping[str, Said]) -> dict[str, list[str]]:
    """Return the audits by what they say: leaks, overshoots, no sign, cannot tell."""
    by: dict[str, list[str]] = {side: [] for side in (*dict.fromkeys(SIDES.values()), NO)}
    for audit, each in found.items():
        by[SIDES.get(each.verdict, NO)].append(audit)
    return {side: audits for side, audits in by.items() if audits}


def disagree(found: Mapping[str, Said]) -> bool:
    """Return whether those audits that can tell say different things."""
    return len(sides(found).keys() - {NO}) > 1


def dissent(methods: Sequence[Mapping[str, Said]]) -> dict[str, tuple[int, int]]:
    """Return in how many methods each audit contradicts most of the others that can tell.

    The second number is in how many it could have: it could tell, and more of the others say
    one thing than say any other.
    """
    counts: dict[str, tuple[int, int]] = {}
    for found in methods:
        able = {a: SIDES[each.verdict] for a, each in found.items() if each.verdict in SIDES}
        for audit, mine in able.items():
            others = Counter(side for a, side in able.items() if a != audit).most_common(2)
            if not others or (len(others) == 2 and others[0][1] == others[1][1]):
                continue
            against, of = counts.get(audit, (0, 0))
            counts[audit] = against + (mine != others[0][0]), of + 1
    return counts


# A group's agreement.


@dataclass(frozen=True, eq=False, kw_only=True)
class Agreement:
    """How far audits agree on one row's models.

    Attributes:
        row: The method or the control.
        models: Each with its flags.
        audits: That flag.
    """

    row: Row
    models: Sequence[Model] = field(repr=False)
    audits: Sequence[str]

    @cached_property
    def pairs(self) -> dict[Pair, Jaccard]:
        return pairs(self.models, self.audits)

    @cached_property
    def stability(self) -> dict[str, Jaccard]:
        return stability(self.models, self.audits)

    @cached_property
    def together(self) -> Jaccard | None:
        """What two audits share, as a mean over all pairs."""
        return mean(self.pairs.values())

    @cached_property
    def counts(self) -> dict[Together, float]:
        return combinations(self.models, self.audits)

    @cached_property
    def often(self) -> dict[int, float]:
        return often(self.models, self.audits)


@dataclass(frozen=True, eq=False, kw_only=True)
class Study:
    """Agreement of the audits of one group.

    Attributes:
        group: The problem.
        audits: That flag records.
        columns: A number of each audit that decides: an attack's AUC, another's headline.
        rates: True positive rates at 1 % false positives.
        rows: Controls and methods that were audited.
    """

    group: Group
    audits: Sequence[str]
    columns: Sequence[Column]
    rates: Sequence[Column]
    rows: Sequence[Row] = field(repr=False)

    @cached_property
    def agreements(self) -> list[Agreement]:
        """Of every row whose models have flags."""
        found = [(row, models(row.records, row.kind)) for row in self.rows]
        return [Agreement(row=r, models=m, audits=self.audits) for r, m in found if m]

    def of(self, kind: Kind) -> list[Agreement]:
        return [each for each in self.agreements if each.row.kind == kind]

    @cached_property
    def kinds(self) -> dict[Kind, list[Agreement]]:
        """The methods' and each control's, where there are any."""
        order: tuple[Kind, ...] = ("method", "original", "retrained")
        return {kind: found for kind in order if (found := self.of(kind))}

    def shared(self, kind: Kind) -> dict[Pair, Jaccard]:
        """Return what every two audits share; every method counts alike."""
        return averaged([each.pairs for each in self.of(kind)])

    def steady(self, kind: Kind) -> dict[Pair, Jaccard]:
        """Return what each audit shares with itself in other models, as pairs."""
        told = [{(a, a): j for a, j in each.stability.items()} for each in self.of(kind)]
        return averaged(told)

    def counts(self, kind: Kind) -> dict[Together, float]:
        """Return how many records each combination of audits flags; methods count alike."""
        known = [each.counts for each in self.of(kind) if each.counts]
        keys = dict.fromkeys(key for counts in known for key in counts)
        return {key: fmean(counts.get(key, 0.0) for counts in known) for key in keys}

    def expected(self, together: Together) -> float:
        """Return how many records a combination would flag in methods if audits chose alone."""
        known = [each.models for each in self.of("method") if each.counts]
        return fmean(independent(m, self.audits, together) for m in known) if known else 0.0

    @cached_property
    def largest(self) -> list[Together]:
        """Combinations that flag anything, the largest first, by all methods."""
        counts = {key: count for key, count in self.counts("method").items() if key}
        order = {audit: place for place, audit in enumerate(self.audits)}
        return sorted(counts, key=lambda k: (-counts[k], len(k), [order[a] for a in k]))

    def named(self, count: int = 12) -> list[Often]:
        """Return the records that most audits flag, as a mean over methods."""
        by = {kind: _each([a.often for a in found]) for kind, found in self.kinds.items()}
        mine = by.get("method", {})
        top = sorted(mine, key=lambda record: (-mine[record], record))[:count]
        return [Often(r, {k: told[r] for k, told in by.items() if r in told}) for r in top]

    @cached_property
    def concluded(self) -> dict[str, dict[str, Said]]:
        """What every audit concluded of each method, by its label."""
        found = {r.label: concluded(r.records) for r in self.rows if r.kind == "method"}
        return {label: each for label, each in found.items() if each}

    @cached_property
    def judges(self) -> list[str]:
        """The audits that conclude anything."""
        told = [audit for found in self.concluded.values() for audit in found]
        order = [column.audit for column in self.columns]
        return sorted(dict.fromkeys(told), key=order.index)

    @cached_property
    def mute(self) -> list[str]:
        """Attacks that do not say which records they flag."""
        return [column.audit for column in self.rates if column.audit not in self.audits]

    @cached_property
    def warnings(self) -> dict[str, list[str]]:
        """What the numbers cannot bear, once each, and the audits that say so."""
        out: dict[str, list[str]] = {}
        for record in self.group.records:
            for label, finding in findings(record).items():
                for warning in finding["unlearned"].get("warnings") or ():
                    if label in {column.audit for column in self.columns}:
                        audits = out.setdefault(warning, [])
                        audits += [] if label in audits else [label]
        return out


def averaged(told: Sequence[Mapping[Pair, Jaccard]]) -> dict[Pair, Jaccard]:
    """Return the mean of each pair over those that have it."""
    keys = dict.fromkeys(pair for each in told for pair in each)
    means = {pair: mean(each.get(pair) for each in told) for pair in keys}
    return {pair: each for pair, each in means.items() if each is not None}


def _each(told: Sequence[Mapping[int, float]]) -> dict[int, float]:
    out: dict[int, list[float]] = {}
    for each in told:
        for record, count in each.items():
            out.setdefault(record, []).append(count)
    return {record: fmean(counts) for record, counts in out.items()}


def holds(records: Sequence[Record]) -> bool:
    """Return whether two audits of one model say which records they flag."""
    return any(len(flagging([record])) > 1 for record in records)


def study(of: Group) -> Study | None:
    """Return the agreement of a group's audits, or None where no two of a model flag records."""
    if not holds(of.records):
        return None
    columns: dict[str, Column] = {}
    rates: dict[str, Column] = {}
    for record in of.records:
        for label, finding in findings(record).items():
            values, decides = finding["unlearned"]["values"], finding.get("decides", True)
            name = finding["headline"]
            if not decides or finding["verdict"] == "measured":
                continue
            bounded = name == "auc"
            columns[label] = Column(label, name, label, headline=True, bounded=bounded)
            if "auc" in values and FOUND in values:
                rates[label] = Column(label, FOUND, label, "%", bounded=True)
    ordered = sorted(columns.values(), key=lambda column: column.value != "auc")
    rows = tabulate(of, [*ordered, *rates.values()])
    return Study(
        group=of,
        audits=flagging(of.records),
        columns=ordered,
        rates=list(rates.values()),
        rows=[row for row in rows if row.cells],
    )


# In words.


def markdown(records: Sequence[Record], most: int = 12) -> str:
    """Return every group's tables as Markdown, with the `most` largest combinations."""
    found = [each for of in group(records) if (each := study(of))]
    parts = [part for each in found for part in _parts(each, most)]
    return "\n\n".join([*parts, CAPTION, SHARED]) + "\n" if parts else ""


def _parts(found: Study, most: int) -> Iterator[str]:
    yield f"**Agreement of audits: {literal(found.group.title)}**"
    yield "All audits: an attack's AUC, another audit's headline"
    yield _numbers(found, found.columns)
    if found.rates:
        yield "True positive rate at 1 % false positives, in %"
        yield _numbers(found, found.rates)
    for warning, audits in found.warnings.items():
        yield f"{literal(warning)} ({literal(', '.join(audits))})"
    yield "Verdicts of every audit, at their worst over seeds"
    yield _verdicts(found)
    for kind, words in KINDS.items():
        if kind in found.kinds:
            yield f"Jaccard's index of flagged records, {words}; with itself: from seed to seed"
            yield _matrix(found, kind)
    yield "The same from seed to seed, by method; last, between two audits"
    yield _steady(found)
    yield "Records flagged by exactly these audits, in the mean model"
    yield _counts(found, most)
    if found.mute:
        yield f"{literal(', '.join(found.mute))} says of no record whether it is flagged."


KINDS: dict[Kind, str] = {
    "method": "mean of all methods",
    "original": "original",
    "retrained": "retrained models",
}


def _numbers(found: Study, columns: Sequence[Column]) -> str:
    head = ["model", *(title(column) for column in columns)]
    return ruled(head, [[r.label, *(said(r.cells.get(c), c) for c in columns)] for r in found.rows])


def title(column: Column) -> str:
    """Return what heads a column: the audit, and its number where that is not an AUC."""
    return column.title if column.value in ("auc", FOUND) else f"{column.title}: {column.value}"


def _verdicts(found: Study) -> str:
    rows = [
        [label, "yes" if disagree(each) else "no", *(told(each.get(a)) for a in found.judges)]
        for label, each in found.concluded.items()
    ]
    against = dissent(list(found.concluded.values()))
    last = [among(against.get(audit)) for audit in found.judges]
    return ruled(
        ["model", "audits disagree", *found.judges],
        [*rows, ["against most others", "", *last]],
        words=2 + len(found.judges),
    )


def told(each: Said | None) -> str:
    """Return a verdict, and in how many of several seeds."""
    if each is None:
        return NONE
    return each.verdict + ("" if each.count == each.of else f" {each.count}/{each.of}")


def among(pair: tuple[int, int] | None) -> str:
    """Return a count of a number, which may be none."""
    return NONE if pair is None else f"{pair[0]} of {pair[1]}"


def shown(each: Jaccard | None) -> str:
    """Return an index beside what chance would give."""
    return NONE if each is None else f"{each.value:.2f} ({each.chance:.2f})"


def _matrix(found: Study, kind: Kind) -> str:
    cells = found.shared(kind) | found.steady(kind)
    rows = []
    for place, audit in enumerate(found.audits):
        known = [shown(cells.get((other, audit))) for other in found.audits[: place + 1]]
        rows.append([audit, *known, *[""] * (len(found.audits) - len(known))])
    return ruled(["audit", *found.audits], rows)


def _steady(found: Study) -> str:
    rows = [
        [each.row.label, *(shown(each.stability.get(a)) for a in found.audits)]
        + [shown(each.together)]
        for each in found.agreements
    ]
    return ruled(["model", *found.audits, "two audits"], rows)


def _counts(found: Study, most: int) -> str:
    by = {kind: found.counts(kind) for kind in found.kinds}
    rows = [
        [" + ".join(key), *(f"{counts.get(key, 0.0):.1f}" for counts in by.values())]
        + [f"{found.expected(key):.1f}"]
        for key in found.largest[:most]
    ]
    return ruled(["exactly these", *(KINDS[kind] for kind in by), "if independent"], rows)
