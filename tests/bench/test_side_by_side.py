"""Processes side by side compute what one process does."""

import json
from pathlib import Path

import pytest

from expunge.bench import run
from expunge.bench.side_by_side import ahead
from expunge.bench.spec import Spec, parse
from expunge.bench.store import Store
from expunge.cli.run import Run

TABLE = {
    "name": "toy",
    "data": [{"name": "blobs", "train": 120}],
    "models": [{"name": "mlp", "hidden": [8]}],
    "forget": [{"name": "memorised", "count": 20, "shadows": 4}],
    "training": {"descent": {"lr": 0.05, "epochs": 2}},
    "methods": [{"name": "retrain"}, {"name": "finetune", "descent": {"epochs": 1}}],
    "audits": [{"name": "accuracy"}, {"name": "lira", "shadows": 4}],
    "retrained": 2,
}


def grid() -> Spec:
    return parse(TABLE)


def stable(path: Path) -> list[object]:
    lines = (path / "records.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "measured"} for line in lines]


def test_two_processes_leave_nothing_to_do_and_the_same_records(tmp_path: Path) -> None:
    heard = []
    store = Store(tmp_path / "shared")
    ahead(grid(), store, 2, "cpu", lambda event: heard.append(event.stage.key))
    # A pack of shadows, the original, two retrained, one fine-tuned, two audited.
    assert len(heard) == len(set(heard)) == 7

    after = []
    run.run(grid(), tmp_path / "two", store, listen=lambda event: after.append(event.kind))
    assert set(after) == {"cached"}
    run.run(grid(), tmp_path / "one", Store(tmp_path / "alone"))
    assert stable(tmp_path / "two") == stable(tmp_path / "one")

    ahead(grid(), store, 2, "cpu", lambda event: heard.append("again"))
    assert "again" not in heard


def test_no_process_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected --jobs >= 1, got 0"):
        Run(spec=tmp_path / "none.toml", jobs=0).prepare()
