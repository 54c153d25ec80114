"""What all charts are made of: records to draw, colours and shapes by kind, layers."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from expunge.report.theme import Theme, config, resolved, var

VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])

# Every kind has a shape as well as a colour, for those who cannot tell the colours.
SHAPES = {
    "forgotten": "circle",
    "leaks": "triangle-up",
    "over-unlearned": "triangle-down",
    "cannot tell": "square",
    "original": "cross",
    "retrained": "diamond",
}
DASHES = {"unlearned": [1, 0], "original": [6, 3], "retrained": [2, 2]}

Chart = alt.LayerChart
Rows = list[dict[str, Any]]


def drawn(rows: Rows) -> alt.Chart:
    """Return a chart of `rows` that has no marks yet."""
    values: Any = tuple(rows)  # altair copies lists for every layer and every property
    return alt.Chart(alt.InlineData(values=values))


def layered(*layers: alt.Chart, height: int) -> Chart:
    """Return the layers as one chart, as wide as the place it is put in."""
    return alt.LayerChart(layer=list(layers), width="container", height=height)


def colour(kinds: Iterable[str]) -> alt.Color:
    """Return the encoding of a row's `kind` by its colour; the page has the legend."""
    known = list(dict.fromkeys(kinds))
    scale = alt.Scale(domain=known, range=[var(kind) for kind in known])
    return alt.Color("kind:N", scale=scale, legend=None)


def shape(kinds: Iterable[str]) -> alt.Shape:
    """Return the encoding of a row's `kind` by its shape."""
    known = list(dict.fromkeys(kinds))
    scale = alt.Scale(domain=known, range=[SHAPES.get(kind, "square") for kind in known])
    return alt.Shape("kind:N", scale=scale, legend=None)


def dash(kinds: Iterable[str]) -> alt.StrokeDash:
    """Return the encoding of a line's `kind` by its dashes."""
    known = list(dict.fromkeys(kinds))
    scale = alt.Scale(domain=known, range=[DASHES[kind] for kind in known])
    return alt.StrokeDash("kind:N", scale=scale, legend=None)


def spec(chart: Chart, description: str) -> dict[str, Any]:
    """Return a chart as plain Vega-Lite, with words for those who cannot see it."""
    # Checking against the schema takes longer than all else; the tests do it.
    made = chart.properties(description=description).to_dict(validate=False)
    return {k: v for k, v in made.items() if k not in ("config", "$schema")}


def save(chart: Chart, path: str | Path, theme: Theme = "light", width: int = 520) -> None:
    """Write a chart as PNG or SVG, by the ending of `path`; needs no browser.

    Args:
        chart: From `charts` or `comparison`.
        path: Where to.
        theme: Whose colours it takes, and whose background.
        width: In pixels, without axes and labels; a PNG has twice as many.

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
