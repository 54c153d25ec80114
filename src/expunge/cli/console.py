"""What the terminal shows while a run goes on."""

import json
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

if TYPE_CHECKING:
    from expunge.bench.run import Event
    from expunge.core.cost import Meter

out = Console()
err = Console(stderr=True)


def emit(value: object) -> None:
    """Print JSON for a program to read."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def say(text: str, style: str | None = None) -> None:
    """Print plain words: brackets in names are no markup, and paths are not broken."""
    out.print(text, style=style, markup=False, highlight=False, soft_wrap=not out.is_terminal)


def duration(seconds: int | float) -> str:
    """Return seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(count: int | float) -> str:
    """Return bytes as a person says them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


@contextmanager
def spinner(what: str) -> Iterator[None]:
    """Show, on a terminal, that something is going on whose length is not known."""
    _hear_warnings()
    with err.status(escape(what)):
        yield


@contextmanager
def progress(*, quiet: bool = False) -> Iterator["Board"]:
    """Show stages and, within the one that runs, the samples that went through.

    Args:
        quiet: Whether to be silent where standard error is not a terminal; a log gets a
            line for each stage otherwise.
    """
    _hear_warnings()
    board = Board(quiet=quiet)
    thread = threading.Thread(target=board.follow, daemon=True)
    thread.start()
    try:
        with board.bars:
            yield board
    finally:
        board.stopped.set()
        thread.join()


def _hear_warnings() -> None:
    """Show the library's warnings; a log gets them on one line each."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if err.is_terminal:
        handler = RichHandler(console=err, show_path=False, show_time=False)
    logging.basicConfig(level="WARNING", format="%(message)s", handlers=[handler])


class Board:
    """Progress bars: one for the stages, one for the stage that runs.

    The second is moved by a thread that reads the stage's meter, so that nothing below
    the command line knows of progress.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.stopped = threading.Event()
        self.bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=err,
            disable=not err.is_terminal,
        )
        self._logging = not quiet and not err.is_terminal
        self._whole: TaskID | None = None
        self._task: TaskID | None = None
        self._meter: Meter | None = None

    def listen(self, event: "Event") -> None:
        """Follow a run."""
        if self._whole is None:
            self._whole = self.bars.add_task("stages", total=event.total)
        if event.kind == "start":
            self.begin(event.stage.what, event.stage.work.passes, event.meter)
            return
        self.end()
        self.bars.update(self._whole, completed=event.number)
        if event.kind == "done" and self._logging:
            line = f"[{event.number}/{event.total}] {event.stage.what}"
            err.print(line, markup=False, highlight=False, soft_wrap=True)

    def begin(self, what: str, passes: int, meter: "Meter") -> None:
        """Show a computation that is expected to take so many passes."""
        self._task = self.bars.add_task(what, total=passes or None)
        self._meter = meter

    def end(self) -> None:
        """Remove the bar of what ran."""
        if self._task is not None:
            self.bars.remove_task(self._task)
        self._task = self._meter = None

    def follow(self) -> None:
        """Move the bar until stopped; runs in a thread."""
        while not self.stopped.wait(0.25):
            task, meter = self._task, self._meter
            if task is not None and meter is not None:
                self.bars.update(task, completed=meter.passes)
