"""`expunge report`: records to one HTML file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro


@dataclass(frozen=True, kw_only=True)
class Report:
    """Make one self-contained HTML file of records.

    Attributes:
        records: Files of records, or folders that hold them.
        out: The HTML file to write.
        json: Print JSON on standard output.
    """

    records: Annotated[tuple[Path, ...], tyro.conf.Positional]
    out: Path = Path("report.html")
    json: bool = False

    def __call__(self) -> int:
        from expunge.bench import table
        from expunge.cli.console import emit

        if not self.records:
            raise ValueError("expected at least one file or folder of records, got none")
        found = table.read(self.records)
        page = conclude(found, self.out, quiet=self.json)
        if self.json:
            emit({"report": str(page), "records": len(found)})
        return 0


def conclude(records: Sequence[Any], page: Path, *, quiet: bool) -> Path:
    """Write the report and, unless quiet, print the table and where the report is."""
    from expunge.bench import table
    from expunge.cli.console import out
    from expunge.report.page import write

    write(records, page)
    if not quiet:
        out.print(table.text(table.summarise(records)))
        out.print(f"Report: [bold]{page}[/bold]", highlight=False)
    return page
