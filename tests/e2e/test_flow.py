"""The commands as a user types them, each in a process of its own."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from expunge import api
from expunge.bench.problem import Training
from expunge.cli import main
from expunge.types import Descent, Json

SPEC = """
seeds = [0, 1]
retrained = 2
data = [{ name = "digits" }]
models = [{ name = "mlp", hidden = [32] }]
forget = [{ name = "random", count = 50 }]
training.descent = { lr = 0.05, epochs = 5 }

[[methods]]
name = "finetune"
descent = { epochs = 1 }

[[methods]]
name = "gradient_ascent"
descent = { lr = 1e30, epochs = 2 }
"""


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "import sys; from expunge.cli import main; sys.exit(main())"]
    return subprocess.Popen(
        [*command, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def expunge(folder: Path, *arguments: str, code: int = 0) -> tuple[str, str]:
    child = start(folder, *arguments)
    out, err = child.communicate(timeout=300)
    assert child.returncode == code, err
    return out, err


def killed(folder: Path, lines: int) -> None:
    """Start the run and kill it once it told of so many stages."""
    child = start(folder, "run", "grid.toml")
    assert child.stderr is not None
    for _ in range(lines):
        assert child.stderr.readline().startswith("[")
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL


def stable(folder: Path) -> list[Json]:
    lines = (folder / "runs" / "grid" / "records.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "measured"} for line in lines]


def manifests(folder: Path) -> dict[Path, tuple[int, int]]:
    found = (folder / "runs" / "store").glob("*/*/manifest.json")
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    (tmp_path / "grid.toml").write_text(SPEC)
    return tmp_path


@pytest.mark.slow
def test_a_run_is_planned_killed_twice_resumed_and_not_repeated(
    grid: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    plan = json.loads(expunge(grid, "run", "grid.toml", "--plan", "--json")[0])
    assert [p.name for p in grid.iterdir()] == ["grid.toml"]
    assert plan["missing"] == len(plan["stages"])
    assert plan["seconds"] > 0
    assert plan["bytes"] > 0

    for lines in (2, 1):
        killed(grid, lines)
    kept = manifests(grid)
    assert len(kept) >= 3
    left = json.loads(expunge(grid, "run", "grid.toml", "--plan", "--json")[0])
    assert left["missing"] == plan["missing"] - len(kept)

    out, err = expunge(grid, "run", "grid.toml", "--json")
    assert json.loads(out)["count"] == 4
    assert err == ""
    assert kept.items() <= manifests(grid).items()
    assert [record["status"] for record in stable(grid)] == ["done"] * 2 + ["diverged"] * 2

    finished = manifests(grid)
    out, err = expunge(grid, "run", "grid.toml")
    assert err == ""
    assert "Report: runs/grid/report.html" in out
    assert manifests(grid) == finished
    assert "0 missing" in expunge(grid, "run", "grid.toml", "--plan")[0]

    other = tmp_path_factory.mktemp("whole")
    (other / "grid.toml").write_text(SPEC)
    expunge(other, "run", "grid.toml")
    assert stable(other) == stable(grid)


@pytest.mark.slow
def test_two_processes_run_the_same_spec_at_once(grid: Path) -> None:
    children = [start(grid, "run", "grid.toml") for _ in range(2)]
    for child in children:
        child.communicate(timeout=300)
    assert [child.returncode for child in children] == [0, 0]
    assert len(stable(grid)) == 4


def test_unlearn_then_audit_then_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    descent = Descent(lr=0.05, epochs=3, schedule="onecycle", weight_decay=5e-4)
    ids = [str(i) for i in range(60)]
    posed = api.problem("digits", "mlp", ids, training=Training(descent=descent))
    api.save(posed.train(0), "original.safetensors")
    Path("ids.txt").write_text("\n".join(ids))
    about = "--data digits --model mlp --forget ids.txt --epochs 3"

    files = "--checkpoint original.safetensors --out after.safetensors"
    method = "salun --fraction 0.3 --descent.lr 0.01 --descent.epochs 1"
    assert main(f"unlearn {about} {files} {method}".split()) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "salun ran on 60 of 997 records" in out
    facts = json.loads(Path("after.json").read_text())
    assert facts["method"]["fraction"] == 0.3
    assert facts["cost"]["backward"] > 0

    files = "--before original.safetensors --after after.safetensors --retrain 2"
    gates = "--fail-if loss_attack.auc>0.01 --fail-if accuracy.test<0"
    assert main(f"audit {about} {files} {gates} --json".split()) == 3
    out, err = capsys.readouterr()
    assert err == ""
    said = json.loads(out)
    assert said["failed"] == ["loss_attack.auc>0.01"]
    assert Path(said["report"]).read_text().lower().startswith("<!doctype html>")
    (cost,) = (f for f in said["record"]["findings"] if f["audit"] == "cost")
    assert cost["unlearned"]["values"]["backward"] == facts["cost"]["backward"]

    assert main(f"audit {about} {files} --plan".split()) == 0
    assert "2 stages, 2 cached, 0 missing" in capsys.readouterr().out
    assert main(["report", "audit", "--out", "a[b]/again.html"]) == 0
    assert "Report: a[b]/again.html" in capsys.readouterr().out


@pytest.mark.slow
def test_the_demonstration(tmp_path: Path) -> None:
    out, err = expunge(tmp_path, "demo")
    assert "Report: expunge-demo/report.html" in out
    assert "Traceback" not in err
    assert [p.name for p in tmp_path.iterdir()] == ["expunge-demo"]


def test_a_pipe_that_closes_early_is_no_error(tmp_path: Path) -> None:
    child = start(tmp_path, "list", "data", "--json")
    assert child.stdout is not None
    child.stdout.close()
    assert child.stderr is not None
    assert child.stderr.read() == ""
    assert child.wait(60) == 141
