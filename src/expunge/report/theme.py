"""Colours, named once: the page's style sheet and every chart take them from here.

A chart says `var(--name)`. The page resolves that as CSS does, so that charts follow the
theme, and go back to light on paper, without being drawn again; `resolved` does the same
for pictures outside the page.
"""

from typing import Any, Literal

Theme = Literal["light", "dark"]

COLOURS: dict[str, tuple[str, str]] = {  # light, dark
    "page": ("#f5f6f9", "#0e1117"),
    "surface": ("#ffffff", "#171b23"),
    "raised": ("#eef0f5", "#212733"),
    "ink": ("#171b26", "#e8ebf2"),
    "muted": ("#586174", "#a0a9ba"),
    "line": ("#dde1ea", "#2d3442"),
    "link": ("#3f46d6", "#a3abff"),
    # Kinds of model: blue, orange and teal stay apart under the common colour blindnesses.
    "unlearned": ("#4f46e5", "#8f95ff"),
    "original": ("#c2570c", "#f79a4b"),
    "retrained": ("#0d7c72", "#35cdb9"),
    "chance": ("#8f98a8", "#737d8f"),
    "forgotten": ("#157a3c", "#4fd07f"),
    "leaks": ("#c11f2b", "#ff7a7f"),
    "over-unlearned": ("#a85a05", "#f5b342"),
    "cannot-tell": ("#51607a", "#a3b3cc"),
    "failed": ("#7a3aa6", "#cf9bf5"),
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def css(theme: Theme) -> str:
    """Return the theme's colours as CSS custom properties."""
    column = 0 if theme == "light" else 1
    return " ".join(f"--{name}: {shades[column]};" for name, shades in COLOURS.items())


def var(name: str) -> str:
    """Return a colour by name, with spaces as hyphens: `cannot tell` is `cannot-tell`."""
    name = {"diverged": "failed"}.get(name, name.replace(" ", "-"))
    if name not in COLOURS:
        name = "cannot-tell"
    return f"var(--{name})"


def config() -> dict[str, Any]:
    """Return the Vega-Lite configuration that every chart shares."""
    words = {"labelColor": var("muted"), "titleColor": var("ink"), "titleFontWeight": 600}
    return {
        "background": "transparent",
        "font": FONT,
        "padding": 2,
        "view": {"stroke": None},
        "axis": words
        | {
            "gridColor": var("line"),
            "domainColor": var("chance"),
            "tickColor": var("line"),
            "labelFontSize": 11,
            "titleFontSize": 11.5,
            "titlePadding": 8,
            "labelPadding": 5,
        },
        "legend": words | {"labelFontSize": 11, "titleFontSize": 11.5, "orient": "bottom"},
        "text": {"color": var("ink"), "fontSize": 11.5},
        "rule": {"color": var("chance")},
    }


def resolved(spec: Any, theme: Theme) -> Any:
    """Return a specification with every `var(--name)` replaced by its colour."""
    if isinstance(spec, dict):
        return {key: resolved(value, theme) for key, value in spec.items()}
    if isinstance(spec, list):
        return [resolved(value, theme) for value in spec]
    if isinstance(spec, str) and spec.startswith("var(--"):
        return COLOURS[spec[6:-1]][0 if theme == "light" else 1]
    return spec
