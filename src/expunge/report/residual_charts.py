"""Charts of residuals: how soon something is known again, and who is told by it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import altair as alt

from expunge.report.marks import Chart, Rows, colour, dash, drawn, layered
from expunge.report.theme import var
from expunge.study.residual_arrays import Course, Decision, Recovered

Paths = Mapping[str, Sequence[float]]


class Mark(NamedTuple):
    """A model's number to draw.

    Attributes:
        name: The row's.
        kind: `unlearned`, `original` or `retrained`.
        value: The number.
        low: Where its interval begins; None where it has none.
        high: Where it ends.
        prior: What the best attack before got; None where there was none.
        printed: What is printed elsewhere; empty where nothing is.
    """

    name: str
    kind: str
    value: float
    low: float | None = None
    high: float | None = None
    prior: float | None = None
    printed: Sequence[float] = ()


class Band(NamedTuple):
    """What models that never saw the records give: lowest, mean and highest."""

    low: float
    mean: float
    high: float


def marks(
    rows: Sequence[Mark], band: Band | None, chance: float | None, *, share: bool = False
) -> Chart | None:
    """Draw a number of every model, over the band of those that never saw the records.

    Args:
        rows: One for each model.
        band: Left out where nothing was retrained.
        chance: Where guessing lies; None where nobody guesses.
        share: Whether the numbers are shares, shown in percent.
    """
    if all(row.kind != "unlearned" for row in rows):
        return None
    numbers = [_rounded(row._asdict()) for row in rows]
    base, kinds = drawn([n | {"printed": None} for n in numbers]), [row.kind for row in rows]
    printed = drawn([{"name": r.name, "printed": v} for r in rows for v in r.printed])
    bare = alt.Axis(labelLimit=170, domain=False, ticks=False, grid=False)
    y = alt.Y("name:N", sort=[row.name for row in rows], title=None, axis=bare)
    form = ".1%" if share else ".3f"
    tips = [alt.Tooltip(f"{key}:Q", format=form) for key in ("value", "low", "high", "prior")]
    tips.insert(0, alt.Tooltip("name:N", title="model"))
    layers = [
        *_levels(band, chance, share=share),
        base.mark_rule(strokeWidth=2, opacity=0.6)
        .encode(_across("low", share=share), alt.X2("high:Q"), y, colour(kinds))
        .transform_filter("isValid(datum.low)"),
        printed.mark_point(
            shape="diamond", size=52, strokeWidth=1.5, color=var("muted"), opacity=1
        ).encode(
            _across("printed", share=share),
            y,
            tooltip=["name:N", alt.Tooltip("printed:Q", format=form)],
        ),
        base.mark_point(size=52, strokeWidth=2, fill=var("surface"), opacity=1)
        .encode(_across("prior", share=share), y, colour(kinds), tooltip=tips)
        .transform_filter("isValid(datum.prior)"),
        base.mark_point(size=76, filled=True, opacity=1).encode(
            _across("value", share=share), y, colour(kinds), tooltip=tips
        ),
    ]
    return layered(*layers, height=25 * len(rows) + 6)


def _across(name: str, *, share: bool) -> alt.X:
    axis = alt.Axis(format="~%" if share else "~g", tickCount=6)
    scale = alt.Scale(zero=False, padding=12, nice=False)
    return alt.X(f"{name}:Q", title=None, scale=scale, axis=axis)


def _levels(band: Band | None, chance: float | None, *, share: bool) -> list[alt.Chart]:
    """Draw where guessing lies, and where models do that never saw the records."""
    layers: list[alt.Chart] = []
    if chance is not None:
        rule = drawn([{"level": chance}]).mark_rule(strokeWidth=1, color=var("chance"))
        layers.append(rule.encode(_across("level", share=share)))
    if band is None:
        return layers
    ends = drawn([_rounded(band._asdict())])
    shade = ends.mark_rect(color=var("retrained"), opacity=0.14)
    mean = ends.mark_rule(color=var("retrained"), strokeDash=[4, 3])
    return [
        shade.encode(_across("low", share=share), alt.X2("high:Q")),
        mean.encode(_across("mean", share=share)),
        *layers,
    ]


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()}


def _drawn(paths: Paths, start: int) -> alt.Chart:
    """Return points along the paths, each by its kind; the first is at `start`."""
    rows: Rows = [
        {"kind": kind, "at": at, "value": value}
        for kind, path in paths.items()
        for at, value in enumerate(path, start)
    ]
    return drawn(rows)


def _shaded(low: Sequence[float], high: Sequence[float], start: int) -> alt.Chart:
    rows: Rows = [
        {"at": at, "low": least, "high": most}
        for at, (least, most) in enumerate(zip(low, high, strict=True), start)
    ]
    return drawn(rows)


def courses(shown: Course, beside: Paths, level: float) -> Chart:
    """Draw how a class is learned in the forgotten one's slot, step by step.

    Args:
        shown: Of the model that the chart is about: its never-trained classes are the band.
        beside: How each kind of model learns the forgotten class, the one itself among them.
        level: At which a class counts as learned.
    """
    start, paths = 0, {kind: path for kind, path in beside.items() if path}
    x = alt.X(
        "at:Q", title="step", scale=alt.Scale(nice=False), axis=_places(shown.forgotten, start)
    )

    def y(name: str) -> alt.Y:
        axis = alt.Axis(format="~%", tickCount=5)
        return alt.Y(f"{name}:Q", title=None, scale=alt.Scale(domain=[0, 1]), axis=axis)

    tips = ["kind:N", alt.Tooltip("at:Q", title="step"), alt.Tooltip("value:Q", format=".1%")]
    top = alt.Y2("high:Q")
    return layered(
        _shaded(shown.lowest, shown.highest, start)
        .mark_area(color=var("chance"), opacity=0.16)
        .encode(x, y("low"), top),
        _shaded(shown.low, shown.high, start)
        .mark_area(color=var("chance"), opacity=0.34)
        .encode(x, y("low"), top),
        drawn([{"level": level}])
        .mark_rule(strokeWidth=1, strokeDash=[1, 3], color=var("muted"))
        .encode(y("level")),
        _drawn(paths, start)
        .mark_line(strokeWidth=2)
        .encode(x, y("value"), colour(paths), dash(paths), tooltip=tips),
        height=170,
    )


def _places(path: Sequence[float], start: int) -> alt.Axis:
    return alt.Axis(tickCount=min(6, max(1, len(path) - 1 + start)), format="d", grid=False)


def decisions(shown: Decision, kind: str) -> Chart:
    """Draw how the trials' scores are spread, and where the decision falls.

    Args:
        shown: The scores, which are minus steps and a fraction that breaks ties.
        kind: Of the model.
    """
    rows: Rows = [
        {"from": low, "to": high, "members": inside, "others": outside}
        for low, high, inside, outside in zip(
            shown.edges, shown.edges[1:], shown.members, shown.others, strict=False
        )
    ]
    axis = alt.Axis(labelExpr="format(max(0, -datum.value), 'd')", tickCount=6, grid=False)
    ends = alt.Scale(domain=[shown.edges[0], shown.edges[-1]], nice=False)
    title = "steps until learned (faster to the right)"
    x = alt.X("from:Q", title=title, scale=ends, axis=axis)
    cuts = drawn([{"at": at} for at in shown.thresholds])

    def y(name: str) -> alt.Y:
        percent = alt.Axis(format="~%", tickCount=4)
        return alt.Y(f"{name}:Q", title=None, stack=None, axis=percent)

    def bars(name: str, tone: str, strength: float) -> alt.Chart:
        return (
            drawn(rows)
            .mark_bar(color=var(tone), opacity=strength, binSpacing=1)
            .encode(
                x.bin("binned"),
                alt.X2("to:Q"),
                y(name),
                tooltip=[alt.Tooltip(f"{name}:Q", title=f"of {name}", format=".1%")],
            )
        )

    return layered(
        bars("others", "chance", 0.6),
        bars("members", kind, 0.62),
        cuts.mark_rule(strokeWidth=1.4, strokeDash=[5, 3], color=var("ink")).encode(
            alt.X("at:Q", scale=ends)
        ),
        height=150,
    )


def recovery(shown: Mapping[str, Recovered], *, share: bool) -> Chart | None:
    """Draw how soon a generative model draws the class again, round by round.

    Args:
        shown: By kind of model; the band is of classes never trained on, taught to `unlearned`.
        share: Whether the numbers are shares of samples; else they are losses.
    """
    if not shown:
        return None
    paths = {kind: found.mean for kind, found in shown.items()}
    first = next(iter(paths.values()))
    x = alt.X("at:Q", title="rounds", scale=alt.Scale(nice=False), axis=_places(first, 0))
    axis = alt.Axis(format="~%", tickCount=5) if share else alt.Axis(tickCount=5)
    scale = alt.Scale(domain=[0, 1]) if share else alt.Scale(zero=False)

    def y(name: str) -> alt.Y:
        return alt.Y(f"{name}:Q", title=None, scale=scale, axis=axis)

    form = ".1%" if share else ".4f"
    tips = ["kind:N", alt.Tooltip("at:Q", title="round"), alt.Tooltip("value:Q", format=form)]
    layers = [
        _drawn(paths, 0)
        .mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=14))
        .encode(x, y("value"), colour(paths), dash(paths), tooltip=tips)
    ]
    band = next(iter(shown.values()))
    if band.low:
        shade = _shaded(band.low, band.high, 0).mark_area(color=var("chance"), opacity=0.34)
        layers.insert(0, shade.encode(x, y("low"), alt.Y2("high:Q")))
    return layered(*layers, height=170)
