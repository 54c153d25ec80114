"""A grid whose task is denoising, from its spec to its report."""

import json
from pathlib import Path

import pytest

from expunge import api
from expunge.bench import run
from expunge.bench.plan import plan
from expunge.bench.spec import SpecError, parse, read
from expunge.bench.store import Store
from expunge.tasks.denoising import Denoising

SPEC = """
retrained = 1

[[data]]
name = "digits"

[[models]]
name = "unet"
conditions = 10
widths = [8, 8]

[training.descent]
optimizer = "adamw"
lr = 3e-3
epochs = 1

[[forget]]
name = "class"
classes = [3]

[[methods]]
name = "gradient_ascent"
descent = { epochs = 1 }

[[methods]]
name = "orthogonal_replay"
erase = { epochs = 1 }
descent = { epochs = 1 }

[[audits]]
name = "recovery"
descent = { epochs = 1 }
images = 8
asked = 8
draws = 1
samples = 8
steps = 3
shown = 1
lessons = { epochs = 1 }

[[audits]]
name = "loss_attack"
"""


@pytest.mark.slow
def test_a_spec_of_a_denoiser_is_planned_run_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "generation.toml"
    path.write_text(SPEC)
    store = tmp_path / "store"
    cells = run.expand(read(path))
    assert all(cell.problem.recipe.task == Denoising(mean=0.5, std=0.5) for cell in cells)
    assert all(item.seconds > 0 for item in plan(cells[:1], Store(store)))

    records = api.run(path, tmp_path / "out", store=store)
    assert [record["status"] for record in records] == ["done", "done"]
    for record in records:
        recovery, attack = record["findings"]
        assert recovery["audit"] == "recovery"
        assert len(recovery["unlearned"]["arrays"]["recognised_by_round"]) == 2
        assert attack["unlearned"]["values"]["auc"] > 0
    first, second = (record["findings"][0] for record in records)
    assert first["original"] == second["original"]  # one attack, kept on the shelf
    assert "recovery" in (tmp_path / "out" / "report.html").read_text()
    lines = (tmp_path / "out" / "records.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == [record["key"] for record in records]


def test_what_the_spec_calls_the_task_is_checked() -> None:
    with pytest.raises(SpecError, match="task"):
        parse(
            {
                "name": "x",
                "data": [{"name": "digits"}],
                "models": [{"name": "mlp"}],
                "forget": [{"name": "random"}],
                "methods": [{"name": "retrain"}],
                "training": {"task": "denoise"},
            }
        )


def test_the_spec_of_the_results_can_be_read() -> None:
    spec = read(Path("specs/reminiscence/generation-small.toml"))
    assert {method.card.name for method in spec.methods} == {
        "retrain",
        "gradient_ascent",
        "random_label",
        "salun",
        "orthogonal_replay",
    }
