"""Charts of what an attack recalled, beside the same attack on the controls."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from expunge.report.charts import FEW, name_of
from expunge.report.marks import Chart, colour, drawn, layered
from expunge.report.theme import var
from expunge.study.recall import Line


def dumbbells(lines: Sequence[Line]) -> Chart | None:
    """Draw accuracy before and after the attack, one line per model.

    The band holds the attack on retrained models: what lies in it shows nothing.
    """
    rows = [_ends(line) for line in lines]
    if all(line.row.kind != "method" for line in lines):
        return None
    base, kinds = drawn(rows), [row["kind"] for row in rows]
    name = alt.Axis(labelLimit=170, domain=False, ticks=False, grid=False)
    y = alt.Y("name:N", sort=None, title=None, axis=name)
    before, renormed, after = (_share(kind) for kind in ("before", "renormed", "after"))
    tone = colour(kinds)
    words = {"before": "ULM", "renormed": "BN only", "after": "RCM"}
    tips = [alt.Tooltip(f"{key}:Q", title=said, format=".1%") for key, said in words.items()]
    tips.insert(0, alt.Tooltip("name:N", title="model"))
    layers = [
        base.mark_rule(strokeWidth=2, opacity=0.45).encode(after, alt.X2("before:Q"), y, tone),
        base.mark_point(size=62, strokeWidth=2, fill=var("surface"), opacity=1).encode(
            before, y, tone, tooltip=tips
        ),
        base.mark_point(shape="diamond", size=58, strokeWidth=1.6, color=var("muted"), opacity=1)
        .encode(renormed, y, tooltip=tips)
        .transform_filter("isValid(datum.renormed)"),
        base.mark_point(size=72, filled=True, opacity=1).encode(after, y, tone, tooltip=tips),
    ]
    for line in lines:
        if line.told:
            layers = [*_reach(line), *layers]
    return layered(*layers, height=25 * len(rows) + 6)


def _share(field: str) -> alt.X:
    """Return the axis of an accuracy."""
    axis = alt.Axis(format="~%", tickCount=5)
    return alt.X(f"{field}:Q", title=None, scale=alt.Scale(domain=[0, 1]), axis=axis)


def _ends(line: Line) -> dict[str, Any]:
    cells = {"before": line.before, "renormed": line.renormed, "after": line.after}
    values = {k: None if c is None else round(c.estimate.value, 4) for k, c in cells.items()}
    kind = "unlearned" if line.row.kind == "method" else line.row.kind
    return {"name": line.row.label, "kind": kind} | values


def _reach(line: Line) -> list[alt.Chart]:
    """Draw where the attacked retrained models lie, and their mean."""
    band = drawn([{"low": min(line.told), "high": max(line.told)}])
    mean = drawn([{"mean": round(line.after.estimate.value, 4)}])
    return [
        band.mark_rect(color=var("retrained"), opacity=0.14).encode(
            _share("low"), alt.X2("high:Q")
        ),
        mean.mark_rule(color=var("retrained"), strokeDash=[4, 3]).encode(_share("mean")),
    ]


def classes(accuracy: Mapping[str, Sequence[float | None]], names: Sequence[str]) -> Chart | None:
    """Draw accuracy by forgotten class: two bars before and after, marks for both controls.

    Args:
        accuracy: By class: `before`, `after`, `renormed`, and `retrained`, the attack on
            retrained models; those that are missing are empty.
        names: Of the classes.
    """
    told = [i for i, value in enumerate(accuracy["after"]) if value is not None]
    if not told or len(told) > FEW:
        return None
    known = {kind: values for kind, values in accuracy.items() if values}
    rows = [{"class": name_of(names, i)} | {k: v[i] for k, v in known.items()} for i in told]
    base = drawn(rows)
    words = {"before": "ULM", "after": "RCM", "renormed": "BN only", "retrained": "RCM, retrained"}
    tips = [
        alt.Tooltip(f"{kind}:Q", title=said, format=".1%")
        for kind, said in words.items()
        if kind in known
    ]
    tips.insert(0, alt.Tooltip("class:N"))
    label = alt.Axis(labelLimit=90, ticks=False, domain=False)
    y = alt.Y("class:N", sort=None, title=None, axis=label)
    bar = base.mark_bar(color=var("unlearned"), height={"band": 0.34}, yOffset=5, opacity=0.85)
    pale = base.mark_bar(color=var("unlearned"), height={"band": 0.34}, yOffset=-5, opacity=0.32)
    marks = {
        "after": bar,
        "before": pale,
        "renormed": base.mark_point(
            shape="diamond", size=42, strokeWidth=1.6, color=var("muted"), opacity=1
        ),
        "retrained": base.mark_tick(color=var("retrained"), thickness=3, opacity=1),
    }
    layers = [
        mark.encode(_share(kind), y, tooltip=tips) for kind, mark in marks.items() if kind in known
    ]
    return layered(*layers, height=26 * len(told))


def confusions(counts: Mapping[str, np.ndarray], names: Sequence[str]) -> Chart | None:
    """Draw what forgotten classes (down) are taken for, stage by stage (across).

    Args:
        counts: Of shape (classes, classes), true by predicted, by the stage's title.
        names: Of the classes.
    """
    size = len(next(iter(counts.values()), ()))
    true = [int(t) for t in np.flatnonzero(sum(counts.values(), np.zeros((size, size))).sum(1))]
    if not true:
        return None
    step = size + max(1, size // 12)  # from one stage to the next
    starts = [step * number for number in range(len(counts))]
    few, ends = len(true) <= FEW, alt.X2("end:Q")
    bare: dict[str, Any] = {"domain": False, "ticks": False, "grid": False}
    heads = alt.Axis(
        values=[start + size / 2 for start in starts],
        labelExpr=f"stages[floor(datum.value / {step})]",
        orient="top",
        labelLimit=200,
        **bare,
    )
    across = alt.Scale(domain=[0, starts[-1] + size], nice=False)
    x = alt.X("x:Q", title=None, scale=across, axis=heads)
    down = alt.Axis(labelExpr="names[datum.value]", labelLimit=80, labels=few, **bare)
    y = alt.Y("t:O", title=None, scale=alt.Scale(domain=true), axis=down)
    ground = drawn([{"x": start, "end": start + size} for start in starts])
    layers = [
        ground.mark_rect(color=var("raised"), opacity=0.75).encode(x, ends),
        _heat(counts, step).encode(x, ends, y),
        _frames(starts, true, size).encode(x, ends, y),
    ]
    params = [
        alt.param(name="names", value=[name_of(names, i) for i in range(size)]),
        alt.param(name="stages", value=list(counts)),
    ]
    return layered(*layers, height=max(60, (17 if few else 3) * len(true))).add_params(*params)


def _heat(counts: Mapping[str, np.ndarray], step: int) -> alt.Chart:
    """Return every stage's cells, coloured by their share of the row."""
    cells = np.concatenate([_cells(t, step * k) for k, t in enumerate(counts.values())])
    # One row of lists, taken apart in the page, is a third as long as a row for each cell.
    lists = dict(zip("xtns", cells.T.astype(int).tolist(), strict=True))
    strength = alt.Scale(type="pow", exponent=0.6, domain=[0, 100], range=[0.04, 1])
    return (
        drawn([lists])
        .transform_flatten(list(lists))
        .transform_calculate(
            end="datum.x + 1", true="names[datum.t]", predicted=f"names[datum.x % {step}]"
        )
        .mark_rect(color=var("unlearned"))
        .encode(
            alt.Opacity("s:Q", scale=strength, legend=None),
            tooltip=[
                "true:N",
                "predicted:N",
                alt.Tooltip("n:Q", title="records"),
                alt.Tooltip("s:Q", title="of the class, %"),
            ],
        )
    )


def _frames(starts: Sequence[int], true: Sequence[int], size: int) -> alt.Chart:
    """Return a frame around every right answer."""
    room = 0 if size <= FEW else 1  # or the frame would hide so narrow a cell
    places = [
        {"x": start + t - room, "end": start + t + 1 + room, "t": t}
        for start in starts
        for t in true
    ]
    return drawn(places).mark_rect(filled=False, stroke=var("ink"), opacity=0.8)


def _cells(table: np.ndarray, start: int) -> np.ndarray:
    """Return where each cell that can be seen lies, its count, and its share in percent."""
    totals = table.sum(1, keepdims=True)
    share = np.divide(table, totals, out=np.zeros(table.shape), where=totals > 0)
    # Of many classes most cells are next to empty; nobody could see them.
    true, predicted = np.nonzero(share >= (0.01 if len(table) > FEW else 1e-9))
    seen = true, predicted
    return np.stack([start + predicted, true, table[seen], (100 * share[seen]).round()], axis=1)
