"""Charts that set every method of a group beside both controls."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from expunge.report.marks import Chart, Rows, colour, drawn, layered, shape
from expunge.report.theme import var
from expunge.study.estimate import Estimate
from expunge.study.rows import Column, Row

# Where a name may stand from its mark, in pixels right and up: the nearest first.
PLACES = [(13, 0), (-13, 0), (0, 18), (0, -18)]
PLACES += [(side, up) for up in (14, -14, 28, -28, 42, -42) for side in (12, -12)]


def tradeoff(rows: Sequence[Row], x: Column, y: Column) -> Chart | None:
    """Draw forgetting against utility; a mark's size is what it cost.

    Args:
        rows: Methods and controls of one group.
        x: Of forgetting. Its gap to retraining is drawn where there is one.
        y: Of utility.
    """
    against = any(row.cells[x].gap is not None for row in rows if x in row.cells)
    points = [p for row in rows if (p := _point(row, x, y, against=against))]
    if all(p["kind"] in ("original", "retrained") for p in points):
        return None
    _place_names(points)
    title = f"{x.heading}, minus retraining's" if against else x.heading
    scale = alt.Scale(zero=False, padding=30, nice=False)
    across = alt.X("value:Q", title=title, scale=scale, axis=alt.Axis(tickCount=6))
    up = alt.Y("y:Q", title=y.heading, scale=scale)
    base, kinds = drawn(points), [p["kind"] for p in points]
    work = alt.Scale(domain=[0, 100], range=[90, 520], clamp=True)
    said = {"name:N": "model", "kind:N": "verdict", "value:Q": title, "y:Q": y.heading}
    marks = base.mark_point(filled=True, opacity=0.92).encode(
        across,
        up,
        colour(kinds),
        shape(kinds),
        alt.Size("work:Q", scale=work, legend=None),
        tooltip=[
            *(alt.Tooltip(field, title=words) for field, words in said.items()),
            alt.Tooltip("cost:N"),
        ],
    )
    lines = base.mark_rule(opacity=0.55)
    wide = lines.encode(alt.X("low:Q"), up, alt.X2("high:Q")).transform_filter("isValid(datum.low)")
    high = lines.encode(across, alt.Y("ylow:Q"), alt.Y2("yhigh:Q")).transform_filter(
        "isValid(datum.ylow)"
    )
    names = _names(base, points, across, up)
    return layered(*([_zero()] if against else []), wide, high, marks, *names, height=320)


def distances(rows: Sequence[Row], column: Column) -> Chart | None:
    """Draw each model's gap to retraining over the band in which it means nothing."""
    cells = [(row, row.cells[column]) for row in rows if column in row.cells]
    points = [
        interval(column, cell.gap) | {"name": row.label, "kind": row.verdict or row.kind}
        for row, cell in cells
        if cell.gap is not None
    ]
    if not points:
        return None
    floors = [cell.floor for _, cell in cells if cell.floor is not None]
    base, kinds = drawn(points), [p["kind"] for p in points]
    bare = alt.Axis(labelLimit=150, domain=False, ticks=False, grid=False)
    y = alt.Y("name:N", sort=None, title=None, axis=bare)
    x = alt.X("value:Q", title=None, axis=alt.Axis(tickCount=5))
    layers = [
        _zero(),
        base.mark_rule(strokeWidth=2, opacity=0.8).encode(
            alt.X("low:Q"), y, alt.X2("high:Q"), colour(kinds)
        ),
        base.mark_point(filled=True, size=75, opacity=1).encode(
            x, y, colour(kinds), shape(kinds), tooltip=["name:N", "value:Q", "low:Q", "high:Q"]
        ),
    ]
    if floors:
        floor = scaled(column, sum(floors) / len(floors)) or 0.0
        band = drawn([{"low": -floor, "high": floor}])
        shade = band.mark_rect(color=var("retrained"), opacity=0.14)
        layers.insert(0, shade.encode(alt.X("low:Q", title=None), alt.X2("high:Q")))
    return layered(*layers, height=24 * len(points) + 4)


def scaled(column: Column, value: float | None) -> float | None:
    """Return a value as the tables show it: fractions in percent."""
    return value if value is None else float(f"{value * (100 if column.share else 1):.5g}")


def interval(column: Column, estimate: Estimate) -> dict[str, Any]:
    """Return an estimate as the fields `value`, `low` and `high`."""
    ends = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {name: scaled(column, value) for name, value in ends.items()}


def _point(row: Row, x: Column, y: Column, *, against: bool) -> dict[str, Any] | None:
    if x not in row.cells or y not in row.cells:
        return None
    cell, up = row.cells[x], row.cells[y].estimate
    across = cell.gap if against else cell.estimate
    if across is None:  # retraining is as far from itself as its own spread
        reach = (cell.estimate.high or cell.estimate.value) - cell.estimate.value
        across = Estimate(value=0.0, low=-reach, high=reach)
    cost = next((c for c in row.cells if (c.audit, c.value) == ("cost", "of_retraining")), None)
    spent = row.cells[cost].estimate.value if cost else None
    return interval(x, across) | {
        "name": row.label,
        "kind": row.verdict or row.kind,
        "y": scaled(y, up.value),
        "ylow": scaled(y, up.low),
        "yhigh": scaled(y, up.high),
        "work": 30.0 if spent is None else round(100 * spent, 3),
        "cost": "not measured" if spent is None else f"{spent:.1%} of retraining's work",
    }


def _place_names(points: Rows) -> None:
    """Put each name beside its mark, where the least is in its way."""
    # Rough pixels of a chart 480 wide and 320 high are enough to tell near from far.
    across = _pixels(points, ("value", "low", "high"), 400)
    up = _pixels(points, ("y", "ylow", "yhigh"), 240)
    taken = [(x, y, 11.0, 10.0) for x, y in zip(across, up, strict=True)]
    for point, x, y in zip(points, across, up, strict=True):
        half = 3.3 * len(point["name"])
        boxes = [(x + dx + half * np.sign(dx), y + dy, half, 6.0) for dx, dy in PLACES]
        blocked = [
            sum(abs(cx - a) < half + w and abs(cy - b) < 6 + h for a, b, w, h in taken)
            + 3 * (not half < cx < 480 - half)  # off the chart
            + number / 100
            for number, (cx, cy, _, _) in enumerate(boxes)
        ]
        best = int(np.argmin(blocked))
        point["dx"], point["dy"] = PLACES[best]
        taken.append(boxes[best])


def _pixels(points: Rows, keys: tuple[str, str, str], size: int) -> np.ndarray:
    """Return where values will lie on an axis that also has room for their intervals."""
    values = np.array([[p[k] for k in keys] for p in points], dtype=float)
    low, high = np.nanmin(values), np.nanmax(values)
    return 35 + (values[:, 0] - low) / ((high - low) or 1) * size


def _names(base: alt.Chart, points: Rows, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    sides: dict[int, Any] = {-1: "right", 0: "center", 1: "left"}
    return [
        base.mark_text(baseline="middle", align=sides[int(np.sign(dx))], dx=dx, dy=-dy)
        .encode(x, y, alt.Text("name:N"))
        .transform_filter(f"datum.dx == {dx} && datum.dy == {dy}")
        for dx, dy in dict.fromkeys((p["dx"], p["dy"]) for p in points)
    ]


def _zero() -> alt.Chart:
    rule = drawn([{"zero": 0}]).mark_rule(strokeDash=[4, 3], color=var("retrained"))
    return rule.encode(alt.X("zero:Q"))
