"""Records to rows: what each method did, over seeds, beside both controls."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, mode
from typing import Any, Literal

from expunge.study.estimate import (
    Basis,
    Estimate,
    bootstrapped,
    fraction,
    mean_answer,
    models_answer,
    number,
    student,
)
from expunge.study.groups import Group, Record, frozen, gathered, group, labels
from expunge.study.rows import Cell, Column, Row, kind

Finding = Mapping[str, Any]
Answer = Mapping[str, Any]
Kind = Literal["method", "original", "retrained"]

# The most worrying first: over several seeds, a method is what it is at its worst.
SEVERITY = ("leaks", "over-unlearned", "diverged", "failed", "cannot tell", "forgotten")

# What the table shows of an audit, and in which unit; of one not here, its headline.
SHOWN: dict[str, dict[str, tuple[str, str]]] = {
    "accuracy": {
        "forget": ("Forget accuracy", "%"),
        "retain": ("Retain accuracy", "%"),
        "test": ("Test accuracy", "%"),
    },
    "loss_attack": {"auc": ("Attack AUC", ""), "tpr_at_1%_fpr": ("Attack TPR at 1 % FPR", "%")},
    "membership_recall": {"after_forget": ("Recalled labels", "%")},
    "output_divergence": {"js_forget": ("Forget divergence", "nats")},
    # Not its headline, of which BatchNorm's running statistics, no weights, are a part.
    "weight_distance": {"parameters": ("Weights moved", "L2")},
    "cost": {"of_retraining": ("Work", "% of retraining")},
}
FRACTIONS = {
    ("accuracy", "forget"),
    ("accuracy", "retain"),
    ("accuracy", "test"),
    ("loss_attack", "tpr_at_1%_fpr"),
    ("membership_recall", "after_forget"),
}


# Rates by an oracle that may be worth nothing: they are not shown without what it warned of.
CAUTIONED = ("forgetting_rate",)


def findings(record: Record) -> dict[str, Finding]:
    """Return a record's findings by label: the audit's name, told apart by settings."""
    audits = [{"name": f["audit"], "settings": f["settings"]} for f in record["findings"]]
    return dict(zip(labels(audits), record["findings"], strict=True))


def answers(row: Row, audit: str) -> list[Answer]:
    """Return what an audit answered about a row's models, each model once."""
    return [each[audit] for each in told(row.records, row.kind) if audit in each]


def told(records: Sequence[Record], kind: Kind) -> list[dict[str, Answer]]:
    """Return the answers about each model of a kind, by the audit's label, each model once.

    Args:
        records: A method's; for a control, every record of a group.
        kind: Of the models.
    """
    if kind == "method":
        return [
            {label: found["unlearned"] for label, found in known.items()}
            for known in map(findings, records)
            if known
        ]
    # Controls are repeated in every method's record.
    seeds = gathered([r for r in records if r["findings"]], lambda r: r["seed"]).values()
    if kind == "original":
        return [
            {label: f["original"] for r in reversed(same) for label, f in findings(r).items()}
            for same in seeds
        ]
    # A forget set that all seeds share has the same retrained models in each of them.
    return [*{name: each for same in seeds for name, each in _controls(same)}.values()]


def _controls(records: Sequence[Record]) -> Iterator[tuple[str, dict[str, Answer]]]:
    """Yield the retrained models of one seed, and what tells each from those of other seeds.

    The record of a method that is one of them lacks that one; so the fullest are read.
    """
    known = [(r, findings(r)) for r in records]
    counts = [max(len(f["retrained"]) for f in found.values()) for _, found in known]
    whole = [pair for pair, count in zip(known, counts, strict=True) if count == max(counts)]
    for place in range(max(counts)):
        each: dict[str, Answer] = {}
        for _, found in whole:
            for label, finding in found.items():
                if label not in each and place < len(finding["retrained"]):
                    each[label] = finding["retrained"][place]
        # Draws of an audit differ from seed to seed, the time that training took does not.
        clock = whole[0][0]["measured"].get("retraining_seconds") or []
        took = clock[place] if place < len(clock) else None
        values = {label: answer["values"] for label, answer in each.items()}
        yield frozen(values if took is None else took), each


def retrained(records: Sequence[Record], audit: str) -> list[dict[int, Answer]]:
    """Return what an audit answered about each retrained model, by seed.

    Args:
        records: Of every method; a control is repeated in each.
        audit: Its label.
    """
    found: dict[str, dict[int, Answer]] = {}
    asked = [r for r in records if audit in findings(r)]
    for same in gathered(asked, lambda r: r["seed"]).values():
        for name, each in _controls(same):
            if audit in each:
                found.setdefault(name, {})[same[0]["seed"]] = each[audit]
    return [*found.values()]


def columns(records: Sequence[Record]) -> list[Column]:
    """Return the numbers worth a column: those of `SHOWN`, and others' headlines."""
    out: dict[tuple[str, str], Column] = {}
    for record in records:
        for label, finding in findings(record).items():
            audit, headline = finding["audit"], finding["headline"]
            other = {headline: (f"{label}: {headline}".replace("_", " "), "")}
            for value, (title, unit) in SHOWN.get(audit, other).items():
                if value in finding["unlearned"]["values"] and (label, value) not in out:
                    out[label, value] = Column(
                        label,
                        value,
                        title + (label.removeprefix(audit) if audit in SHOWN else ""),
                        unit,
                        headline=value == headline,
                        decides=finding.get("decides", True),
                        bounded=(audit, value) in FRACTIONS,
                    )
    return list(out.values())


def summarise(records: Sequence[Record]) -> list[Row]:
    """Return a row per method and control of each group of comparable records.

    Raises:
        ValueError: If there are no records.
    """
    if not records:
        raise ValueError("expected at least one record, got none; run something first")
    return [row for each in group(records) for row in tabulate(each, columns(each.records))]


def tabulate(of: Group, shown: Sequence[Column]) -> list[Row]:
    """Return a row of these numbers per control and method of a group."""
    seeds = [r for r in of.records if r["findings"]]
    rows = [_original(of, seeds, shown), _retrained(of, seeds, shown)] if seeds else []
    methods = gathered(of.records, lambda r: frozen(r["method"]["name"], r["method"]["settings"]))
    names = labels([records[0]["method"] for records in methods.values()])
    for label, records in zip(names, methods.values(), strict=True):
        rows.append(_method(of, label, records, shown))
    return [row for row in rows if row is not None]


def _method(of: Group, label: str, records: Sequence[Record], shown: Sequence[Column]) -> Row:
    pairs = {c: [f for r in records if (f := findings(r).get(c.audit))] for c in shown}
    cells = {c: cell for c, found in pairs.items() if (cell := _cell(c, found))}
    worst = Counter(kind(r) for r in records)
    peaks = [p for r in records if (p := r["measured"].get("peak_bytes")) is not None]
    passes = [_passes(cost) for r in records if (cost := r["cost"])]
    return Row(
        kind="method",
        label=label,
        group=of,
        records=records,
        columns=shown,
        cells=cells,
        seconds=_mean([r["measured"].get("seconds") for r in records]),
        peak_bytes=max(peaks, default=None),
        passes=_mean(passes),
        verdicts={k: worst[k] for k in sorted(worst, key=_severity)},
    )


def _passes(cost: Mapping[str, int]) -> int:
    """Return work in forward passes, of which a backward pass costs two."""
    return cost["forward"] + 2 * cost["backward"]


def _severity(verdict: str) -> int:
    return SEVERITY.index(verdict) if verdict in SEVERITY else 0


def _cell(column: Column, found: Sequence[Finding]) -> Cell | None:
    estimate = mean_answer([f["unlearned"] for f in found], column.value, "seeds")
    if estimate is None:
        return None
    gaps = _gaps(found, "unlearned", column)
    floors = [f["floor"] for f in found if column.headline and f["floor"] is not None]
    return Cell(
        estimate=_possible(estimate, column),
        gap=_gap(gaps, found, column),
        floor=fmean(floors) if floors else None,
        unseen=None if gaps else _unseen(found, "unlearned", column),
        warnings=_warnings(found[0]["audit"], [f["unlearned"] for f in found]),
    )


def _warnings(audit: str, told: Sequence[Answer]) -> tuple[str, ...]:
    """Return what answers warned of, where their numbers must not be read without it."""
    if audit not in CAUTIONED:
        return ()
    return (*dict.fromkeys(text for answer in told for text in answer.get("warnings") or ()),)


def _unseen(found: Sequence[Finding], side: str, column: Column) -> Estimate | None:
    """Return what records never trained on would give: the first run's, as an example."""
    null: Mapping[str, Any] = found[0][side].get("null") or {}
    value = number(null.get("value"))
    if value is None or not (column.headline and column.decides):
        return None
    return bootstrapped(value, (null["low"], null["high"]))


def _possible(estimate: Estimate, column: Column) -> Estimate:
    """Cut a fraction's interval to [0, 1]."""
    return fraction(estimate) if column.bounded else estimate


def _gaps(found: Sequence[Finding], side: str, column: Column) -> list[float]:
    """Return a model's distances to the retrained models' mean, one per finding."""
    if not column.decides:
        return []
    pairs = [(_value(f[side], column), reference(f, column)) for f in found]
    return [mine - theirs for mine, theirs in pairs if mine is not None and theirs is not None]


def _gap(gaps: Sequence[float], found: Sequence[Finding], column: Column) -> Estimate | None:
    if not gaps:
        return None
    over = student(gaps, "seeds")
    own = found[0]["gap"]
    if over.low is None and column.headline and own is not None:
        return bootstrapped(over.value, (own["low"], own["high"]), len(gaps))
    return over


def _value(answer: Mapping[str, Any], column: Column) -> float | None:
    return number(answer["values"].get(column.value))


def reference(finding: Finding, column: Column) -> float | None:
    """Return the retrained models' mean value; None where there are none."""
    values = [v for a in finding["retrained"] if (v := _value(a, column)) is not None]
    return fmean(values) if values else None


def _mean(values: Sequence[object], basis: Basis = "seeds") -> Estimate | None:
    known = [v for value in values if (v := number(value)) is not None]
    return student(known, basis) if known else None


def _by_seed(records: Sequence[Record], column: Column) -> list[list[Finding]]:
    told = [(r["seed"], f) for r in records if (f := findings(r).get(column.audit))]
    return [[f for _, f in pairs] for pairs in gathered(told, lambda pair: pair[0]).values()]


def _original(of: Group, records: Sequence[Record], shown: Sequence[Column]) -> Row:
    cells = {}
    for column in shown:
        # Every method of a seed started from one original, but for those that train their
        # own way: the one that most shared.
        found = [shared for f in _by_seed(records, column) if (shared := _shared(f, column))]
        answers = [f["original"] for f in found]
        estimate = mean_answer(answers, column.value, "seeds")
        if estimate is None:
            continue
        gaps = _gaps(found, "original", column)
        cells[column] = Cell(
            estimate=_possible(estimate, column),
            gap=student(gaps, "seeds") if gaps else None,
            unseen=None if gaps else _unseen(found, "original", column),
            warnings=_warnings(found[0]["audit"], answers),
        )
    seconds = {r["seed"]: r["measured"].get("training_seconds") for r in records}
    return Row(
        kind="original",
        label="original",
        group=of,
        records=records,
        columns=shown,
        cells=cells,
        seconds=_mean(list(seconds.values())),
    )


def _shared(found: Sequence[Finding], column: Column) -> Finding | None:
    """Return a finding whose original says what most say, of several the fullest."""
    told = [(v, f) for f in found if (v := _value(f["original"], column)) is not None]
    if not told:
        return None
    most = mode([value for value, _ in told])
    agreeing = [f for value, f in told if value == most]
    # That of a method that is one of the retrained models lacks that one.
    return max(agreeing, key=lambda each: len(each["retrained"]))


def _retrained(of: Group, records: Sequence[Record], shown: Sequence[Column]) -> Row | None:
    cells = {}
    models = {audit: retrained(records, audit) for audit in {c.audit: None for c in shown}}
    names = {label: f["audit"] for r in records for label, f in findings(r).items()}
    for column in shown:
        asked = models[column.audit]
        estimate = models_answer(asked, column.value)
        if estimate is None:
            continue
        cells[column] = Cell(
            estimate=_possible(estimate, column),
            warnings=_warnings(names[column.audit], [a for each in asked for a in each.values()]),
        )
    seconds = [s for r in records for s in r["measured"].get("retraining_seconds") or []]
    if not cells:
        return None
    return Row(
        kind="retrained",
        label="retrained",
        group=of,
        records=records,
        columns=shown,
        cells=cells,
        seconds=_mean(sorted({s for s in seconds if s is not None}), "models"),
    )
