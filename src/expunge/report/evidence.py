"""What the charts show: the arrays of many answers, made into one set of numbers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from expunge.study.rows import Row
from expunge.study.summary import answers as answers
from expunge.study.summary import findings

Numbers = list[float | None]


class Curve(NamedTuple):
    """A mean ROC curve, and the lowest and highest of those it is the mean of."""

    fpr: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


class Risky(NamedTuple):
    """One record to forget, and how sure an attacker is that it was trained on."""

    name: str
    risk: float
    original: float | None
    retrained: float | None


def arrays(row: Row | None, audit: str, name: str) -> list[Any]:
    """Return an array of each of the row's answers that has one."""
    if row is None:
        return []
    told = (answer["arrays"].get(name) for answer in answers(row, audit))
    return [array for array in told if array]


def holding(rows: Sequence[Row], *names: str) -> list[str]:
    """Return the audits that keep all these arrays of some row's models."""
    audits = dict.fromkeys(a for row in rows for r in row.records for a in findings(r))
    return [a for a in audits if all(any(arrays(row, a, n) for row in rows) for n in names)]


def curve(row: Row | None, audit: str, points: int = 64) -> Curve | None:
    """Return the vertical average of a row's ROC curves, on a log grid of false positives."""
    pairs = list(zip(arrays(row, audit, "roc_fpr"), arrays(row, audit, "roc_tpr"), strict=True))
    if not pairs:
        return None
    smallest = min(min((f for f in fpr if f > 0), default=1e-3) for fpr, _ in pairs)
    grid = np.geomspace(max(smallest, 1e-5), 1, points)
    heights = np.array([np.interp(grid, *_highest(fpr, tpr)) for fpr, tpr in pairs])
    low, high = heights.min(0), heights.max(0)
    return Curve(*(_short(a) for a in (grid, heights.mean(0), low, high)))


def _highest(fpr: Sequence[float], tpr: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the curve with one height, the highest, for each false positive rate."""
    best: dict[float, float] = {}
    for x, y in zip(fpr, tpr, strict=True):
        best[x] = max(y, best.get(x, 0.0))
    xs = sorted(best)
    return np.array(xs), np.array([best[x] for x in xs])


def _short(values: np.ndarray) -> list[float]:
    return [float(f"{v:.4g}") for v in values]


def per_class(row: Row | None, audit: str, name: str) -> Numbers:
    """Return each class's mean over the row's models; None where it has no records."""
    lists = arrays(row, audit, f"per_class_{name}")
    columns = zip(*lists, strict=True) if lists else ()
    return [_mean([v for v in column if v is not None]) for column in columns]


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def confusion(row: Row | None, audit: str, name: str) -> np.ndarray | None:
    """Return counts [true][predicted], summed over the row's models."""
    matrices = arrays(row, audit, f"confusion_{name}")
    return np.sum([np.array(m) for m in matrices], axis=0) if matrices else None


def parts(rows: Sequence[Row], audit: str, prefix: str) -> list[str]:
    """Return the sets of records, `forget` first, whose arrays begin with `prefix`."""
    names = dict.fromkeys(
        name.removeprefix(prefix)
        for row in rows
        for answer in answers(row, audit)
        for name, array in answer["arrays"].items()
        if name.startswith(prefix) and array
    )
    return sorted(names, key=lambda name: (name != "forget", name != "test"))


def spread(risks: Sequence[Sequence[float]], bins: int = 20) -> list[float]:
    """Return the share of records in each bin of risk from 0 to 1, over all models."""
    if not risks:
        return []
    counts, _ = np.histogram(np.concatenate([np.array(r) for r in risks]), bins, (0.0, 1.0))
    return _short(counts / counts.sum())


def risks(row: Row | None, audit: str) -> dict[Any, float]:
    """Return each record's mean risk over the row's models, by its name or position."""
    told: dict[Any, list[float]] = {}
    for answer in answers(row, audit) if row else ():
        risk = answer["arrays"].get("risk") or []
        names = answer["arrays"].get("ids") or answer["arrays"].get("index") or range(len(risk))
        for name, value in zip(names, risk, strict=True):
            told.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in told.items()}


def riskiest(
    row: Row, controls: Mapping[str, Row | None], audit: str, count: int = 8
) -> list[Risky]:
    """Return the records that an attacker would most surely say were trained on."""
    mine = risks(row, audit)
    original, retrained = (risks(controls[k], audit) for k in ("original", "retrained"))
    top = sorted(mine, key=lambda name: -mine[name])[:count]
    return [Risky(str(n), mine[n], original.get(n), retrained.get(n)) for n in top]
