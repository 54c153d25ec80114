"""`expunge tune`: what it writes, what it says, and what it refuses."""

import json
import tomllib
from pathlib import Path

import pytest

from expunge.bench import spec
from expunge.cli import parse
from expunge.cli.tune import aims
from tests.cli.conftest import SPEC, Call, contents
from tests.cli.test_bad_input import refused

SHORT = ("tune", "spec.toml", "--trials", "2")


def test_a_search_leaves_settings_to_paste_and_every_trial(call: Call, here: Path) -> None:
    done = call(*SHORT)
    assert done.code == 0, done.err
    assert "descent.lr" in done.out
    assert "[5/5] finetune, trial 1" in done.err
    folder = here / "runs" / "spec"
    assert str(Path("runs/spec/tuned.toml")) in done.out
    trials = [json.loads(line) for line in (folder / "tuned.jsonl").read_text().splitlines()]
    assert [trial["trial"] for trial in trials] == [0, 1]
    pasted = SPEC.partition("[[methods]]")[0] + (folder / "tuned.toml").read_text()
    (here / "pasted.toml").write_text(pasted)
    (method,) = spec.read(here / "pasted.toml").methods
    best = min(trials, key=lambda trial: trial["objective"])
    assert vars(method)["descent"].lr == best["settings"]["descent.lr"]


def test_a_second_search_computes_nothing_and_tells_programs(call: Call, here: Path) -> None:
    arguments = (*SHORT, "--json", "--method", "finetune", "--out", "found.toml")
    told = json.loads(call(*arguments).out)
    before = contents(here)
    done = call(*arguments)
    assert json.loads(done.out) == told
    assert contents(here) == before
    assert (told["spec"], told["trials"]) == ("found.toml", "found.jsonl")
    (best,) = told["best"]
    assert best["method"] == "finetune"
    assert best["objective"] <= best["given"]
    (entry,) = tomllib.loads((here / "found.toml").read_text())["methods"]
    assert entry["descent"].get("lr", 0.01) == best["settings"]["descent.lr"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gone.toml"], ["no spec at gone.toml"]),
        (["spec.toml", "--method", "finetun"], ["unknown method", "did you mean 'finetune'"]),
        (["spec.toml", "--method"], ["--method"]),
        (["spec.toml", "--trials", "0"], ["at least 1 trial"]),
        (["spec.toml", "--seconds", "0"], ["seconds above 0"]),
        (["spec.toml", "--jobs", "0"], ["expected --jobs >= 1"]),
        (["spec.toml", "--out", "found.json"], ["end in .toml"]),
        (["spec.toml", "--out", "ids.txt/found.toml"], ["cannot write to ids.txt"]),
        (["spec.toml", "--target", "forget"], ["SET=VALUE", "'forget'"]),
        (["spec.toml", "--target", "test=0.5"], ["unknown set 'test'"]),
        (["spec.toml", "--target", "val=1", "val=2"], ["one value for 'val'"]),
        (["spec.toml", "--device", "tpu"], ["unknown device 'tpu'"]),
        (["spec.toml", "--data-root", "gone"], ["no folder gone"]),
    ],
)
def test_bad_input(arguments: list[str], said: list[str], call: Call, here: Path) -> None:
    before = contents(here)
    refused(call("tune", *arguments), *said)
    assert contents(here) == before


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("retrained = 2", "retrained = 0", "retrained = 0"),
        ('"finetune"\ndescent = { epochs = 1 }', '"retrain"', "no setting to search"),
        ("epochs = 1 }", "epochs = 1, lr = 0.0 }", "'descent.lr' above 0"),
    ],
)
def test_specs_that_cannot_be_tuned(old: str, new: str, said: str, call: Call, here: Path) -> None:
    assert old in SPEC
    (here / "spec.toml").write_text(SPEC.replace(old, new))
    before = contents(here)
    refused(call("tune", "spec.toml"), said)
    assert contents(here) == before


def test_originals_that_diverge_are_told(call: Call, here: Path) -> None:
    (here / "spec.toml").write_text(SPEC.replace("lr = 0.05", "lr = 1e38"))
    done = call(*SHORT)
    assert done.code == 1
    assert "a retrained model diverged" in done.err


def test_values_to_aim_at() -> None:
    command = vars(parse(["tune", "s.toml", "--target", "forget=0.05", "val=.3"]))
    assert aims([text for group in command["target"] for text in group]) == {
        "forget": 0.05,
        "val": 0.3,
    }
