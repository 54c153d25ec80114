"""Records to one self-contained HTML file: it loads nothing and opens from disk."""

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

import vl_convert
from altair.utils.schemapi import debug_mode
from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup, escape

from expunge.report import details, figures, sections, theme
from expunge.report.marks import VEGA_LITE
from expunge.study.groups import Record
from expunge.study.rows import Row
from expunge.study.summary import SEVERITY, summarise
from expunge.study.table import CAPTION, duration, interval
from expunge.study.table import markdown as tables

COMPACT: dict[str, Any] = {"separators": (",", ":"), "ensure_ascii": False}
EMBEDDED = 1_500_000  # characters of records that are worth carrying in the page


def write(records: Sequence[Record], path: str | Path) -> None:
    """Write the report of `records` to the file at `path`.

    Raises:
        ValueError: If there are no records, or the file cannot be written.
    """
    page, path = render(records), Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as fault:
        raise ValueError(
            f"cannot write the report to {path}: {fault.strerror}; choose another place"
        ) from fault


def render(records: Sequence[Record]) -> str:
    """Return the report of `records` as HTML.

    Raises:
        ValueError: If there are no records.
    """
    rows, album = summarise(records), figures.Album()
    groups = [list(part) for _, part in groupby(rows, key=lambda row: row.group.title)]
    # Altair checks every value as it is given: most of the time, and the tests do it too.
    with debug_mode(False):
        views = [_view(group, album, number) for number, group in enumerate(groups, 1)]
        overall = sections.drawn(rows, album, "run")
    embedded = _finite(details.slim(records))
    environment = _environment()
    data = htmlsafe_json_dumps(embedded, **COMPACT)
    scripts = {"bundle": _bundle(), "script": Markup(_asset("page.js"))}
    return environment.get_template("template.html.j2").render(
        runs=sorted({str(record["run"]) for record in records if record["run"]}),
        groups=views,
        sections=overall,
        meaning={k: v for k, v in details.MEANING.items() if k in _kinds(rows)},
        caption=CAPTION,
        style=Markup(_asset("style.css")),
        light=Markup(theme.css("light")),
        dark=Markup(theme.css("dark")),
        charts={"config": theme.config(), "specs": _finite(album.specs)},
        records=data if len(data) <= EMBEDDED else None,
        environments=details.environment(records),
        policy=" ".join(f"'sha256-{_hash(text)}'" for text in scripts.values()),
        **scripts,
    )


def markdown(records: Sequence[Record]) -> str:
    """Return the tables of `records` as Markdown, for a page of results.

    Raises:
        ValueError: If there are no records.
    """
    return "\n".join([tables(summarise(records)), *sections.markdown(records)])


def _view(rows: Sequence[Row], album: figures.Album, number: int) -> Mapping[str, Any]:
    """Return what the template says of one group."""
    drawn = figures.Group(rows, album)
    methods = [row for row in rows if row.kind == "method"]
    first = rows[0].group.first
    return {
        "number": number,
        "title": rows[0].group.title,
        "first": first,
        "rows": rows,
        "columns": rows[0].columns,
        "methods": methods,
        "seeds": len({record["seed"] for record in rows[0].group.records}),
        "audits": list(dict.fromkeys(c.audit for c in rows[0].columns)),
        "controls": drawn.controls,
        "counts": _counts(methods),
        "overview": drawn.overview(),
        "distances": drawn.distances(),
        "rocs": drawn.rocs(),
        "per_class": drawn.per_class(),
        "confusions": drawn.confusions(),
        "risks": drawn.risks(),
        "sections": sections.drawn(rows, album, "group"),
        "problem": details.problem(first),
        "ledger": details.keys(rows[0].group.records),
    }


def _counts(methods: Sequence[Row]) -> dict[str, int]:
    counts = Counter(row.verdict for row in methods)
    return {kind: counts[kind] for kind in reversed(SEVERITY) if kind in counts}


def _kinds(rows: Sequence[Row]) -> set[str]:
    return {kind for row in rows for kind in row.verdicts}


@cache
def _bundle() -> Markup:
    """Return Vega, Vega-Lite and Vega-Embed as one script; made offline."""
    code = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    return Markup(code.replace("</script", "<\\/script"))


def _asset(name: str) -> str:
    return (files("expunge.report") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _finite(value: Any) -> Any:
    """Return plain data with None for the numbers that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _breakable(text: str) -> Markup:
    """Return a name that may go on in the next line after `_` and `+`."""
    return escape(text).replace("_", Markup("_<wbr>")).replace("+", Markup("+<wbr>"))


def _environment() -> Environment:
    loader = PackageLoader("expunge.report", "")
    made = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = COMPACT
    made.filters |= {
        "size": details.size,
        "duration": duration,
        "memory": details.memory,
        "breakable": _breakable,
        "slug": lambda kind: theme.var(kind)[6:-1],
    }
    made.globals |= {
        "asked": details.asked,
        "errors": details.errors,
        "facts": details.method,
        "interval": interval,
    }
    return made
