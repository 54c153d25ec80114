"""Records as the paper on Forsaken reads them: trials of forgetting rates, rows of its tables.

Liu et al., "Learn to Forget: Machine Unlearning via Neuron Masking", 2020,
https://arxiv.org/abs/2003.10933. A trial is one data set, network and size of the forget set.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean, variance
from typing import Any, Literal

from expunge.study.estimate import Estimate, number, over_models, student, welch
from expunge.study.groups import Group, Record, flat, frozen, gathered, group
from expunge.study.published import forsaken as paper
from expunge.study.rows import Column, Row
from expunge.study.summary import Answer, answers, findings, retrained, tabulate

RATE, EXPOSURE = "forgetting_rate", "exposure"
READ = (RATE, EXPOSURE, "accuracy")
Kind = Literal["OOD", "ID", "poison", "secrets"]
KINDS: Mapping[str, Kind] = {"outsiders": "OOD", "poison": "poison", "secrets": "secrets"}
OURS = {"OOD": " + {}", "ID": "", "poison": " with poison", "secrets": " with secrets"}
MODELS = {"linear": "LR", "logistic": "LR", "svm": "SVM"}  # of table X; all others are NN
OWN = ("sisa", "sisa_dp")  # they start from originals that they train themselves


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number over a row's models.

    Attributes:
        estimate: Its mean and interval; None where no model has the number.
        variance: Over the models; None where there are fewer than two.
        missing: How many models have none.
        warnings: What it cannot bear, in sentences.
        unseen: Where records that were never trained on would put it, where that is told.
    """

    estimate: Estimate | None
    variance: float | None = None
    missing: int = 0
    warnings: tuple[str, ...] = ()
    unseen: tuple[float, float] | None = None

    @property
    def value(self) -> float | None:
        return None if self.estimate is None else self.estimate.value


@dataclass(frozen=True, eq=False, kw_only=True)
class Trial:
    """One data set, network and size of the forget set, and all that was done to it.

    Attributes:
        group: Its records.
        kind: What is forgotten.
        data: The paper's name of the data set, or ours where it has none.
        printed: Whether it is one of the paper's.
        rows: Controls and methods.
    """

    group: Group
    kind: Kind
    data: str
    printed: bool
    rows: Sequence[Row] = field(repr=False)

    @property
    def first(self) -> Record:
        return self.group.first

    @property
    def size(self) -> int:
        """How many records are to be forgotten."""
        return self.first["forget"]["forget"]

    @property
    def epochs(self) -> int:
        """How long the original was trained."""
        return self.first["training"]["descent"]["epochs"]

    @property
    def network(self) -> str:
        return self.first["model"]["name"]

    @property
    def model(self) -> str:
        """`NN`, `LR` or `SVM`."""
        return MODELS.get(self.network, "NN")

    @cached_property
    def oracles(self) -> Mapping[str, str]:
        """The labels of the audit by the oracle that it asks, the black box first."""
        found: dict[str, str] = {}
        for record in self.group.records:
            for label, finding in findings(record).items():
                if finding["audit"] == RATE:
                    found.setdefault(str(finding["settings"].get("oracle", "black_box")), label)
        return dict(sorted(found.items(), key=lambda pair: pair[0] != "black_box"))

    @property
    def audit(self) -> str:
        """The label of the audit whose oracle counts in all tables but those on oracles."""
        return next(iter(self.oracles.values()), RATE)

    @property
    def original(self) -> Row | None:
        return next((row for row in self.rows if row.kind == "original"), None)

    @property
    def retrained(self) -> Row | None:
        """The retrained models; where there are none, what the method `retrain` made."""
        control = next((row for row in self.rows if row.kind == "retrained"), None)
        return control or next(iter(self.of("retrain")), None)

    def of(self, method: str) -> list[Row]:
        """Return a method's rows, one for each of its settings."""
        return [r for r in self.rows if r.kind == "method" and name_of(r) == method]

    def told(self, row: Row | None, value: str, audit: str = "") -> Number | None:
        """Return a value of an audit; None where it was not asked."""
        audit = audit or self.audit
        asked = _asked(row, audit) if row else []
        if row is None or not asked or not any(value in a["values"] for a in asked):
            return None
        cell = row.cells.get(_column(audit, value))
        every = [number(answer["values"].get(value)) for answer in asked]
        known = [v for v in every if v is not None]
        return Number(
            estimate=_capped(cell.estimate, value) if cell else None,
            variance=variance(known) if len(known) > 1 else None,
            missing=len(every) - len(known),
            warnings=(*_warnings(asked, value), *_noted(row)),
            unseen=_unseen(asked) if value == "fr" else None,
        )

    def drop(self, row: Row | None) -> Number | None:
        """Return the loss of test accuracy since before unlearning; positive is a loss.

        Before is the common original of the seed, even for methods that train their own.
        """
        if row is None or row.kind == "original":
            return None
        if row.kind == "retrained":
            estimate = self._retraining(row)
            return None if estimate is None else Number(estimate=estimate)
        before = self._before
        lost = [
            before[record["seed"]] - after
            for record in row.records
            if record["seed"] in before and (after := _tested(record, "unlearned")) is not None
        ]
        if not lost:
            return None
        return Number(
            estimate=student(lost, "seeds"), variance=variance(lost) if len(lost) > 1 else None
        )

    def _retraining(self, row: Row) -> Estimate | None:
        """Return how much less accurate the retrained models are than the originals."""
        before = self._before
        models = [
            {s: v for s, a in each.items() if s in before and (v := _test(a)) is not None}
            for each in retrained(row.records, "accuracy")
        ]
        if any(len(each) > 1 for each in models):
            # Models that seeds share belong to no one seed's original: these are two samples.
            own = [fmean(each.values()) for each in models if each]
            return welch([*before.values()], own, "models" if len(own) > 1 else "seeds")
        return over_models([{s: before[s] - v for s, v in each.items()} for each in models])

    @cached_property
    def _before(self) -> Mapping[int, float]:
        """The test accuracy of every seed's common original."""
        told = [(r["seed"], _tested(r, "original")) for r in self.rows[0].records]
        return {seed: test for seed, test in reversed(told) if test is not None}

    def seconds(self, row: Row | None) -> Number | None:
        """Return how long it took: to unlearn, and for retrained models to train."""
        return None if row is None or row.seconds is None else Number(estimate=row.seconds)

    def samples(self, row: Row | None) -> float | None:
        """Return the samples that went through the network, a backward as two forwards."""
        if row is None or row.kind == "original":
            return None
        if row.kind == "method":
            return None if row.passes is None else row.passes.value
        return 3.0 * self.first["forget"]["retain"] * self.epochs

    def setting(self, name: str) -> Any:
        """Return a setting of the data, or None where it has none of the name."""
        return (self.first["data"].get("settings") or {}).get(name)


def name_of(row: Row) -> str:
    """Return the name of a row's method."""
    return str(row.records[0]["method"]["name"])


def settings_of(row: Row) -> Mapping[str, Any]:
    """Return a row's settings, as one level of names."""
    return flat(row.records[0]["method"].get("settings") or {})


def holds(records: Sequence[Record]) -> bool:
    """Return whether any of the records tells a forgetting rate or an exposure."""
    return any(f["audit"] in (RATE, EXPOSURE) for r in records for f in r["findings"])


def trials(records: Sequence[Record]) -> list[Trial]:
    """Return a trial for each group of comparable records that tells a forgetting rate."""
    told = [each for each in group(records) if holds(each.records)]
    return [_trial(each) for each in told]


def _trial(of: Group) -> Trial:
    columns = _columns(of.records)
    rows = tabulate(of, columns)
    shared = [r for r in of.records if r["method"]["name"] not in OWN]
    if 0 < len(shared) < len(of.records):
        # An original of its own is no control for other methods.
        controls = tabulate(replace(of, records=shared), columns)
        rows = [r for r in controls if r.kind != "method"] + [r for r in rows if r.kind == "method"]
    kind, (inner, others) = _kind(of.first), _sources(of.first["data"])
    printed = paper.row(kind, inner, others) if kind in ("OOD", "ID") else None
    return Trial(
        group=of,
        kind=kind,
        data=printed or inner + OURS[kind].format(others),
        printed=printed is not None,
        rows=rows,
    )


def _kind(record: Record) -> Kind:
    return KINDS.get(record["forget"]["name"], "ID")


def _sources(data: Mapping[str, Any]) -> tuple[str, str]:
    """Return the names of a data set and of what else it has outsiders from."""
    settings = data.get("settings") or {}
    inner, others = (
        found.get("name") if isinstance(found := settings.get(part), Mapping) else None
        for part in ("of", "others")
    )
    left_out = "classes" if settings.get("classes") else "mislabelled"
    return str(inner or data["name"]), str(others or left_out)


def _columns(records: Sequence[Record]) -> list[Column]:
    """Return a column for every value of the audits that are read."""
    found = {
        (label, value): _column(label, value)
        for record in records
        for label, finding in findings(record).items()
        if finding["audit"] in READ
        for value in finding["unlearned"]["values"]
    }
    return list(found.values())


def _column(audit: str, value: str) -> Column:
    share = audit == "accuracy" or value == "extractable" or value.startswith("oracle_")
    return Column(audit, value, value, bounded=share)


def _capped(estimate: Estimate, value: str) -> Estimate:
    """Cut a rate's interval at 1, which no rate can exceed; below it may be negative."""
    if value not in ("fr", "cfr") or estimate.high is None:
        return estimate
    return replace(estimate, high=min(1.0, estimate.high))


def _warnings(asked: Sequence[Answer], value: str) -> tuple[str, ...]:
    """Return what the answers warn of, but for what they warn of the other rate."""
    other = {"fr": ", so cfr is", "cfr": ", so fr is"}.get(value)
    said = dict.fromkeys(w for answer in asked for w in answer.get("warnings") or ())
    return tuple(w for w in said if other is None or other not in w)


def _noted(row: Row) -> tuple[str, ...]:
    """Return what a method warned of as it ran."""
    if row.kind != "method":
        return ()
    noted = ((r.get("notes") or {}).get("warnings") or () for r in row.records)
    said = dict.fromkeys(text for texts in noted for text in texts)
    return tuple(f"{row.label}: {text}" for text in said)


def _unseen(asked: Sequence[Answer]) -> tuple[float, float] | None:
    null = asked[0].get("null") or {}
    low, high = (number(null.get(end)) for end in ("low", "high"))
    return None if low is None or high is None else (low, high)


def _asked(row: Row, audit: str) -> list[Answer]:
    """Return all that an audit answered: of a retrained model what it did under every seed."""
    if row.kind != "retrained":
        return answers(row, audit)
    return [answer for each in retrained(row.records, audit) for answer in each.values()]


def _tested(record: Record, kind: Literal["unlearned", "original"]) -> float | None:
    """Return the test accuracy of a record's model."""
    finding = next((f for f in record["findings"] if f["audit"] == "accuracy"), None)
    return None if finding is None else _test(finding[kind])


def _test(answer: Answer) -> float | None:
    return number(answer["values"].get("test"))


def usual(of: Sequence[Trial]) -> list[Trial]:
    """Return the trials that a table of many data sets shows: of one size and length each.

    Where a data set was tried in several sizes, the one that most data sets share is taken, and
    of equals the nearest to the paper's; of several lengths of training the first.
    """
    sizes = Counter(size for same in by_data(of) for size in {trial.size for trial in same})

    def rank(trial: Trial) -> tuple[int, int]:
        return -sizes[trial.size], abs(trial.size - paper.tables()["size"])

    chosen = []
    for same in by_data(of):
        best = min(map(rank, same))
        alike = [trial for trial in same if rank(trial) == best]
        chosen += [several[0] for several in gathered(alike, lambda t: t.network).values()]
    return chosen


def by_data(of: Sequence[Trial]) -> list[list[Trial]]:
    """Return the trials of each data set, the paper's first and in its order."""
    order = list(paper.tables()["data"])
    lists = gathered(of, lambda trial: (trial.kind, trial.data)).values()
    return sorted(lists, key=lambda s: order.index(s[0].data) if s[0].printed else len(order))


def titles(of: Sequence[Trial], *, sizes: bool = True) -> list[str]:
    """Return the name of each trial's data set, with what tells it from its namesakes."""
    told: list[tuple[str, Callable[[Trial], object]]] = [
        ("", lambda t: t.network),
        ("{} epochs", lambda t: t.epochs),
        ("", lambda t: t.kind),
    ]
    told += [("{} records", lambda t: t.size)] if sizes else []
    out = []
    for trial in of:
        same = [other for other in of if other.data == trial.data]
        parts = [
            (words or "{}").format(ask(trial))
            for words, ask in told
            if len({ask(other) for other in same}) > 1
        ]
        out.append(f"{trial.data}, {', '.join(parts)}" if parts else trial.data)
    return out


def main(of: Sequence[Trial]) -> Callable[[Trial, str], Row | None]:
    """Return what picks, of a method's rows in a trial, the one that tables of methods show.

    It is the one whose settings most trials share; of equals the first.
    """
    shared = Counter(
        _fingerprint(row) for trial in of for row in trial.rows if row.kind == "method"
    )

    def pick(trial: Trial, method: str) -> Row | None:
        found = trial.of(method)
        return max(found, key=lambda row: shared[_fingerprint(row)]) if found else None

    return pick


def _fingerprint(row: Row) -> str:
    return frozen(name_of(row), settings_of(row))


def family(trial: Trial, method: str, *varied: str) -> list[Row]:
    """Return a method's rows that differ in these settings and in no others; none for one.

    Where there are several such families, the largest is returned.
    """

    def rest(row: Row) -> Hashable:
        return frozen({k: v for k, v in settings_of(row).items() if k not in varied})

    largest = max(gathered(trial.of(method), rest).values(), key=len, default=[])
    return largest if len(largest) > 1 else []


def setting(row: Row, name: str) -> Any:
    """Return a setting of a row's method, or None where it has none of the name."""
    return settings_of(row).get(name)


def mean_of(values: Sequence[float | None]) -> float | None:
    """Return the mean of the numbers that are there."""
    known = [v for v in values if v is not None]
    return fmean(known) if known else None
