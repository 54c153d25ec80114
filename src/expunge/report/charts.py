"""Charts of one method's models, with both controls drawn in."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt
import numpy as np

from expunge.report.evidence import Curve
from expunge.report.marks import DASHES, Chart, Rows, colour, dash, drawn, layered
from expunge.report.marks import save as save
from expunge.report.marks import spec as spec
from expunge.report.theme import var

FEW = 30  # classes up to which each has a label of its own


class Kinds(NamedTuple):
    """The same numbers for a method's models and for both controls."""

    unlearned: Any
    original: Any
    retrained: Any


def roc(curves: Kinds) -> Chart | None:
    """Draw how many members are found for how many false alarms, both on log axes."""
    known: dict[str, Curve] = {k: c for k, c in curves._asdict().items() if c is not None}
    if "unlearned" not in known:
        return None
    bottom = min(min(curve.fpr) for curve in known.values())
    scale = alt.Scale(type="log", domain=[bottom, 1], clamp=True, nice=False)
    tens = [10.0**power for power in range(-5, 1) if 10.0**power >= bottom]
    ticks = alt.Axis(values=tens, format="~%")
    x = alt.X("f:Q", title="false positive rate", scale=scale, axis=ticks)
    y = alt.Y("t:Q", title="true positive rate", scale=scale, axis=ticks)
    base = drawn([row for kind, curve in known.items() for row in _curve(kind, curve)])
    chance = drawn([{"f": bottom, "t": bottom}, {"f": 1, "t": 1}])
    band = base.mark_area(opacity=0.15, color=var("unlearned"), clip=True)
    return layered(
        chance.mark_line(strokeWidth=1, color=var("chance")).encode(x, y),
        band.encode(x, alt.Y("low:Q", scale=scale), alt.Y2("high:Q")).transform_filter(
            "datum.kind == 'unlearned'"
        ),
        base.mark_line(strokeWidth=2, clip=True).encode(
            x, y, colour(known), dash(known), alt.Order("f:Q")
        ),
        height=230,
    )


def _curve(kind: str, curve: Curve) -> Rows:
    # A log axis has no 0: what is below it lies on the frame.
    return [
        {"kind": kind, "f": f, "t": max(t, 1e-5), "low": max(low, 1e-5), "high": max(high, 1e-5)}
        for f, t, low, high in zip(*curve, strict=True)
    ]


def classes(accuracy: Kinds, names: Sequence[str]) -> Chart | None:
    """Draw accuracy by class: bars for the unlearned model, marks for both controls."""
    told = [i for i, value in enumerate(accuracy.unlearned) if value is not None]
    if not told:
        return None
    known = {kind: values for kind, values in accuracy._asdict().items() if values}
    base = drawn(
        [{"class": name_of(names, i)} | {kind: v[i] for kind, v in known.items()} for i in told]
    )
    few = len(told) <= FEW
    tips = [alt.Tooltip("class:N"), *(alt.Tooltip(f"{k}:Q", format=".1%") for k in known)]
    marks = {
        "unlearned": base.mark_bar(color=var("unlearned"), opacity=0.8, cornerRadiusEnd=2),
        "retrained": base.mark_tick(color=var("retrained"), thickness=3, opacity=1),
        "original": base.mark_point(
            color=var("original"), size=34 if few else 12, strokeWidth=2, opacity=1
        ),
    }
    place = _lying if few else _standing
    layers = [
        mark.encode(*place(kind, len(told)), tooltip=tips)
        for kind, mark in marks.items()
        if kind in known
    ]
    return layered(*layers, height=19 * len(told) if few else 180)


def _lying(kind: str, count: int) -> tuple[alt.X, alt.Y]:
    """Place bars that lie, each with its class's name."""
    del count
    label = alt.Axis(labelLimit=90, ticks=False, domain=False)
    percent = alt.Axis(format="~%", tickCount=5)
    return (
        alt.X(f"{kind}:Q", title=None, scale=alt.Scale(domain=[0, 1]), axis=percent),
        alt.Y("class:N", sort=None, title=None, axis=label),
    )


def _standing(kind: str, count: int) -> tuple[alt.X, alt.Y]:
    """Place bars that stand, too many to be named."""
    bare = alt.Axis(labels=False, ticks=False, title=f"{count} classes")
    percent = alt.Axis(format="~%", tickCount=5)
    return (
        alt.X("class:N", sort=None, axis=bare),
        alt.Y(f"{kind}:Q", title=None, scale=alt.Scale(domain=[0, 1]), axis=percent),
    )


def name_of(names: Sequence[str], index: int) -> str:
    """Return a class's name, or its number where it has none."""
    return names[index] if index < len(names) else str(index)


def confusion(counts: np.ndarray, names: Sequence[str]) -> Chart:
    """Draw what (across) the records of each class (down) were taken for.

    Args:
        counts: Of shape (classes, classes), true by predicted.
        names: Of the classes.
    """
    size, totals = len(counts), counts.sum(1, keepdims=True)
    share = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    # Many classes make mostly empty maps; cells nobody could see are left out of the file.
    seen = np.argwhere(share >= (0.01 if size > FEW else 1e-9))
    rows = [
        {"t": int(t), "p": int(p), "n": int(counts[t, p]), "s": round(float(share[t, p]), 3)}
        for t, p in seen
    ]
    words: dict[str, Any] = {"labels": size <= FEW, "labelExpr": "names[datum.value]"}
    words |= dict.fromkeys(("ticks", "domain", "grid", "labelOverlap"), False)
    every = alt.Scale(domain=list(range(size)))
    strength = alt.Scale(type="pow", exponent=0.6, domain=[0, 1], range=[0.04, 1])
    heat = (
        drawn(rows)
        .transform_calculate(true="names[datum.t]", predicted="names[datum.p]")
        .mark_rect(color=var("unlearned"))
        .encode(
            alt.X("p:O", scale=every, title="predicted", axis=alt.Axis(labelAngle=-50, **words)),
            alt.Y("t:O", scale=every, title="true", axis=alt.Axis(labelLimit=70, **words)),
            alt.Opacity("s:Q", scale=strength, legend=None),
            tooltip=[
                "true:N",
                "predicted:N",
                alt.Tooltip("n:Q", title="records"),
                alt.Tooltip("s:Q", title="of the class", format=".1%"),
            ],
        )
    )
    labels = alt.param(name="names", value=[name_of(names, i) for i in range(size)])
    return layered(heat, height=210).add_params(labels)


def risk(shares: Kinds) -> Chart | None:
    """Draw how the risk of the records to forget is spread, from 0 to 1 in equal bins."""
    if not shares.unlearned:
        return None
    known = {kind: bins for kind, bins in shares._asdict().items() if bins}
    base = drawn([row for kind, bins in known.items() for row in _bins(kind, bins)])
    x = alt.X("from:Q", title="risk", scale=alt.Scale(domain=[0, 1]))
    y = alt.Y("share:Q", title="of the records", axis=alt.Axis(format="~%", tickCount=4))
    bars = base.mark_bar(color=var("unlearned"), opacity=0.75, binSpacing=1).encode(
        x.bin("binned"),
        y,
        alt.X2("to:Q"),
        tooltip=["from:Q", "to:Q", alt.Tooltip("share:Q", format=".1%")],
    )
    lines = [
        base.mark_line(
            interpolate="step-after", strokeWidth=2, strokeDash=DASHES[kind], color=var(kind)
        )
        .encode(x, y)
        .transform_filter(f"datum.kind == '{kind}'")
        for kind in ("original", "retrained")
        if kind in known
    ]
    return layered(bars.transform_filter("datum.kind == 'unlearned'"), *lines, height=150)


def _bins(kind: str, shares: Sequence[float]) -> Rows:
    edges = [round(float(edge), 3) for edge in np.linspace(0, 1, len(shares) + 1)]
    rows: Rows = [
        {"kind": kind, "from": low, "to": high, "share": share}
        for low, high, share in zip(edges, edges[1:], shares, strict=False)
    ]
    # A stepped line ends where its last bin does.
    return rows if kind == "unlearned" else [*rows, rows[-1] | {"from": 1.0}]
