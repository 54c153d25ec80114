"""Charts of what sets of flagged records share.

Combinations are drawn as in Lex et al., "UpSet: Visualization of Intersecting Sets", TVCG
2014, https://doi.org/10.1109/TVCG.2014.2346248, with both controls beside them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from expunge.report.marks import Chart, Rows, drawn, layered
from expunge.report.theme import var
from expunge.study.agreement import Jaccard, Pair, Together

BARS = 8  # height of the highest bar, in rows of dots
STEP = 21  # pixels of a row of dots


def matrix(
    shared: Mapping[Pair, Jaccard], steady: Mapping[Pair, Jaccard], audits: Sequence[str]
) -> Chart | None:
    """Draw what audits share below the diagonal, what chance would give above it.

    Args:
        shared: Of every two audits, the earlier first.
        steady: Of each audit with itself from seed to seed: the diagonal.
        audits: In the order of rows and columns.
    """
    rows: Rows = []
    for (one, other), each in {**shared, **steady}.items():
        words = "with itself, from seed to seed" if one == other else other
        said = {"audit": one, "other": words, "value": each.value, "chance": each.chance}
        said = {k: round(v, 4) if isinstance(v, float) else v for k, v in said.items()}
        rows.append(said | {"x": one, "y": other, "s": said["value"], "self": one == other})
        if one != other:
            rows.append(said | {"x": other, "y": one, "s": said["chance"], "self": False})
    if not rows:
        return None
    base, every = drawn(rows), alt.Scale(domain=list(audits))
    bare: dict[str, Any] = {"ticks": False, "domain": False, "grid": False, "labelOverlap": False}
    x = alt.X("x:N", scale=every, title=None, axis=alt.Axis(labelAngle=-42, labelLimit=130, **bare))
    y = alt.Y("y:N", scale=every, title=None, axis=alt.Axis(labelLimit=130, **bare))
    strength = alt.Scale(domain=[0, 1], range=[0.03, 1])
    number = alt.Tooltip("value:Q", title="Jaccard", format=".3f")
    tips = ["audit:N", "other:N", number, alt.Tooltip("chance:Q", format=".3f")]
    dark = alt.condition("datum.s > 0.5", alt.value(var("surface")), alt.value(var("ink")))
    words = base.transform_calculate(n="replace(format(datum.s, '.2f'), '0.', '.')")
    return layered(
        base.mark_rect(color=var("unlearned")).encode(
            x, y, alt.Opacity("s:Q", scale=strength, legend=None), tooltip=tips
        ),
        base.mark_rect(filled=False, stroke=var("ink"), strokeWidth=1.5, opacity=1)
        .encode(x, y)
        .transform_filter("datum.self"),
        words.mark_text(fontSize=10 if len(audits) > 9 else 11.5).encode(
            x, y, alt.Text("n:N"), color=dark, tooltip=tips
        ),
        height=max(120, 26 * len(audits)),
    )


def upset(
    counts: Mapping[str, Mapping[Together, float]],
    expected: Mapping[Together, float],
    order: Sequence[Together],
    audits: Sequence[str],
) -> Chart | None:
    """Draw how many records are flagged by exactly these audits, and which these are.

    Args:
        counts: Of the methods' and of each control's models, by combination.
        expected: If audits flagged independently.
        order: The combinations, from left to right.
        audits: Their dots, from top to bottom.
    """
    if not order or "method" not in counts:
        return None
    rows = [
        {"at": place, "audits": " + ".join(key), "expected": round(expected[key], 2)}
        | {kind: round(told.get(key, 0.0), 2) for kind, told in counts.items()}
        for place, key in enumerate(order)
    ]
    highest = max(row[k] for row in rows for k in (*counts, "expected"))
    unit = highest / BARS or 1.0
    dots: Rows = [
        {"at": place, "y": -1 - row, "on": audit in key, "audits": " + ".join(key)}
        for place, key in enumerate(order)
        for row, audit in enumerate(audits)
    ]
    ends: Rows = [
        {"at": place, "low": -1 - max(lines), "high": -1 - min(lines)}
        for place, key in enumerate(order)
        if (lines := [row for row, audit in enumerate(audits) if audit in key])
    ]
    # One axis for both halves, or their columns would not meet: counts above 0, dots below.
    domain = [-len(audits) - 0.5, BARS + 0.3]
    count = alt.Axis(
        values=[*ticks(highest, unit), *(-1 - row for row in range(len(audits)))],
        labelExpr=f"datum.value < 0 ? names[-1 - datum.value] : format(datum.value * {unit}, '~g')",
        labelLimit=170,
        labelOverlap=False,
        grid=False,
        ticks=False,
        domain=False,
    )
    across = alt.X("at:O", title=None, axis=None)

    def up(kind: str) -> alt.Y:
        return alt.Y(f"{kind}:Q", title=None, axis=count, scale=alt.Scale(domain=domain))

    tips = [alt.Tooltip("audits:N", title="exactly")]
    words = {"method": "methods", "original": "original", "retrained": "retrained"}
    tips += [alt.Tooltip(f"{k}:Q", title=words[k], format=".1f") for k in words if k in counts]
    tips.append(alt.Tooltip("expected:Q", title="if independent", format=".1f"))
    base = drawn(rows).transform_calculate(
        **{f"{kind}_up": f"datum.{kind} / {unit}" for kind in (*counts, "expected")}, zero="0"
    )
    lines = drawn([{"y": tick} for tick in ticks(highest, unit)])
    layers = [
        lines.mark_rule(color=var("line")).encode(up("y")),
        base.mark_bar(color=var("unlearned"), opacity=0.8).encode(
            across, up("method_up"), alt.Y2("zero:Q"), tooltip=tips
        ),
        base.mark_tick(color=var("chance"), thickness=2, opacity=1).encode(
            across, up("expected_up"), tooltip=tips
        ),
    ]
    if "retrained" in counts:
        mark = base.mark_point(
            shape="diamond", size=50, strokeWidth=2, color=var("retrained"), opacity=1
        )
        layers.append(mark.encode(across, up("retrained_up"), tooltip=tips))
    if "original" in counts:
        ring = base.mark_point(size=40, strokeWidth=2, color=var("original"), opacity=1)
        layers.append(ring.encode(across, up("original_up"), tooltip=tips))
    off, on = (drawn([d for d in dots if d["on"] == sure]) for sure in (False, True))
    layers += [
        off.mark_point(filled=True, size=55, color=var("line"), opacity=1).encode(across, up("y")),
        drawn(ends)
        .mark_rule(strokeWidth=2.5, color=var("ink"))
        .encode(across, up("low"), alt.Y2("high:Q")),
        on.mark_point(filled=True, size=75, color=var("ink"), opacity=1).encode(
            across, up("y"), tooltip=tips[:1]
        ),
    ]
    names = alt.param(name="names", value=list(audits))
    return layered(*layers, height=round(STEP * (domain[1] - domain[0]))).add_params(names)


def ticks(highest: float, unit: float) -> list[float]:
    """Return where round counts lie, at most five, in rows of dots."""
    if highest <= 0:
        return [0.0]
    rough = highest / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * many for many in (1, 2, 5, 10) if power * many >= rough)
    return [step * number / unit for number in range(int(highest / step) + 1)]
