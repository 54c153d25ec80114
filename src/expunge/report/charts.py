"""Charts, declared: rows and numbers in, Vega-Lite out; how they look is the theme's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import vl_convert

from expunge.bench.estimate import Estimate
from expunge.bench.rows import Column, Row
from expunge.report.evidence import Curve, Numbers
from expunge.report.theme import Theme, config, resolved, var

FEW = 30  # classes up to which each has a label of its own
VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])

SHAPES = {
    "forgotten": "circle",
    "leaks": "triangle-up",
    "over-unlearned": "triangle-down",
    "cannot tell": "square",
    "original": "cross",
    "retrained": "diamond",
}

Place = tuple[float, float]
# Where a name may stand from its mark, in pixels right and up.
PLACES: list[Place] = [(13, 0), (-13, 0), (0, 18), (0, -18)]
PLACES += [(side, up) for up in (14, -14, 28, -28, 42, -42) for side in (12, -12)]

Chart = alt.Chart | alt.LayerChart
Rows = list[dict[str, Any]]


class Kinds(NamedTuple):
    """The same numbers for a method's models and for both controls."""

    unlearned: Any
    original: Any
    retrained: Any


def _chart(rows: Rows) -> alt.Chart:
    # A tuple, because altair copies lists for every layer and every property.
    return alt.Chart(alt.Data(values=tuple(rows)))  # pyright: ignore[reportArgumentType]


def _scaled(column: Column, value: float | None) -> float | None:
    """Return a value as the tables show it: fractions in percent."""
    return value if value is None else float(f"{value * (100 if column.share else 1):.5g}")


def _interval(column: Column, estimate: Estimate) -> dict[str, float | None]:
    ends = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {name: _scaled(column, value) for name, value in ends.items()}


def tradeoff(rows: Sequence[Row], x: Column, y: Column) -> Chart | None:
    """Draw forgetting against utility; a mark's size is what it cost.

    Args:
        rows: Methods and controls of one group.
        x: Of forgetting. Its gap to retraining is drawn where there is one.
        y: Of utility.
    """
    against = any(row.cells[x].gap is not None for row in rows if x in row.cells)
    points = [p for row in rows if (p := _point(row, x, y, against=against))]
    if not any(p["kind"] not in ("original", "retrained") for p in points):
        return None
    _place_labels(points)
    kinds = list(dict.fromkeys(p["kind"] for p in points))
    title = f"{x.heading}, minus retraining's" if against else x.heading
    base = _chart(points)
    across = alt.X("value:Q", title=title, scale=alt.Scale(zero=False, padding=30, nice=False), axis=alt.Axis(tickCount=6))
    up = alt.Y("y:Q", title=y.heading, scale=alt.Scale(zero=False, padding=24, nice=False))
    marks = base.mark_point(filled=True, opacity=0.92).encode(
        across,
        up,
        color=alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=[var(k) for k in kinds]), legend=None),
        shape=alt.Shape("kind:N", scale=alt.Scale(domain=kinds, range=[SHAPES.get(k, "square") for k in kinds]), legend=None),
        size=alt.Size("work:Q", scale=alt.Scale(domain=[0, 100], range=[90, 520], clamp=True), legend=None),
        tooltip=[alt.Tooltip(f, title=t) for f, t in (("name:N", "model"), ("kind:N", "verdict"), ("value:Q", title), ("y:Q", y.heading), ("cost:N", "cost"))],
    )  # fmt: skip
    layers = [
        base.mark_rule(opacity=0.55).encode(across, up, x2="high:Q").transform_calculate(value="datum.low").transform_filter("isValid(datum.low)"),
        base.mark_rule(opacity=0.55).encode(across, alt.Y("ylow:Q"), y2="yhigh:Q").transform_filter("isValid(datum.ylow)"),
        marks,
        *_names(base, points, across, up),
    ]  # fmt: skip
    if against:
        layers.insert(0, _zero())
    return alt.layer(*layers).properties(width="container", height=320)


def _point(row: Row, x: Column, y: Column, *, against: bool) -> dict[str, Any] | None:
    if x not in row.cells or y not in row.cells:
        return None
    cell, up = row.cells[x], row.cells[y].estimate
    across = cell.gap if against else cell.estimate
    if across is None:  # retraining is as far from itself as its own spread
        reach = (cell.estimate.high or cell.estimate.value) - cell.estimate.value
        across = Estimate(value=0.0, low=-reach, high=reach)
    cost = next((c for c in row.columns if (c.audit, c.value) == ("cost", "of_retraining")), None)
    spent = row.cells[cost].estimate.value if cost in row.cells else None
    return _interval(x, across) | {
        "name": row.label,
        "kind": row.verdict or row.kind,
        "y": _scaled(y, up.value),
        "ylow": _scaled(y, up.low),
        "yhigh": _scaled(y, up.high),
        "work": 30.0 if spent is None else round(100 * spent, 3),
        "cost": "not measured" if spent is None else f"{spent:.1%} of retraining's work",
    }


def _place_labels(points: Rows) -> None:
    """Put each name beside its mark, where the least is in its way."""
    # Rough pixels of a chart 480 wide and 320 high are enough to tell near from far.
    across = _pixels(points, ("value", "low", "high"), 400)
    up = _pixels(points, ("y", "ylow", "yhigh"), 240)
    taken = [(x, y, 11.0, 10.0) for x, y in zip(across, up, strict=True)]
    for point, x, y in zip(points, across, up, strict=True):
        half = 3.3 * len(point["name"])

        def middle(place: Place, x: float = x, y: float = y, half: float = half) -> Place:
            return x + place[0] + half * np.sign(place[0]), y + place[1]

        def blocked(place: Place, middle: Any = middle, half: float = half) -> float:
            cx, cy = middle(place)
            hits = sum(abs(cx - a) < half + w and abs(cy - b) < 6 + h for a, b, w, h in taken)
            return hits + 3 * (not half < cx < 480 - half) + abs(place[1]) / 100

        point["dx"], point["dy"] = place = min(PLACES, key=blocked)
        taken.append((*middle(place), half, 6.0))


def _pixels(points: Rows, keys: tuple[str, str, str], size: int) -> np.ndarray:
    """Return where values will lie on an axis that also has room for their intervals."""
    values = np.array([[p[k] for k in keys] for p in points], dtype=float)
    low, high = np.nanmin(values), np.nanmax(values)
    return 35 + (values[:, 0] - low) / ((high - low) or 1) * size


def _names(base: alt.Chart, points: Rows, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    return [
        base.mark_text(
            baseline="middle",
            align="left" if dx > 0 else "right" if dx < 0 else "center",
            dx=dx,
            dy=-dy,
        )
        .encode(x, y, text="name:N")
        .transform_filter(f"datum.dx == {dx} && datum.dy == {dy}")
        for dx, dy in dict.fromkeys((p["dx"], p["dy"]) for p in points)
    ]


def _zero() -> alt.Chart:
    rule = _chart([{"zero": 0}]).mark_rule(strokeDash=[4, 3], color=var("retrained"))
    return rule.encode(x="zero:Q")


def distances(rows: Sequence[Row], column: Column) -> Chart | None:
    """Draw each model's gap to retraining over the band in which it means nothing."""
    rows = [row for row in rows if column in row.cells and row.cells[column].gap is not None]
    points: Rows = []
    for row in rows:
        cell = row.cells[column]
        if cell.gap is not None:
            points.append(
                _interval(column, cell.gap) | {"name": row.label, "kind": row.verdict or row.kind}
            )
    if not points:
        return None
    floors = [f for row in rows if (f := row.cells[column].floor) is not None]
    kinds = list(dict.fromkeys(p["kind"] for p in points))
    base = _chart(points)
    y = alt.Y("name:N", sort=None, title=None, axis=alt.Axis(labelLimit=150, domain=False, ticks=False, grid=False))
    x = alt.X("value:Q", title=f"{column.heading}, minus retraining's", axis=alt.Axis(tickCount=5))
    colour = alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=[var(k) for k in kinds]), legend=None)
    shape = alt.Shape("kind:N", scale=alt.Scale(domain=kinds, range=[SHAPES.get(k, "square") for k in kinds]), legend=None)
    layers = [
        _zero(),
        base.mark_rule(strokeWidth=2, opacity=0.8).encode(alt.X("low:Q"), y, x2="high:Q", color=colour),
        base.mark_point(filled=True, size=75, opacity=1).encode(x, y, color=colour, shape=shape, tooltip=["name:N", "value:Q", "low:Q", "high:Q"]),
    ]  # fmt: skip
    if floors:
        floor = _scaled(column, sum(floors) / len(floors)) or 0.0
        band = _chart([{"low": -floor, "high": floor}]).mark_rect(color=var("retrained"), opacity=0.14)
        layers.insert(0, band.encode(alt.X("low:Q", title=None), x2="high:Q"))
    return alt.layer(*layers).properties(width="container", height=24 * len(points) + 4)


def roc(curves: Kinds) -> Chart | None:
    """Draw how many members are found for how many false alarms, both on log axes."""
    known = {k: c for k, c in curves._asdict().items() if c is not None}
    if "unlearned" not in known:
        return None
    rows = [row for kind, curve in known.items() for row in _curve(kind, curve)]
    bottom = min(min(c.fpr) for c in known.values())
    scale = alt.Scale(type="log", domain=[bottom, 1], clamp=True, nice=False)
    tens = [10.0**power for power in range(-5, 1) if 10.0**power >= bottom]
    ticks = alt.Axis(values=tens, format="~%", grid=True)
    x = alt.X("f:Q", title="false positive rate", scale=scale, axis=ticks)
    y = alt.Y("t:Q", title="true positive rate", scale=scale, axis=ticks)
    kinds = list(known)
    dashes = {"unlearned": [1, 0], "original": [6, 3], "retrained": [2, 2]}
    chance = _chart([{"f": bottom, "t": bottom}, {"f": 1, "t": 1}])
    base = _chart(rows)
    band = base.mark_area(opacity=0.15, color=var("unlearned"), clip=True)
    lines = base.mark_line(strokeWidth=2, clip=True).encode(
        x,
        y,
        color=alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=[var(k) for k in kinds]), legend=None),
        strokeDash=alt.StrokeDash("kind:N", scale=alt.Scale(domain=kinds, range=[dashes[k] for k in kinds]), legend=None),
        order="f:Q",
    )  # fmt: skip
    return alt.layer(
        chance.mark_line(strokeWidth=1, color=var("chance")).encode(x, y),
        band.encode(x, alt.Y("low:Q", scale=scale), y2="high:Q").transform_filter("datum.kind == 'unlearned'"),
        lines,
    ).properties(width="container", height=230)  # fmt: skip


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
    rows = [
        {"class": _name(names, i)} | {k: v[i] for k, v in accuracy._asdict().items() if v}
        for i in told
    ]
    base, few = _chart(rows), len(told) <= FEW
    scale, percent = alt.Scale(domain=[0, 1]), alt.Axis(format="~%", tickCount=5)
    tips = [alt.Tooltip("class:N")] + [
        alt.Tooltip(f"{k}:Q", format=".1%") for k, v in accuracy._asdict().items() if v
    ]

    def at(kind: str) -> dict[str, Any]:
        value = {"shorthand": f"{kind}:Q", "title": None, "scale": scale, "axis": percent}
        if few:
            label = alt.Axis(labelLimit=90, ticks=False, domain=False)
            return {"x": alt.X(**value), "y": alt.Y("class:N", sort=None, title=None, axis=label)}
        bare = alt.Axis(labels=False, ticks=False, title=f"{len(told)} classes")
        return {"y": alt.Y(**value), "x": alt.X("class:N", sort=None, axis=bare)}

    layers = [
        base.mark_bar(color=var("unlearned"), opacity=0.8, cornerRadiusEnd=2).encode(**at("unlearned"), tooltip=tips),
        base.mark_tick(color=var("retrained"), thickness=3, opacity=1, **({} if few else {"width": 5})).encode(**at("retrained"), tooltip=tips),
        base.mark_point(color=var("original"), size=34 if few else 12, strokeWidth=2, opacity=1).encode(**at("original"), tooltip=tips),
    ]  # fmt: skip
    height = 19 * len(told) if few else 180
    return alt.layer(*layers).properties(width="container", height=height)


def _name(names: Sequence[str], index: int) -> str:
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
    few = size <= FEW
    order = list(range(size))
    words = {"labels": few, "ticks": False, "domain": False, "grid": False, "labelLimit": 70}
    words["labelExpr"] = "names[datum.value]"
    across = alt.Axis(labelAngle=-50, labelOverlap=False, **words)
    down = alt.Axis(labelOverlap=False, **words)
    base = _chart(rows).transform_calculate(
        true="names[datum.t]", predicted="names[datum.p]"
    )
    heat = base.mark_rect(color=var("unlearned")).encode(
        alt.X("p:O", scale=alt.Scale(domain=order), title="predicted", axis=across),
        alt.Y("t:O", scale=alt.Scale(domain=order), title="true", axis=down),
        opacity=alt.Opacity("s:Q", scale=alt.Scale(type="pow", exponent=0.6, domain=[0, 1], range=[0.04, 1]), legend=None),
        tooltip=["true:N", "predicted:N", alt.Tooltip("n:Q", title="records"), alt.Tooltip("s:Q", title="of the class", format=".1%")],
    )  # fmt: skip
    labels = [_name(names, i) for i in range(size)]
    return (
        alt.layer(heat)
        .add_params(alt.param(name="names", value=labels))
        .properties(width="container", height=210)
    )


def risk(shares: Kinds) -> Chart | None:
    """Draw how the risk of the records to forget is spread, from 0 to 1 in equal bins."""
    if not shares.unlearned:
        return None
    rows: Rows = []
    for kind, bins in shares._asdict().items():
        edges = np.linspace(0, 1, len(bins) + 1) if bins else []
        rows += [
            {"kind": kind, "from": round(float(edges[i]), 3), "to": round(float(edges[i + 1]), 3), "share": s}
            for i, s in enumerate(bins)
        ]  # fmt: skip
        if bins and kind != "unlearned":  # a step ends where its last bin does
            rows.append({"kind": kind, "from": 1.0, "to": 1.0, "share": bins[-1]})
    scale = alt.Scale(domain=[0, 1])
    x = alt.X("from:Q", title="risk", scale=scale)
    y = alt.Y("share:Q", title="of the records", axis=alt.Axis(format="~%", tickCount=4))
    base = _chart(rows)
    lines = [
        base.mark_line(interpolate="step-after", strokeWidth=2, strokeDash=dash, color=var(kind))
        .encode(x, y)
        .transform_filter(f"datum.kind == '{kind}'")
        for kind, dash in (("original", [6, 3]), ("retrained", [2, 2]))
        if getattr(shares, kind)
    ]
    bars = base.mark_bar(color=var("unlearned"), opacity=0.75, binSpacing=1).encode(
        x.bin("binned"), y, x2="to:Q", tooltip=["from:Q", "to:Q", alt.Tooltip("share:Q", format=".1%")],
    ).transform_filter("datum.kind == 'unlearned'")  # fmt: skip
    return alt.layer(bars, *lines).properties(width="container", height=150)


def spec(chart: Chart, description: str) -> dict[str, Any]:
    """Return a chart as plain Vega-Lite, with words for those who cannot see it."""
    made = chart.properties(description=description).to_dict()
    return {k: v for k, v in made.items() if k not in ("config", "$schema")}


def save(chart: Chart, path: str | Path, theme: Theme = "light", width: int = 520) -> None:
    """Write a chart as PNG or SVG, by the ending of `path`; needs no browser.

    Raises:
        ValueError: If the ending is another.
    """
    path = Path(path)
    made = resolved(chart.to_dict() | {"width": width, "config": config()}, theme)
    made["config"]["background"] = resolved(var("surface"), theme)
    if path.suffix == ".svg":
        path.write_text(vl_convert.vegalite_to_svg(made, vl_version=VEGA_LITE), encoding="utf-8")
    elif path.suffix == ".png":
        path.write_bytes(vl_convert.vegalite_to_png(made, vl_version=VEGA_LITE, scale=2))
    else:
        raise ValueError(f"expected a path that ends in .png or .svg, got {path}")
