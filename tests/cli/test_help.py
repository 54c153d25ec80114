"""What the command says of itself, and how soon."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from expunge import registry
from expunge.cli import COMMANDS, parse
from expunge.cli.unlearn import method_in
from tests.cli.conftest import Call, about

HEAVY = {"torch", "numpy", "scipy", "sklearn", "pydantic", "datasets", "altair", "pandas"}
HELP = f"""
import sys
from expunge.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert not stop.code
heavy = {HEAVY!r} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize("command", [(), *((c,) for c in COMMANDS if c != "unlearn")])
def test_help_is_quick_and_imports_nothing_heavy(command: tuple[str, ...]) -> None:
    arguments = [sys.executable, "-X", "importtime", "-c", HELP, *command, "--help"]
    child = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = child.communicate()
    assert child.returncode == 0, err
    assert "usage: expunge" in out
    assert "| torch" not in err


def test_help_takes_less_than_half_a_second_of_processor_time() -> None:
    def once() -> float:
        before = os.times()
        subprocess.run([sys.executable, "-c", HELP, "--help"], check=True, capture_output=True)
        after = os.times()
        user, system = (
            b - a for a, b in zip(before[2:4], after[2:4], strict=True)
        )  # of children alone
        return user + system

    assert min(once() for _ in range(3)) < 0.5


def test_every_command_is_told_in_a_line(call: Call) -> None:
    text = call("--help").out
    for name, cls in COMMANDS.items():
        first, *rest = (cls.__doc__ or "").strip().splitlines()
        assert f"• {name}" in text
        assert " ".join(first.split()[:4]) in text
        assert not any(line.strip() and line.strip() in text for line in rest[1:3])


def test_no_arguments_are_a_question_for_help(call: Call) -> None:
    assert call().out == call("--help").out


@pytest.mark.parametrize("width", ["40", "200"])
@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_fits_the_terminal(
    command: str, width: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    done = call(command, "--help")
    assert done.code == 0
    box = [line for line in done.out.splitlines() if line.startswith((" ", "╭", "│", "╰"))]
    assert box
    assert max(map(len, box)) <= int(width)


def test_help_on_unlearn_names_every_method(call: Call) -> None:
    text = call("unlearn", "--help").out
    assert all(f"• {name}" in text for name in registry.methods.known())


def test_a_method_has_its_fields_as_flags(here: Path) -> None:
    command = parse(
        [
            *("unlearn", *about(checkpoint="o.safetensors"), "--json"),
            *("salun", "--fraction", "0.3", "--descent.lr", "0.02"),
        ]
    )
    method = vars(command)["method"]
    assert method == registry.methods.build(
        {"name": "salun", "fraction": 0.3, "descent": {"lr": 0.02}}
    )


def test_methods_within_a_method_are_named_with_their_settings(here: Path) -> None:
    within = ["rotate,descent.lr=0.02", "pruning,preset=seed_paper_5"]
    command = parse(
        ["unlearn", *about(checkpoint="o.safetensors"), "sequence", "--methods", *within]
    )
    rotate = {"name": "rotate", "descent": {"lr": 0.02}}
    pruning = {"name": "pruning", "preset": "seed_paper_5"}
    assert vars(command)["method"] == registry.methods.build(
        {"name": "sequence", "methods": [rotate, pruning]}
    )


@pytest.mark.parametrize(
    ("arguments", "method"),
    [
        ("salun --fraction 0.3", "salun"),
        ("--data d --json salun", "salun"),
        ("--data=d --flip --seed -1 salun", "salun"),
        ("--data d", None),
        ("--help salun", None),
        ("--data d salun --help", "salun"),
    ],
)
def test_the_method_is_found_among_the_flags(arguments: str, method: str | None) -> None:
    assert method_in(arguments.split()) == method


@pytest.mark.parametrize("kind", ["methods", "audits", "data", "models", "forget"])
def test_lists_come_from_the_cards(kind: str, call: Call) -> None:
    done = call("list", kind, "--json")
    cards = json.loads(done.out)
    assert [card["name"] for card in cards] == list(getattr(registry, kind).known())
    assert all(card["summary"] for card in cards)
    table = call("list", kind).out
    assert all(card["name"] in table for card in cards)


def test_brackets_in_names_are_no_markup(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from expunge.cli import listing

    card = {"name": "a[bold]b", "summary": "of [/x] and [red]", "settings": {"[k]": 1}}
    monkeypatch.setattr(listing, "describe", lambda kind: [card])
    done = call("list", "models")
    assert done.code == 0
    assert all(text in done.out for text in ("a[bold]b", "of [/x] and [red]", "[k]"))
