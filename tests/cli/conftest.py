"""A folder with data, a checkpoint and a list of ids, and a way to call the command."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from expunge import api
from expunge.bench.problem import Problem
from expunge.cli import main

MODEL = "mlp,hidden=[8]"
SPEC = """
retrained = 2

[[data]]
name = "blobs"
train = 120

[[models]]
name = "mlp"
hidden = [8]

[[forget]]
name = "random"
count = 20

[training.descent]
lr = 0.05
epochs = 2

[[methods]]
name = "finetune"
descent = { epochs = 1 }
"""


class Done(NamedTuple):
    """What a command left: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str


Call = Callable[..., Done]


@pytest.fixture(scope="session")
def posed() -> Problem:
    """The problem that the files in `here` are about."""
    return api.problem(
        {"name": "blobs", "train": 120}, {"name": "mlp", "hidden": [8]}, [str(i) for i in range(20)]
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, posed: Problem) -> Path:
    """The current folder, with a checkpoint, ids and a spec."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXPUNGE_DATA", "")
    monkeypatch.setenv("COLUMNS", "100")
    api.save(posed.train(0), "original.safetensors")
    (tmp_path / "ids.txt").write_text("\n".join(map(str, range(20))))
    (tmp_path / "spec.toml").write_text(SPEC)
    return tmp_path


@pytest.fixture
def call(here: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command in `here`."""

    def run(*arguments: str) -> Done:
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = stop.code
        printed = capsys.readouterr()
        return Done(int(code or 0), printed.out, printed.err)

    return run


def about(**changes: str) -> list[str]:
    """Return the flags that say what problem the files in `here` are about."""
    flags = {"data": "blobs,train=120", "model": MODEL, "forget": "ids.txt"} | changes
    return [part for name, value in flags.items() for part in (f"--{name}", value)]


def contents(folder: Path) -> dict[str, bytes | None]:
    """Return every file and folder under one, to see whether anything was written."""
    return {str(p): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}
