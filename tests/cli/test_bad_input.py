"""Bad input: one clear sentence with the remedy, exit code 2, and nothing written."""

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from expunge.bench import store
from tests.cli.conftest import SPEC, Call, Done, about, contents

METHOD = ["finetune", "--descent.epochs", "1"]


def refused(done: Done, *said: str) -> None:
    """Check that a mistake was told in one sentence."""
    assert done.code == 2, done
    assert done.out == ""
    assert done.err.startswith("expunge: ")
    assert done.err.count("\n") == 1, done.err
    assert "Traceback" not in done.err
    for text in said:
        assert text in done.err


def unlearn(call: Call, *method: str, **changes: str) -> Done:
    flags = about(**({"checkpoint": "original.safetensors", "out": "u.safetensors"} | changes))
    return call("unlearn", *flags, *(method or METHOD))


def audit(call: Call, *more: str, **changes: str) -> Done:
    files = {"before": "original.safetensors", "after": "original.safetensors"}
    return call("audit", *about(**(files | changes)), *more)


def npz(path: Path, **changes: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "x": rng.normal(size=(60, 6)).astype("float32"),
        "y": np.arange(60) % 6,
        "x_test": rng.normal(size=(60, 6)).astype("float32"),
        "y_test": np.arange(60) % 6,
    }
    np.savez(path, **(arrays | changes))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rum", "spec.toml"], ["unknown command 'rum'", "did you mean 'run'"]),
        (["run", "gone.toml"], ["no spec at gone.toml"]),
        (["run", "spec.toml", "--device", "cuda"], ["sees no GPU", "--device cpu"]),
        (["run", "spec.toml", "--device", "tpu"], ["unknown device 'tpu'"]),
        (["run", "spec.toml", "--data-root", "gone"], ["--data-root", "no folder gone"]),
        (["run", "spec.toml", "--out", "ids.txt/run"], ["cannot write to ids.txt/run"]),
        (["run", "spec.toml", "--out", "ids.txt"], ["cannot write to ids.txt"]),
        (["run", "spec.toml", "--store", "/proc/store"], ["cannot write to /proc/store"]),
        (["run", "spec.toml", "--out", "x" * 300], ["shorter name"]),
        (["demo", "--out", "ids.txt/demo"], ["cannot write to ids.txt/demo"]),
        (["demo", "--device", "cuda"], ["sees no GPU"]),
        (["report", "gone.jsonl"], ["no file or folder gone.jsonl"]),
        (["report", "ids.txt"], ["ids.txt, line 1"]),
        (["report", "spec.toml", "--out", "ids.txt/report.html"], ["cannot write to ids.txt"]),
    ],
)
def test_commands(
    arguments: list[str], said: list[str], call: Call, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = contents(here)
    refused(call(*arguments), *said)
    assert contents(here) == before


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"finetune"', '"finetun"', ["unknown method 'finetun'", "did you mean 'finetune'"]),
        ('"blobs"', '"blob"', ["unknown data set 'blob'", "did you mean 'blobs'"]),
        ('"mlp"', '"mpl"', ["unknown model 'mpl'", "did you mean 'mlp'"]),
        ('"random"', '"randon"', ["unknown forget set", "did you mean 'random'"]),
        ("retrained = 2", "retraned = 2", ["unknown key 'retraned'", "did you mean 'retrained'"]),
        ("retrained = 2", 'retrained = "2"', ["retrained: expected int, got '2'"]),
        ("retrained = 2", "retrained = -1", ["expected retrained >= 0"]),
        ("retrained = 2", "seeds = []", ["at least one entry under 'seeds'"]),
        ("retrained = 2", "seeds = [1, 1]", ["different seeds"]),
        ("retrained = 2", "audits = []", ["at least one entry under 'audits'"]),
        ("retrained = 2", "retrained = = 2", ["spec.toml is not valid TOML", "line 2"]),
        ("train = 120", 'train = "120"', ["train", "got '120'"]),
        ("train = 120", "trian = 120", ["unknown key 'trian'", "did you mean 'train'"]),
        ("epochs = 1 }", "epoch = 1 }", ["unknown key 'epoch'", "did you mean 'epochs'"]),
        ("lr = 0.05", "lr = nan", ["lr"]),
        ("lr = 0.05", "lr = -1", ["expected lr >= 0"]),
        ("count = 20", "count = 0", ["between 1 and 119 of 120"]),
        ("count = 20", "count = 120", ["between 1 and 119 of 120"]),
        ("[training.descent]", "[training.augment]\nflip = true\n[training.descent]", ["images"]),
        ("[training.descent]", "[[audits]]\nname='lost_attack'\n[training.descent]", ["loss_atta"]),
        ("[training.descent]", "[training.decsent]", ["did you mean 'descent'"]),
        ("[training.descent]", "[holdout]\nval = 1.5\n[training.descent]", ["expected val"]),
        ('name = "mlp"\nhidden = [8]', 'name = "resnet"', ["'resnet' takes images"]),
    ],
)
def test_specs(old: str, new: str, said: list[str], call: Call, here: Path) -> None:
    assert old in SPEC
    (here / "spec.toml").write_text(SPEC.replace(old, new))
    before = contents(here)
    for more in ((), ("--plan",)):
        refused(call("run", "spec.toml", *more), *said)
    assert contents(here) == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": "blob"}, ["unknown data set 'blob'", "did you mean 'blobs'"]),
        ({"data": "blobs,trian=3"}, ["unknown key 'trian'"]),
        ({"data": "gone.csv,label=y"}, ["gone.csv"]),
        ({"data": "gone.npz"}, ["gone.npz"]),
        ({"data": "gone:make"}, ["gone"]),
        ({"model": "mpl"}, ["unknown model 'mpl'", "did you mean 'mlp'"]),
        ({"model": "mlp,hiden=[8]"}, ["unknown key 'hiden'"]),
        ({"model": "imported,target=torch.nn:Lineer"}, ["did you mean 'Linear'"]),
        (
            {
                "model": "imported,target=torch.nn:Linear,arguments.in_features=6"
                ",arguments.out_features=4"
            },
            ["the data has 6 classes", "4 answers"],
        ),
        (
            {
                "model": "imported,target=torch.nn:Linear,arguments.in_features=7"
                ",arguments.out_features=6"
            },
            ["cannot take records of shape (6,)"],
        ),
        ({"forget": "gone.txt"}, ["no file gone.txt"]),
        ({"forget": "lost.txt"}, ["3 of 5 ids are not in the data", "a, b, 120"]),
        ({"forget": "empty.txt"}, ["forget set is empty"]),
        ({"forget": "all.txt"}, ["forget set is all of the 120"]),
        ({"forget": "picture.txt"}, ["picture.txt", "one id a line"]),
        ({"forget": 'class,classes=["blob 9"]'}, ["unknown class 'blob 9'"]),
        ({"lr": "-1"}, ["expected lr >= 0"]),
        ({"crop": "2"}, ["crop and flip are for images"]),
        ({"device": "cuda"}, ["sees no GPU", "--device cpu"]),
        ({"checkpoint": "gone.safetensors"}, ["no checkpoint at gone.safetensors"]),
        ({"checkpoint": "model.pt"}, ["not a safetensors file", "never loaded"]),
        ({"checkpoint": "ids.txt"}, ["not a safetensors file"]),
        ({"checkpoint": "cut.safetensors"}, ["not a safetensors file"]),
        ({"checkpoint": "nan.safetensors"}, ["NaN or infinite weights"]),
        ({"checkpoint": "more.safetensors"}, ["0 entries are missing and 1 are not", "'extra'"]),
        ({"checkpoint": "less.safetensors"}, ["1 entries are missing"]),
        ({"checkpoint": "."}, ["no checkpoint at ."]),
        ({"model": "mlp,hidden=[9]"}, ["has shape (8, 6), the model wants (9, 6)"]),
        ({"data": "blobs,train=120,classes=7"}, ["outputs", "wants"]),
        ({"out": "ids.txt/u.safetensors"}, ["cannot write to ids.txt"]),
        ({"out": "/proc/u.safetensors"}, ["cannot write to /proc"]),
        ({"out": "u.pt"}, ["end in .safetensors"]),
        ({"out": "folder.safetensors"}, ["is a folder"]),
        ({"data": "nan.npz"}, ["2 of 60 training records hold NaN", "first: 3, 5"]),
        ({"data": "minus.npz"}, ["-1"]),
        ({"data": "shape.npz"}, ["shape"]),
    ],
)
def test_inputs(
    changes: dict[str, str],
    said: list[str],
    call: Call,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    spoil(here)
    before = contents(here)
    refused(unlearn(call, **changes), *said)
    assert contents(here) == before


def spoil(here: Path) -> None:
    """Lay out files that are each wrong in a way of their own."""
    (here / "lost.txt").write_text("1\na\nb\n2\n120\n")
    (here / "empty.txt").write_text("\n\n")
    (here / "all.txt").write_text("\n".join(map(str, range(120))))
    (here / "picture.txt").write_bytes(bytes(range(256)))
    (here / "folder.safetensors").mkdir()
    state = load_file("original.safetensors")
    first = max(state)  # a weight, not a counter
    torch.save(state, "model.pt")
    (here / "pickle.safetensors").write_bytes(pickle.dumps({"a": 1}))
    (here / "cut.safetensors").write_bytes((here / "original.safetensors").read_bytes()[:-7])
    save_file(state | {first: state[first] * torch.nan}, "nan.safetensors")
    save_file(state | {"extra": torch.ones(1)}, "more.safetensors")
    save_file({k: v for k, v in state.items() if k != first}, "less.safetensors")
    x = np.zeros((60, 6), dtype="float32")
    x[3, 1], x[5, 0] = np.nan, np.inf
    npz(here / "nan.npz", x=x)
    npz(here / "minus.npz", y=np.arange(60) % 6 - 1)
    npz(here / "shape.npz", x_test=np.zeros((60, 5), dtype="float32"))


def test_an_unknown_method(call: Call, here: Path) -> None:
    before = contents(here)
    refused(unlearn(call, "fintune"), "unknown method 'fintune'", "did you mean 'finetune'")
    assert contents(here) == before


def test_a_method_that_wants_an_original_of_its_own(call: Call, here: Path) -> None:
    before = contents(here)
    refused(unlearn(call, "sisa"), "trained its own way", "`expunge run`", "`api.train`")
    assert contents(here) == before


def test_a_label_beyond_the_head(call: Call, here: Path) -> None:
    npz(here / "high.npz", y_test=np.arange(60) % 7)
    before = contents(here)
    refused(unlearn(call, data="high.npz,classes=6"), "8 test labels are outside 0 to 5", "(6)")
    assert contents(here) == before


@pytest.mark.parametrize(
    ("more", "changes", "said"),
    [
        (["--audits", "los_attack"], {}, ["unknown audit 'los_attack'", "'loss_attack'"]),
        (["--fail-if", "auc>0.6"], {}, ["expected AUDIT.VALUE"]),
        (["--fail-if", "loss_attack.auc>0.6", "--audits", "cost"], {}, ["unknown audit"]),
        (["--fail-if"], {}, ["--fail-if was given without a value"]),
        (["--fail-if", "loss_attack.auk>0.6"], {}, ["unknown value of loss_attack 'auk'"]),
        (["--retrain", "-1"], {}, ["--retrain >= 0"]),
        (["--retrained", "gone.safetensors"], {}, ["no checkpoint at gone.safetensors"]),
        (["--retrain", "1"], {"store": "ids.txt/store"}, ["cannot write to ids.txt/store"]),
        ([], {"out": "ids.txt/audit"}, ["cannot write to ids.txt/audit"]),
        ([], {"after": "gone.safetensors"}, ["no checkpoint at gone.safetensors"]),
        (["--audits", "loss_attack"], {"forget": "few.txt"}, ["needs 10 records on each side"]),
    ],
)
def test_audits(
    more: list[str], changes: dict[str, str], said: list[str], call: Call, here: Path
) -> None:
    (here / "few.txt").write_text("1\n2\n3")
    before = contents(here)
    refused(audit(call, *more, **changes), *said)
    assert contents(here) == before


def test_flags_that_the_parser_refuses(call: Call, here: Path) -> None:
    before = contents(here)
    for arguments in (["run"], ["run", "spec.toml", "--plam"], ["list", "method"], ["demo", "x"]):
        done = call(*arguments)
        assert (done.code, done.out) == (2, "")
        assert "Traceback" not in done.err
    assert contents(here) == before


def test_a_method_that_diverges_is_told_and_nothing_is_written(call: Call, here: Path) -> None:
    before = contents(here)
    done = unlearn(call, "gradient_ascent", "--descent.lr", "1e30")
    assert done.code == 1
    assert done.err.startswith("expunge: ")
    assert "lower" in done.err
    assert contents(here) == before


def test_a_fault_of_ours_keeps_its_traceback(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: object, model: object, request: object, seed: int) -> None:
        raise ValueError("not the user's mistake")

    monkeypatch.setattr("expunge.methods.finetune.Finetune.unlearn", fails)
    with pytest.raises(ValueError, match="not the user's mistake"):
        unlearn(call)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_fills_up(
    code: int, call: Call, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(store.os, "fsync", full)
    done = call("run", "spec.toml")
    assert done.code == 2
    assert "Traceback" not in done.err
    said = "free some space" if code != errno.EIO else "nput/output error"
    assert said in done.err.splitlines()[-1]
    assert not list(here.rglob(".draft-*"))
    assert not list(here.rglob("*.safetensors"))[1:]


LIMITED = """
import resource, sys
from expunge.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
sys.exit(main(sys.argv[1:]))
"""


def test_a_limit_on_the_size_of_files(here: Path) -> None:
    flags = about(checkpoint="original.safetensors", out="deep/u.safetensors")
    before = contents(here)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, "unlearn", *flags, *METHOD], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "ulimit -f" in done.stderr
    assert "Traceback" not in done.stderr
    after = contents(here)
    after.pop(str(here / "deep"), None)
    assert after == before
