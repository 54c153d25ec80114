"""Charts of forgetting rates: by method, along a setting, and records in a plane."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import altair as alt

from expunge.report.marks import Chart, Rows, drawn, layered
from expunge.report.theme import var


class Look(NamedTuple):
    """How a method is drawn: a shape and dashes too, for those who cannot tell the colours."""

    tone: str
    shape: str
    dash: Sequence[int]


LOOKS: Mapping[str, Look] = {
    "original": Look("original", "cross", [6, 3]),
    "retrain": Look("retrained", "diamond", [2, 2]),
    "forsaken": Look("unlearned", "circle", [1, 0]),
    "smu": Look("leaks", "triangle-up", [8, 2]),
    "sisa": Look("over-unlearned", "square", [4, 2]),
    "sisa_dp": Look("failed", "triangle-down", [4, 2, 1, 2]),
    "amnesiac": Look("forgotten", "cross", [6, 2, 2, 2]),
}
OTHER = Look("cannot tell", "cross", [1, 2])
GROUPS = ("training", "test", "to forget")
PLACES: Mapping[str, Look] = {
    "training": Look("link", "circle", [1, 0]),
    "test": Look("forgotten", "square", [1, 0]),
    "to forget": Look("original", "triangle-up", [1, 0]),
}
MEASURES: Mapping[str, Look] = {
    "FR": Look("unlearned", "circle", [1, 0]),
    "CFR": Look("leaks", "triangle-up", [6, 3]),
    "test accuracy": Look("ink", "square", [2, 2]),
    "divergence left": Look("unlearned", "circle", [1, 0]),
    "accuracy on the probe": Look("ink", "square", [2, 2]),
}

# Opacity of a mark: less where it must not be read without a warning.
FAINT = alt.condition("datum.warned", alt.value(0.35), alt.value(1))
OUTLINES = {  # of each shape, for legends; in a square of 16
    "circle": "M2 8a6 6 0 1 0 12 0a6 6 0 1 0-12 0",
    "cross": "M6 2h4v4h4v4h-4v4H6v-4H2V6h4Z",
    "diamond": "m8 1 6 7-6 7-6-7Z",
    "square": "M2.5 2.5h11v11h-11Z",
    "triangle-down": "M1 2h14L8 15Z",
    "triangle-up": "M8 1l7 13H1Z",
}


class Mark(NamedTuple):
    """A number to draw.

    Attributes:
        row: What its line of the chart is about.
        key: The method's, by which it is drawn.
        name: The method's in words.
        value: The number, in [0, 1]; a rate may be negative.
        low: Where its interval begins; None where it has none.
        high: Where it ends.
        paper: What the paper prints; None where it prints nothing.
        warned: What it must not be read without; such a mark is drawn faintly.
    """

    row: str
    key: str
    name: str
    value: float
    low: float | None
    high: float | None
    paper: float | None
    warned: str = ""


def look(key: str) -> Look:
    """Return how a method or a measure is drawn."""
    return LOOKS.get(key) or MEASURES.get(key) or PLACES.get(key) or OTHER


def rates(marks: Sequence[Mark]) -> Chart | None:
    """Draw a rate of every method on every data set; hollow marks are what the paper prints."""
    if not any(mark.key not in ("retrain", "original") for mark in marks):
        return None
    keys = list(dict.fromkeys(mark.key for mark in marks))
    ends = [v for m in marks for v in (m.value, m.low, m.high, m.paper) if v is not None]
    rows: Rows = [_rounded(mark._asdict()) for mark in marks]
    base, step = drawn(rows), 9
    axis = alt.Axis(labelLimit=150, domain=False, ticks=False, grid=True, tickBand="extent")
    y = alt.Y("row:N", sort=None, title=None, axis=axis)
    beside = alt.YOffset("key:N", scale=alt.Scale(domain=keys), sort=None)
    across = alt.Scale(domain=[min(0.0, *ends), 1], nice=False, clamp=True)
    share = alt.Axis(format="~%", tickCount=6)
    tone, form = _tone(keys), _form(keys)
    tips = [alt.Tooltip("row:N", title="data"), alt.Tooltip("name:N", title="method")]
    tips += [alt.Tooltip(f"{k}:Q", format=".1%") for k in ("value", "low", "high", "paper")]
    tips += _warning(marks)

    def x(name: str) -> alt.X:
        return alt.X(f"{name}:Q", title=None, scale=across, axis=share)

    hollow = {"size": 40, "strokeWidth": 1.4, "opacity": 0.75}
    return layered(
        base.mark_rule(strokeWidth=1.5, opacity=0.7)
        .encode(x("low"), alt.X2("high:Q"), y, beside, tone)
        .transform_filter("isValid(datum.low)"),
        base.mark_point(fill="transparent", **hollow)
        .encode(x("paper"), y, beside, tone, form, tooltip=tips)
        .transform_filter("isValid(datum.paper)"),
        base.mark_point(filled=True, size=46).encode(
            x("value"), y, beside, tone, form, opacity=FAINT, tooltip=tips
        ),
        height=max(90, (step * len(keys) + 8) * len({mark.row for mark in marks})),
    )


def _tone(keys: Sequence[str]) -> alt.Color:
    scale = alt.Scale(domain=list(keys), range=[var(look(key).tone) for key in keys])
    return alt.Color("key:N", scale=scale, legend=None)


def _form(keys: Sequence[str]) -> alt.Shape:
    scale = alt.Scale(domain=list(keys), range=[look(key).shape for key in keys])
    return alt.Shape("key:N", scale=scale, legend=None)


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()}


class Point(NamedTuple):
    """A number along a setting.

    Attributes:
        key: Of the line that it is on.
        name: The line's in words.
        x: The setting.
        value: The number.
        low: Where its interval begins; None where it has none.
        high: Where it ends.
        warned: What it must not be read without; such a mark is drawn faintly.
    """

    key: str
    name: str
    x: float
    value: float
    low: float | None = None
    high: float | None = None
    warned: str = ""


def _warning(marks: Sequence[Mark] | Sequence[Point]) -> list[alt.Tooltip]:
    return [alt.Tooltip("warned:N", title="⚠")] if any(mark.warned for mark in marks) else []


class Rule(NamedTuple):
    """A level to compare with, drawn across."""

    key: str
    value: float


def lines(
    points: Sequence[Point], title: str, rules: Sequence[Rule] = (), *, share: bool = True
) -> Chart | None:
    """Draw numbers along a setting, a line for each key.

    Args:
        points: With at least two places along the setting.
        title: Of the setting.
        rules: Levels to compare with.
        share: Whether the numbers are shares, shown in percent.
    """
    places = sorted({point.x for point in points})
    if len(places) < 2:
        return None
    keys = list(dict.fromkeys(point.key for point in points))
    base = drawn([_rounded(point._asdict()) for point in points])
    ticks = alt.Axis(values=places, grid=False) if len(places) < 9 else alt.Axis(grid=False)
    x = alt.X("x:Q", title=title, scale=alt.Scale(nice=False, zero=False), axis=ticks)
    axis = alt.Axis(format="~%", tickCount=5) if share else alt.Axis(tickCount=5)
    tone, form = _tone(keys), _form(keys)
    dashes = alt.Scale(domain=keys, range=[list(look(key).dash) for key in keys])
    tips = [alt.Tooltip("name:N", title="line"), alt.Tooltip("x:Q", title=title)]
    form_of = ".1%" if share else ".3g"
    tips += [alt.Tooltip(f"{name}:Q", format=form_of) for name in ("value", "low", "high")]
    tips += _warning(points)

    def y(name: str) -> alt.Y:
        return alt.Y(f"{name}:Q", title=None, scale=alt.Scale(zero=False), axis=axis)

    levels = [
        drawn([{"level": float(f"{rule.value:.4g}")}])
        .mark_rule(strokeDash=list(look(rule.key).dash), color=var(look(rule.key).tone))
        .encode(y("level"))
        for rule in rules
    ]
    return layered(
        *levels,
        base.mark_rule(strokeWidth=1.2, opacity=0.5)
        .encode(x, y("low"), alt.Y2("high:Q"), tone)
        .transform_filter("isValid(datum.low)"),
        base.mark_line(strokeWidth=1.8).encode(
            x, y("value"), tone, alt.StrokeDash("key:N", scale=dashes, legend=None)
        ),
        base.mark_point(filled=True, size=34 if len(places) < 30 else 8).encode(
            x, y("value"), tone, form, opacity=FAINT, tooltip=tips
        ),
        height=190,
    )


Places = Sequence[Sequence[float]]


def plane(
    places: Places,
    groups: Sequence[int],
    moved_from: Places | None = None,
    within: Places | None = None,
) -> Chart | None:
    """Draw records in a plane, by group.

    Args:
        places: Of each record, two coordinates.
        groups: Of each record, its place in `GROUPS`.
        moved_from: Where records to forget were before, from which thin lines are drawn.
        within: Places that the frame must hold as well, so that two charts have one.
    """
    if not places:
        return None
    rows: Rows = [
        {"key": GROUPS[group], "x": round(x, 2), "y": round(y, 2)}
        for (x, y), group in zip(places, groups, strict=True)
    ]
    frame = [*places, *(within or ())]
    ends = [[min(p[i] for p in frame), max(p[i] for p in frame)] for i in (0, 1)]
    bare = alt.Axis(labels=False, ticks=False, grid=False, domain=False, title=None)

    def at(axis: type[alt.X] | type[alt.Y], name: str, end: Sequence[float]) -> Any:
        return axis(f"{name}:Q", axis=bare, scale=alt.Scale(domain=list(end), nice=True))

    x, y = at(alt.X, "x", ends[0]), at(alt.Y, "y", ends[1])
    tone, form = _tone(GROUPS), _form(GROUPS)
    layers = [
        drawn(rows)
        .mark_point(filled=True, size=26, opacity=0.75)
        .encode(x, y, tone, form, tooltip=[alt.Tooltip("key:N", title="record")])
    ]
    if moved_from:
        paths: Rows = [
            row | {"x2": round(old[0], 2), "y2": round(old[1], 2)}
            for row, old in zip(rows, moved_from, strict=True)
            if row["key"] == "to forget"
        ]
        moves = drawn(paths).mark_rule(color=var("original"), opacity=0.22, strokeWidth=0.8)
        layers.insert(0, moves.encode(x, y, alt.X2("x2:Q"), alt.Y2("y2:Q")))
    return layered(*layers, height=250)
