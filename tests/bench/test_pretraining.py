"""Pretraining: a stage like any other, from which every model of a run starts."""

import dataclasses

import pytest
import torch
from torch import nn

from expunge.bench import run as engine
from expunge.bench import stages
from expunge.bench.plan import plan
from expunge.bench.problem import Pretraining
from expunge.bench.spec import SpecError, parse
from expunge.bench.stages import Bench, Pretrained
from expunge.bench.store import Store
from expunge.data.bundled import Digits
from expunge.methods.retrain import Retrain
from expunge.models.mlp import MLP
from expunge.types import Recipe, Start

DESCENT = {"lr": 0.05, "epochs": 1, "batch_size": 16}
TABLE = {
    "name": "pretrained",
    "data": [{"name": "blobs", "classes": 4, "train": 80}],
    "models": [{"name": "mlp", "hidden": [8]}],
    "forget": [{"name": "random", "count": 8}],
    "methods": [{"name": "retrain"}, {"name": "finetune"}],
    "audits": [{"name": "accuracy"}],
    "training": {"descent": DESCENT},
    "pretraining": {
        "data": {"name": "blobs", "classes": 4, "train": 60, "seed": 7},
        "descent": DESCENT,
    },
    "retrained": 1,
}


def expand(**changes):
    return engine.expand(parse(TABLE | changes))


def test_it_is_one_stage_and_comes_first(tmp_path):
    ordered = engine.order(expand(seeds=[0, 1]))
    assert [s.what for s in ordered].count("pretraining") == 1
    assert ordered[0].what == "pretraining"
    items = plan(expand(seeds=[0, 1]), Store(tmp_path))
    assert items[0].seconds > 0


def test_every_model_starts_from_it_and_moves_on(tmp_path):
    cell = expand()[0]
    bench = Bench(Store(tmp_path))
    start = cell.problem.recipe.start
    assert isinstance(start, Pretrained)
    weights = bench.result(start.stage).tensors
    still = dataclasses.replace(
        cell.problem,
        recipe=dataclasses.replace(
            cell.problem.recipe,
            descent=dataclasses.replace(cell.problem.recipe.descent, lr=0.0),
        ),
    )
    for stage in (stages.original(still, Retrain(), 0), stages.unlearned(still, Retrain(), 0)):
        found = bench.result(stage).tensors
        for name in ("model/2.weight", "model/5.weight"):
            assert torch.equal(found[name], weights[name]), name
    moved = bench.result(stages.original(cell.problem, Retrain(), 0)).tensors
    assert not torch.equal(moved["model/2.weight"], weights["model/2.weight"])


def test_keys_depend_on_it_and_on_nothing_else():
    def key(**changes):
        return stages.original(expand(**changes)[0].problem, Retrain(), 0).key

    assert key() == key()
    longer = TABLE["pretraining"] | {"descent": DESCENT | {"epochs": 2}}
    table = {k: v for k, v in TABLE.items() if k != "pretraining"}
    without = engine.expand(parse(table))[0].problem
    keys = {key(), key(pretraining=longer), stages.original(without, Retrain(), 0).key}
    assert len(keys) == 3


def test_a_run_records_what_it_started_from(tmp_path):
    records = engine.run(parse(TABLE), tmp_path / "out", Store(tmp_path / "store"))
    assert [r["status"] for r in records] == ["done", "done"]
    assert records[0]["training"]["start"]["data"]["seed"] == 7
    again = engine.run(parse(TABLE), tmp_path / "again", Store(tmp_path / "store"))
    assert [r["key"] for r in again] == [r["key"] for r in records]


def test_a_network_with_another_head_takes_the_body_only():
    recipe = Pretraining(data=Digits()).recipe(Digits().load(), _mlp())
    body = recipe.drawn().state_dict()
    other = nn.Sequential(*list(recipe.drawn().children())[:-1], nn.Linear(16, 3))
    before = other[-1].weight.clone()
    Start(digest="x", tensors=body).load(other)
    state = other.state_dict()
    assert torch.equal(other[-1].weight, before)
    shared = [k for k in body if body[k].shape == state[k].shape]
    assert len(shared) == len(body) - 2
    assert all(torch.equal(body[k], state[k]) for k in shared)


def test_bad_starts_are_told():
    recipe = Pretraining(data=Digits()).recipe(Digits().load(), _mlp())
    waiting = dataclasses.replace(recipe, start=Start(digest="x"))
    with pytest.raises(RuntimeError, match="has not run yet"):
        waiting.fresh()
    stranger = {"0.weight": torch.zeros(2, 2)}
    with pytest.raises(ValueError, match="another architecture"):
        dataclasses.replace(recipe, start=Start(digest="x", tensors=stranger)).fresh()
    with pytest.raises(SpecError, match=r"\[pretraining\]"):
        parse(TABLE | {"pretraining": {"data": {"name": "nothing"}}})
    with pytest.raises(SpecError, match="pretraining"):
        parse(TABLE | {"pretraining": {"descent": DESCENT}})


def test_unready_recipes_still_tell_their_shape():
    problem = expand()[0].problem
    assert isinstance(problem.recipe, Recipe)
    assert sum(p.numel() for p in problem.recipe.drawn().parameters()) > 0


def _mlp():
    return MLP(hidden=(16,))
