"""Sections that one study needs and others do not: each a module of this folder.

A module draws what a published study showed, from records alone. It has

* `SCOPE`: `group` to be asked once for each group of comparable records, `run` to be asked
  once for all of them;
* `applies(records)`: whether these records hold what it draws;
* `view(rows, album)`: what its template says. Charts go into the album, and what `view`
  returns holds the figures that the album yields;
* a template beside it, `<module>.html.j2`, in which that is called `view`, and `at` is a
  prefix for ids that no other section of the page has;
* where its tables are worth a page of results, `markdown(records)`, which returns them.

The folder is scanned: a file in it is a section, and no list names it twice.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Literal, NamedTuple, Protocol, cast, runtime_checkable

from expunge.report.figures import Album
from expunge.study.groups import Record
from expunge.study.rows import Row

Scope = Literal["group", "run"]


@runtime_checkable
class Study(Protocol):
    """What a module of this folder has."""

    SCOPE: Scope

    def applies(self, records: Sequence[Record]) -> bool:
        """Return whether the records hold what the section draws."""
        ...

    def view(self, rows: Sequence[Row], album: Album) -> Mapping[str, Any]:
        """Return what the template says of the rows: methods and controls."""
        ...


class Telling(Protocol):
    """What a module of this folder may have besides."""

    def markdown(self, records: Sequence[Record]) -> str:
        """Return the section's tables as Markdown."""
        ...


class Part(NamedTuple):
    """A section of the page: the template's name, and what it says."""

    template: str
    name: str
    view: Mapping[str, Any]


@cache
def studies() -> Mapping[str, Study]:
    """Return every module of this folder by its name, in alphabetical order."""
    names = sorted(module.name for module in iter_modules(__path__))
    return {name: cast(Study, import_module(f"{__name__}.{name}")) for name in names}


def drawn(rows: Sequence[Row], album: Album, scope: Scope) -> list[Part]:
    """Return the sections of a scope that apply to the records behind these rows."""
    groups = {id(row.group): row.group for row in rows}.values()
    records = [record for group in groups for record in group.records]
    return [
        Part(f"sections/{name}.html.j2", name, study.view(rows, album))
        for name, study in studies().items()
        if scope == study.SCOPE and study.applies(records)
    ]


def markdown(records: Sequence[Record]) -> list[str]:
    """Return the tables of every section that applies and has any, as Markdown."""
    telling = [s for s in studies().values() if hasattr(s, "markdown") and s.applies(records)]
    return [cast(Telling, study).markdown(records) for study in telling]
