"""The command line: parse, call, print. Nothing heavy is imported before it is needed."""

import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from expunge.cli.audit import Audit
from expunge.cli.demo import Demo
from expunge.cli.listing import List
from expunge.cli.report import Report
from expunge.cli.run import Run
from expunge.cli.unlearn import Unlearn, with_methods

Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Unlearn, tyro.conf.subcommand("unlearn")]
    | Annotated[Audit, tyro.conf.subcommand("audit")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[List, tyro.conf.subcommand("list")]
)

BAD_INPUT = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 2 bad input, 3 a gate that failed."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _parse(arguments)()
    except (ValueError, OSError) as error:
        # What a user can mend is told in a sentence; anything else is our fault, and
        # keeps its traceback.
        print(f"expunge: {_sentence(error)}", file=sys.stderr)  # noqa: T201
        return BAD_INPUT
    except KeyboardInterrupt:
        print("expunge: stopped; the same command goes on from here", file=sys.stderr)  # noqa: T201
        return INTERRUPTED


def _parse(arguments: list[str]) -> Demo | Run | Unlearn | Audit | Report | List:
    description = "Remove training records from a model, attack the result, say what still leaks."
    if arguments[:1] == ["unlearn"]:
        return tyro.cli(with_methods(), prog="expunge unlearn", args=arguments[1:])
    return tyro.cli(Command, prog="expunge", description=description, args=arguments)  # pyright: ignore[reportCallIssue, reportArgumentType] a union of annotated types


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}"
    return str(error)
