"""The agreement of one problem's audits: every audit beside every other, as tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import NamedTuple

from expunge.study.agreement import (
    Jaccard,
    Kind,
    Model,
    Pair,
    Said,
    Together,
    averaged,
    combinations,
    disagree,
    dissent,
    flagging,
    holds,
    independent,
    mean,
    models,
    often,
    pairs,
    stability,
    verdicts,
    worst,
)
from expunge.study.groups import Group, Record, group
from expunge.study.rows import Column, Row
from expunge.study.summary import FRACTIONS, findings, tabulate
from expunge.study.table import NONE, literal, ruled, said

FOUND = "tpr_at_1%_fpr"
KINDS: dict[Kind, str] = {
    "method": "mean of all methods",
    "original": "original",
    "retrained": "retrained models",
}
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


class Often(NamedTuple):
    """A record, and how many audits flag it in a mean model of each kind."""

    record: int
    audits: Mapping[str, float]


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
    def verdicts(self) -> dict[str, list[dict[str, str]]]:
        """What every audit concluded of each of a method's models, by the method's label."""
        rows = [row for row in self.rows if row.kind == "method"]
        told = {r.label: [v for one in r.records if (v := verdicts(one))] for r in rows}
        return {label: models for label, models in told.items() if models}

    @cached_property
    def models(self) -> list[dict[str, str]]:
        """The same of all methods' models."""
        return [each for models in self.verdicts.values() for each in models]

    @cached_property
    def judges(self) -> list[str]:
        """The audits that conclude anything."""
        told = [audit for each in self.models for audit in each]
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


def _each(told: Sequence[Mapping[int, float]]) -> dict[int, float]:
    out: dict[int, list[float]] = {}
    for each in told:
        for record, count in each.items():
            out.setdefault(record, []).append(count)
    return {record: fmean(counts) for record, counts in out.items()}


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
            bounded = name == "auc" or (finding["audit"], name) in FRACTIONS
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


def _numbers(found: Study, columns: Sequence[Column]) -> str:
    head = ["model", *(title(column) for column in columns)]
    return ruled(head, [[r.label, *(said(r.cells.get(c), c) for c in columns)] for r in found.rows])


def title(column: Column) -> str:
    """Return what heads a column: the audit, and its number where that is not an AUC."""
    return column.title if column.value in ("auc", FOUND) else f"{column.title}: {column.value}"


def _verdicts(found: Study) -> str:
    rows = [
        [label, among(split(models)), *(told(worst(models).get(a)) for a in found.judges)]
        for label, models in found.verdicts.items()
    ]
    against = dissent(found.models)
    last = [among(against.get(audit)) for audit in found.judges]
    return ruled(
        ["model", "audits disagree in", *found.judges],
        [*rows, ["against most others", "", *last]],
        words=2 + len(found.judges),
    )


def split(models: Sequence[Mapping[str, str]]) -> tuple[int, int]:
    """Return in how many of a method's models audits disagree, and how many it has."""
    return sum(disagree(each) for each in models), len(models)


def told(each: Said | None) -> str:
    """Return a verdict, and in how many of several seeds."""
    if each is None:
        return NONE
    return each.verdict + ("" if each.times == each.of else f" {each.times}/{each.of}")


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
        [
            each.row.label,
            *(shown(each.stability.get(a)) for a in found.audits),
            shown(each.together),
        ]
        for each in found.agreements
    ]
    return ruled(["model", *found.audits, "two audits"], rows)


def _counts(found: Study, most: int) -> str:
    by: dict[Kind, Mapping[Together, float]] = {kind: found.counts(kind) for kind in found.kinds}
    rows = [
        [
            " + ".join(key),
            *(f"{counts.get(key, 0.0):.1f}" for counts in by.values()),
            f"{found.expected(key):.1f}",
        ]
        for key in found.largest[:most]
    ]
    return ruled(["exactly these", *(KINDS[kind] for kind in by), "if independent"], rows)
