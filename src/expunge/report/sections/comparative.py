"""The comparative study of seven methods: its figures, its table, and its claims tested.

Salgado Herrera, Thouvenot, Héliou and Becue, "Comparative Analysis of Machine Unlearning
Approaches for Data Protection", CAID 2024, https://hal.science/hal-05046594v1: figures 12, 13
and 14, the curves that its section VI.A speaks of, Table I, and the statements of section VI.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, quantiles
from typing import Any, NamedTuple

import altair as alt

from expunge.report.figures import Album, Figure
from expunge.report.marks import Chart, Rows, drawn, layered
from expunge.report.theme import var
from expunge.study import mechanisms
from expunge.study.claims import USUAL, Claim, claims
from expunge.study.comparative import NAMES, Result, Study, Target, holds_study, studies
from expunge.study.groups import Record, gathered
from expunge.study.rows import Row

SCOPE = "run"

BOXED = {  # metrics of figure 12, top to bottom
    "retain": "Retain accuracy",
    "val": "Validation accuracy",
    "ratio": "Forget / validation accuracy",
}


class Line(NamedTuple):
    """How a set of records is drawn, and what it is called."""

    words: str
    tone: str
    style: str = "solid"


SETS = {
    "retain": Line("records kept", "ink"),
    "forget": Line("records to forget", "leaks"),
    "val": Line("validation", "link", "dashed"),
    "test": Line("test", "muted", "dotted"),
}
STYLES = {"solid": [1, 0], "dashed": [6, 3], "dotted": [2, 2]}
TONES = {"holds": "forgotten", "does not hold": "leaks", "cannot be resolved": "cannot tell"}
PLURAL = dict(zip(TONES, ("hold", "do not hold", "cannot be resolved"), strict=True))
IDEALS = {"ratio": 1.0, "auc": 0.5}
HALF = 0.5  # of the training time, which the paper says no method takes


class Part(NamedTuple):
    """One study: its figures, in rows side by side, and what became of its claims."""

    study: Study
    accuracies: list[Figure]
    times: list[Figure]
    attacks: list[Figure]
    curves: Mapping[str, list[Figure]]
    claims: Sequence[Claim]
    counts: Mapping[str, int]
    shades: Mapping[int, float]


def applies(records: Sequence[Record]) -> bool:
    """Return whether some of the compared methods were run."""
    return holds_study([r for r in records if r["findings"]])


def markdown(records: Sequence[Record]) -> str:
    """Return what became of the paper's claims, as Markdown."""
    return "\n\n".join(map(_claimed, studies(records)))


def _claimed(study: Study) -> str:
    lines = [
        f"**The paper's claims, on {study.title}**",
        "",
        "| claim | | verdict | test | n |",
        "| --- | --- | --- | --- | ---: |",
    ]
    for claim in claims(study):
        tests = ", ".join(claim.tests)
        lines.append(
            f"| {claim.id} | {claim.text} | **{claim.verdict}** | {tests} | {claim.n or '—'} |"
        )
    return "\n".join(lines)


def view(rows: Sequence[Row], album: Album) -> Mapping[str, Any]:
    """Return every study's figures and claims, and the table of mechanisms."""
    groups = {id(row.group): row.group for row in rows}.values()
    records = [record for group in groups for record in group.records]
    return {
        "parts": [_part(study, album) for study in studies(records)],
        "mechanisms": mechanisms.table(records),
        "columns": list(mechanisms.COLUMNS),
        "sets": SETS,
        "tones": TONES,
        "plural": PLURAL,
    }


def _part(study: Study, album: Album) -> Part:
    found = claims(study)
    return Part(
        study=study,
        accuracies=[
            figure
            for metric, words in BOXED.items()
            for figure in _boxes(study, album, metric, words)
        ],
        times=[f for target in study.targets for f in _times(study, album, target)],
        attacks=list(_boxes(study, album, "auc", "AUC of the attack")),
        curves={
            f"{kind}, {target} forget set": figures
            for kind in ("accuracy", "loss")
            for target in study.targets
            if (figures := list(_curves(study, album, target, kind)))
        },
        claims=found,
        counts={v: n for v in TONES if (n := sum(c.verdict == v for c in found))},
        shades=_shades(study.epochs),
    )


def _boxes(study: Study, album: Album, metric: str, words: str) -> Iterator[Figure]:
    for target in study.targets:
        values = _boxed(study, metric, target)
        far = [] if metric in IDEALS else off_scale(values)
        note = f"{target} forget set"
        if far:
            numbers = [row["value"] for row in values if row["name"] in far]
            span = f"{min(numbers):.2f} to {max(numbers):.2f}"
            note += f"; below the scale: {', '.join(far)}, {span}"
        yield from album.add(
            boxes(
                [row for row in values if row["name"] not in far],
                study.epochs,
                words,
                IDEALS.get(metric),
            ),
            words,
            f"{words} by method and epochs, {target} forget set",
            note=note,
        )


def off_scale(values: Rows) -> list[str]:
    """Return the models that lie so far below all others that these could not be told apart.

    They are the fewest above which there is a gap twice as high as everything above the gap: a
    quarter of the models at most, and no control.
    """
    controls = {row["name"] for row in values if row["kind"] != "unlearned"}
    ends = {
        name: (min(numbers), max(numbers))
        for name, same in gathered(values, lambda row: row["name"]).items()
        if (numbers := [row["value"] for row in same])
    }
    order = sorted(ends, key=lambda name: ends[name][1])
    for count in range(1, len(order) // 4 + 1):
        if order[count - 1] in controls:
            break
        rest = [ends[name] for name in order[count:]]
        low, high = min(e[0] for e in rest), max(e[1] for e in rest)
        if low - ends[order[count - 1]][1] > 2 * (high - low):
            return [str(name) for name in order[:count]]
    return []


def _boxed(study: Study, metric: str, target: Target) -> Rows:
    """Return every model's number, with the name, the length and the kind of its box."""
    rows: Rows = []
    originals = study.of(metric, target, "original")
    rows += [_value("Original", "original", 0, v) for v in originals.values()]
    retrained = [v[metric] for v in study.retrained.get(target, ()) if metric in v]
    rows += [_value("Retrained", "retrained", 0, v) for v in retrained]
    rows += [
        _value(r.label, "unlearned", r.epochs or 0, r.values[metric])
        for r in _ordered(study)
        if r.target == target and metric in r.values
    ]
    return rows


def _value(name: str, kind: str, epochs: int, value: float) -> dict[str, Any]:
    return {"name": name, "kind": kind, "epochs": epochs, "value": float(f"{value:.5g}")}


def _ordered(study: Study) -> list[Result]:
    """Return the results in the paper's order of methods, variants after their namesakes."""
    order = list(NAMES)
    return sorted(study.results, key=lambda r: (order.index(r.method), r.variant, r.epochs or 0))


def boxes(values: Rows, lengths: Sequence[int], words: str, ideal: float | None) -> Chart | None:
    """Draw box plots by method, a box for each length.

    Args:
        values: With `name`, `kind`, `epochs` (0 for a control) and `value`.
        lengths: All epochs, for their shades.
        words: What the values are.
        ideal: Where a line is drawn.
    """
    if not any(row["kind"] == "unlearned" for row in values):
        return None
    shades = _shades(lengths)
    boxed = [_box(same, shades) for same in gathered(values, _place).values()]
    bare = alt.Axis(labelAngle=-38, ticks=False, grid=False)
    places = alt.X("name:N", sort=None, title=None, axis=bare)
    offset = alt.XOffset("epochs:O", scale=alt.Scale(domain=list(lengths) or [0]))
    scale, axis = alt.Scale(zero=False), alt.Axis(tickCount=6)

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", title=words, scale=scale, axis=axis)

    shade = alt.Opacity("shade:Q", scale=None, legend=None)
    tips = [
        alt.Tooltip("name:N", title="model"),
        alt.Tooltip("length:N", title="epochs"),
        *(alt.Tooltip(f"{q}:Q", format=".4f") for q in ("low", "median", "high")),
        alt.Tooltip("n:Q", title="models"),
    ]
    layers = []
    if ideal is not None:
        rule = drawn([{"value": ideal}]).mark_rule(strokeDash=[4, 3], color=var("chance"))
        layers.append(rule.encode(y("value")))
    for kind in ("original", "retrained", "unlearned"):
        mine = [row for row in boxed if row["kind"] == kind]
        if not mine:
            continue
        base, tone = drawn(mine), var(kind)
        beside = (offset,) if kind == "unlearned" else ()
        layers += [
            base.mark_rule(color=tone, opacity=0.8).encode(
                places, *beside, y("low"), alt.Y2("high:Q")
            ),
            base.mark_bar(color=tone, size=11).encode(
                places, *beside, y("q1"), alt.Y2("q3:Q"), shade, tooltip=tips
            ),
            base.mark_tick(color=var("ink"), thickness=2, size=11).encode(
                places, *beside, y("median"), tooltip=tips
            ),
        ]
    return layered(*layers, height=240)


def _place(row: Mapping[str, Any]) -> tuple[str, int]:
    return row["name"], row["epochs"]


def _shades(lengths: Sequence[int]) -> dict[int, float]:
    """Return how dark each length is, the longest the darkest."""
    steps = max(1, len(lengths) - 1)
    return {n: round(0.9 - 0.55 * (steps - i) / steps, 2) for i, n in enumerate(lengths)}


def _box(values: Rows, shades: Mapping[int, float]) -> dict[str, Any]:
    """Return the ends, the quartiles and the median of one box."""
    numbers = [row["value"] for row in values]
    q1, median, q3 = (
        quantiles(numbers, n=4, method="inclusive") if len(numbers) > 1 else numbers * 3
    )
    ends = {"low": min(numbers), "q1": q1, "median": median, "q3": q3, "high": max(numbers)}
    first = values[0]
    length = str(first["epochs"]) if first["epochs"] else "—"
    return (
        {k: v for k, v in first.items() if k != "value"}
        | ends
        | {
            "n": len(numbers),
            "length": length,
            "shade": shades.get(first["epochs"], 0.7),
        }
    )


def _times(study: Study, album: Album, target: Target) -> Iterator[Figure]:
    ordered = [r for r in _ordered(study) if r.target == target and "share" in r.values]
    rows: Rows = []
    for same in gathered(ordered, lambda r: (r.label, r.epochs)).values():
        shares = [float(f"{r.values['share']:.4g}") for r in same]
        ends = {"value": fmean(shares), "low": min(shares), "high": max(shares)}
        rows.append({"name": same[0].label, "epochs": same[0].epochs or 0} | ends)
    yield from album.add(
        times(rows, study.epochs),
        "Run time",
        f"run time of each method as a share of the original's training, {target} forget set",
        note=f"{target} forget set",
    )


def times(rows: Rows, lengths: Sequence[int]) -> Chart | None:
    """Draw run time as a share of training: a bar for each length, from least to most.

    Args:
        rows: With `name`, `epochs`, `value`, `low` and `high`.
        lengths: All epochs, for their shades.
    """
    if not rows:
        return None
    shades = _shades(lengths)
    base = drawn([row | {"shade": shades.get(row["epochs"], 0.7)} for row in rows])
    names = alt.Axis(ticks=False, domain=False, grid=False, labelLimit=150)
    y = alt.Y("name:N", sort=None, title=None, axis=names)
    offset = alt.YOffset("epochs:O", scale=alt.Scale(domain=list(lengths) or [0]))
    x = alt.X("value:Q", title="of training the original", axis=alt.Axis(format="~%", tickCount=6))
    shares = (alt.Tooltip(f"{k}:Q", format=".1%") for k in ("value", "low", "high"))
    half = drawn([{"value": HALF}]).mark_rule(strokeDash=[4, 3], color=var("chance"))
    return layered(
        half.encode(x),
        base.mark_bar(color=var("unlearned"), cornerRadiusEnd=2).encode(
            x,
            y,
            offset,
            alt.Opacity("shade:Q", scale=None, legend=None),
            tooltip=["name:N", "epochs:O", *shares],
        ),
        base.mark_rule(color=var("ink"), strokeWidth=1.5).encode(
            alt.X("low:Q"), alt.X2("high:Q"), y, offset
        ),
        height=16 + len({r["name"] for r in rows}) * (10 + 9 * max(1, len(lengths))),
    )


def _curves(study: Study, album: Album, target: Target, kind: str) -> Iterator[Figure]:
    length = USUAL if USUAL in study.epochs else max(study.epochs, default=0)
    mine = [r for r in _ordered(study) if r.target == target and r.epochs == length and r.curve]
    for label, same in gathered(mine, lambda r: r.label).items():
        yield from album.add(
            curves([r.curve for r in same if r.curve], kind),
            str(label),
            f"{kind} on four sets after every epoch of unlearning, {target} forget set",
            note=f"{length} epochs",
        )


def curves(traced: Sequence[Mapping[str, Any]], kind: str) -> Chart | None:
    """Draw what became of each set with every epoch: the mean, and the range over repetitions."""
    rows: Rows = []
    for name in SETS:
        told = [t[name][kind] for t in traced if kind in t.get(name, {})]
        for epoch, values in enumerate(zip(*told, strict=False)):
            known = [v for v in values if v is not None]
            if known:
                mean = float(f"{fmean(known):.4g}")
                ends = {"low": min(known), "high": max(known)}
                rows.append({"set": name, "epoch": epoch, "value": mean} | ends)
    if not rows:
        return None
    names = list(dict.fromkeys(row["set"] for row in rows))
    colours = alt.Scale(domain=names, range=[var(SETS[n].tone) for n in names])
    dashes = alt.Scale(domain=names, range=[STYLES[SETS[n].style] for n in names])
    base = drawn(rows)
    last = max(row["epoch"] for row in rows)
    x = alt.X(
        "epoch:Q", title="epoch", axis=alt.Axis(tickCount=min(last, 6), format="d", grid=False)
    )
    percent = alt.Axis(format="~%", tickCount=5) if kind == "accuracy" else alt.Axis(tickCount=5)
    scale = alt.Scale(zero=False)
    colour = alt.Color("set:N", scale=colours, legend=None)
    return layered(
        base.mark_area(opacity=0.12).encode(
            x, alt.Y("low:Q", scale=scale, axis=percent, title=None), alt.Y2("high:Q"), colour
        ),
        base.mark_line(strokeWidth=1.8, point=alt.OverlayMarkDef(size=12)).encode(
            x,
            alt.Y("value:Q", scale=scale, axis=percent, title=None),
            colour,
            alt.StrokeDash("set:N", scale=dashes, legend=None),
            tooltip=["set:N", "epoch:Q", "value:Q", "low:Q", "high:Q"],
        ),
        height=150,
    )
