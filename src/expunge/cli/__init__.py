"""The command line: parse, check, work, print. Nothing heavy is imported before it is needed."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import reduce
from operator import or_
from typing import Annotated, Any

import tyro

from expunge.cli.audit import Audit
from expunge.cli.demo import Demo
from expunge.cli.flags import NESTED, Command, Work
from expunge.cli.listing import List
from expunge.cli.mask import Mask
from expunge.cli.report import Report
from expunge.cli.run import Run
from expunge.cli.tune import Tune
from expunge.cli.unlearn import Unlearn, with_methods

COMMANDS: dict[str, type[Command]] = {
    "demo": Demo,
    "run": Run,
    "tune": Tune,
    "unlearn": Unlearn,
    "mask": Mask,
    "audit": Audit,
    "report": Report,
    "list": List,
}
MARKERS = (tyro.conf.FlagCreatePairsOff, tyro.conf.HelptextFromCommentsOff)

DIVERGED = 1
BAD_INPUT = 2
INTERRUPTED = 130
PIPE_CLOSED = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    0: done. 1: a method diverged. 2: bad input, and nothing was written; or a disk that
    failed later. 3: a gate that failed.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "" not in sys.path:  # your own modules are looked for here, as `python -m` does
        sys.path.insert(0, "")
    try:
        work = _prepared(arguments)
        return work if isinstance(work, int) else _done(work)
    except BrokenPipeError:  # as in `expunge list methods | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except KeyboardInterrupt:
        _say("stopped; `run`, `tune`, `demo` and `audit --retrain` go on from here")
        return INTERRUPTED


def _prepared(arguments: list[str]) -> Work | int:
    try:
        return parse(arguments).prepare()
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        return _say(_sentence(error), BAD_INPUT)


def _done(work: Callable[[], int]) -> int:
    # Whoever prepared work has imported these already.
    from expunge.core.descent import Diverged
    from expunge.subject import Refused

    try:
        code = work()
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except (Refused, OSError) as error:
        return _say(_sentence(error), BAD_INPUT)
    except Diverged as error:
        return _say(_sentence(error), DIVERGED)
    return code


def parse(arguments: list[str]) -> Command:
    """Return the command with its flags.

    Raises:
        ValueError: When there is no such command, or no such method.
        SystemExit: After help, or after the parser told what is wrong with a flag.
    """
    arguments = arguments or ["--help"]
    name, *rest = arguments
    if name in COMMANDS:
        cls = with_methods(rest) if name == "unlearn" else COMMANDS[name]
        return tyro.cli(cls, prog=f"expunge {name}", args=rest, config=MARKERS, registry=NESTED)
    if not name.startswith("-"):
        from expunge.config import suggest

        raise ValueError(suggest(name, COMMANDS, "command"))
    return tyro.cli(_overview(), prog="expunge", description=PURPOSE, args=arguments)


PURPOSE = "Remove training records from a model, attack the result, say what still leaks."


def _overview() -> Any:
    """Return the union of all commands, each told in one line."""
    return reduce(
        or_,
        (
            Annotated[cls, tyro.conf.subcommand(name, description=first_line(cls))]
            for name, cls in COMMANDS.items()
        ),
    )


def first_line(cls: type) -> str:
    """Return the first line of a class's docstring."""
    return (cls.__doc__ or "").strip().splitlines()[0]


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)


def _say(message: str, code: int = 0) -> int:
    print(f"expunge: {message}", file=sys.stderr)  # noqa: T201
    return code
