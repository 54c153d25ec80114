"""`expunge report`: records to one HTML file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from expunge.cli.flags import Switch, Work


@dataclass(frozen=True, kw_only=True)
class Report:
    """Make one self-contained HTML file of records.

    Attributes:
        records: Files of records, or folders that hold them.
        out: The HTML file to write.
        markdown: A file for the tables alone, for a page of results; none is written without.
        json: Print JSON on standard output.
    """

    records: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RECORDS ...", help_behavior_hint=""),
    ]
    out: Path = Path("report.html")
    markdown: Path | None = None
    json: Switch = False

    def prepare(self) -> Work:
        from expunge.bench.store import probe
        from expunge.study import table

        if not self.records:
            raise ValueError("expected at least one file or folder of records, got none")
        for name, file in (("out", self.out), ("markdown", self.markdown)):
            if file is not None and file.is_dir():
                raise ValueError(f"--{name} {file} is a folder; name a file")
            if file is not None:
                probe(file.parent)
        found = table.read(self.records)
        return lambda: self._work(found)

    def _work(self, found: Sequence[Any]) -> int:
        from expunge.bench.store import write_text
        from expunge.cli.console import emit
        from expunge.report.page import markdown

        page = conclude(found, self.out, quiet=self.json)
        told = {"report": str(page), "records": len(found)}
        if self.markdown is not None:
            write_text(self.markdown, markdown(found))
            told["markdown"] = str(self.markdown)
        if self.json:
            emit(told)
        return 0


def conclude(records: Sequence[Any], page: Path, *, quiet: bool) -> Path:
    """Write the report and, unless quiet, print the table and where the report is."""
    from expunge.bench.store import write_text
    from expunge.cli.console import out, say, spinner
    from expunge.report.page import render
    from expunge.study import table

    with spinner("drawing the report"):
        html = render(records)
    write_text(page, html)
    if not quiet:
        out.print(table.text(table.summarise(records)))
        say(f"Report: {page}")
    return page
