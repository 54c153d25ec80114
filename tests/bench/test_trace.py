"""Traces: they tell what happened after every round, and change nothing."""

import dataclasses
import json
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from expunge import registry
from expunge.audits.population import Population
from expunge.bench import run
from expunge.bench.plan import plan
from expunge.bench.run import Event
from expunge.bench.spec import Spec, SpecError, parse
from expunge.bench.store import Store
from expunge.bench.traces import Tracing, Watcher, looked
from expunge.core import cost
from expunge.core.cost import metered, paused
from expunge.core.descent import Pass, descend
from expunge.core.rng import generator
from expunge.core.state import convolves
from expunge.method import Method
from expunge.types import Descent, Json, Refused

TABLE = {
    "name": "toy",
    "data": [{"name": "blobs", "train": 120}],
    "models": [{"name": "mlp", "hidden": [8]}],
    "forget": [{"name": "random", "count": 20}],
    "training": {"descent": {"lr": 0.05, "epochs": 2}},
    "methods": [{"name": "retrain"}, {"name": "finetune", "descent": {"epochs": 3}}],
    "audits": [{"name": "accuracy"}, {"name": "cost"}],
    "retrained": 2,
}
METHODS = [
    registry.methods.build({"name": name, **vars(cls)["card"].toy})
    for name, cls in registry.methods.known().items()
]


def spec(**changes: Json) -> Spec:
    return parse(TABLE | changes)


def ran(folder: Path, wanted: Spec) -> tuple[list[Json], list[tuple[str, str]]]:
    heard: list[tuple[str, str]] = []

    def listen(event: Event) -> None:
        if event.kind != "start":
            heard.append((event.kind, event.stage.what))

    return run.run(wanted, folder / "out", Store(folder / "store"), listen=listen), heard


def same(record: Json) -> Json:
    return {k: v for k, v in record.items() if k not in ("measured", "curve")}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Json], list[Json]]:
    folder = tmp_path_factory.mktemp("traces")
    return ran(folder / "a", spec())[0], ran(folder / "b", spec(trace=True))[0]


def test_a_trace_changes_no_record(both: tuple[list[Json], list[Json]]) -> None:
    without, traced = both
    assert [same(r) for r in without] == [same(r) for r in traced]
    assert not any("curve" in r for r in without)


def test_the_curve_begins_at_the_original_and_ends_at_what_the_audits_found(
    both: tuple[list[Json], list[Json]],
) -> None:
    retrain, finetune = both[1]
    assert "curve" not in retrain, "it has no original to begin at"
    curve, (accuracy, _) = finetune["curve"], finetune["findings"]
    assert curve["epoch"] == [0, 1, 2, 3]
    assert curve["records"]["retain"] == 100
    for name in ("retain", "forget", "val", "test"):
        found = curve[name]["accuracy"]
        assert len(found) == len(curve[name]["loss"]) == 4
        assert found[0] == pytest.approx(accuracy["original"]["values"][name], abs=1e-6)
        assert found[-1] == pytest.approx(accuracy["unlearned"]["values"][name], abs=1e-6)
    json.dumps(curve, allow_nan=False)


def test_what_is_cached_stays_cached(tmp_path: Path) -> None:
    ran(tmp_path, spec())
    _, heard = ran(tmp_path, spec(trace=True))
    assert [what for kind, what in heard if kind == "done"] == ["finetune watched, seed 0"]
    _, heard = ran(tmp_path, spec(trace=True))
    assert {kind for kind, _ in heard} == {"cached"}
    _, heard = ran(tmp_path, spec())
    assert {kind for kind, _ in heard} == {"cached"}


def test_a_watched_method_runs_once(tmp_path: Path) -> None:
    cells, store = run.expand(spec(trace=True)), Store(tmp_path / "store")
    priced = {item.stage.what: item for item in plan(cells, store)}
    assert priced["finetune watched, seed 0"].seconds > 0
    assert priced["finetune, seed 0"].seconds == 0
    _, heard = ran(tmp_path, spec(trace=True))
    assert ("done", "finetune watched, seed 0") in heard
    assert ("cached", "finetune, seed 0") in heard


def test_a_method_that_diverges_has_the_curve_until_then(tmp_path: Path) -> None:
    wild = {"name": "finetune", "descent": {"epochs": 3, "lr": 1e30}}
    (record,), _ = ran(tmp_path, spec(trace=True, methods=[wild]))
    assert record["status"] == "diverged"
    assert record["curve"]["epoch"][0] == 0
    json.dumps(record, allow_nan=False)


def test_an_audit_that_cannot_be_asked_of_a_round_is_no_refusal_of_the_method(
    tmp_path: Path, monkeypatch
) -> None:
    asked, times = Population.ask, []

    def third_refused(self, subject, case, seed):
        times.append(seed)
        if len(times) == 3:
            raise Refused("not this one")
        return asked(self, subject, case, seed)

    monkeypatch.setattr(Population, "ask", third_refused)
    population = {"name": "population"}
    tuned = {"name": "finetune", "descent": {"epochs": 3}}
    (record,), _ = ran(tmp_path, spec(trace={"audits": [population]}, methods=[tuned]))
    assert record["status"] == "done"
    curve = record["curve"]["population"]["auc"]
    assert len(curve) == 4
    assert [number is None for number in curve] == [False, False, True, False]


def test_an_original_that_diverges_has_no_curve(tmp_path: Path) -> None:
    training = {"descent": {"lr": 1e38, "epochs": 6}}
    (record,), _ = ran(
        tmp_path, spec(trace=True, methods=[{"name": "finetune"}], training=training)
    )
    assert record["status"] == "diverged"
    assert record["curve"] is None


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.card.name)
def test_watching_costs_no_samples(method: Method, made) -> None:
    posed = made["images"] if "convolution" in method.card.layers else made["classification"]
    if method.trains:
        pytest.skip("needs an original of its own")
    assert convolves(posed.original) or "convolution" not in method.card.layers
    watcher = Watcher({"forget": posed.request.forget}, posed.request.task)
    request = dataclasses.replace(posed.request, watch=watcher)
    counted = method(posed.original, request, seed=0).cost
    unwatched = method(posed.original, posed.request, seed=0).cost
    assert (counted.forward, counted.backward) == (unwatched.forward, unwatched.backward)


def test_a_watcher_takes_no_seconds_and_no_memory(made, monkeypatch) -> None:
    problem = made["classification"].problem
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    held = iter([100, 150, 170])
    monkeypatch.setattr(cost, "_reset_peak", lambda: 40)
    monkeypatch.setattr(cost, "_peak", lambda: next(held))

    def watch(model: nn.Module, number: int) -> None:
        clock[0] += 5.0

    def objective(batch):
        clock[0] += 1.0
        return problem.recipe.task.loss(model, batch)

    model = problem.recipe.fresh()
    rounds = [[Pass(problem.request.forget, objective, "freeze")]] * 2
    with metered() as bill:
        draws = generator(0, "order")
        descend(model, rounds, Descent(batch_size=10), problem.recipe, draws, watch=watch)
    assert bill.cost.seconds == pytest.approx(4.0), "two rounds of two steps"
    assert bill.cost.peak_bytes == 170 - 40
    assert (bill.cost.forward, bill.cost.backward) == (40, 40)


def test_a_pause_within_a_pause_counts_once_and_other_meters_go_on(monkeypatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    layer, x = nn.Linear(2, 2), torch.ones(3, 2)
    with metered() as outer:
        layer(x)
        with paused():
            clock[0] += 2.0
            layer(x)
            with paused(), metered() as inner:
                clock[0] += 1.0
                layer(x)
            clock[0] += 4.0
        clock[0] += 8.0
        layer(x)
    assert (outer.cost.forward, outer.cost.seconds) == (6, 8.0)
    assert (inner.cost.forward, inner.cost.seconds) == (3, 1.0)


def test_what_is_seen_is_accuracy_and_mean_loss(made) -> None:
    posed = made["classification"]
    forget, task = posed.request.forget, posed.request.task
    seen = looked(posed.original, {"forget": forget}, task)
    x, y, _ = forget.take(torch.arange(len(forget)))
    logits = posed.original(x)
    assert seen["forget/accuracy"] == (logits.argmax(1) == y).double().mean()
    by_hand = -logits.double().log_softmax(1)[torch.arange(len(y)), y].mean()
    assert seen["forget/loss"] == pytest.approx(float(by_hand.detach()), rel=1e-5)


def test_denoising_has_losses_alone(made) -> None:
    posed = made["denoising"]
    seen = looked(posed.original, {"forget": posed.request.forget}, posed.request.task)
    assert list(seen) == ["forget/loss"]


def test_a_sample_of_the_retained_records_is_fixed(made) -> None:
    problem = made["classification"].problem
    few = Tracing(retain=30).sets(problem)["retain"]
    assert len(few) == 30
    assert torch.equal(few.index, Tracing(retain=30).sets(problem)["retain"].index)
    assert set(few.index.tolist()) <= set(problem.request.retain.index.tolist())
    assert len(Tracing(retain=10**6).sets(problem)["retain"]) == len(problem.request.retain)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (3, r"'trace' as a table"),
        ({"retian": 3}, "did you mean 'retain'"),
        ({"retain": 0}, "at least 1"),
    ],
)
def test_mistakes_in_the_switch_are_named(value: Json, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        spec(trace=value)


def test_the_switch_is_off_unless_it_is_on() -> None:
    assert spec().trace is None
    assert spec(trace=False).trace is None
    assert spec(trace=True).trace == Tracing()
    assert spec(trace={"retain": 5}).trace == Tracing(retain=5)


def test_several_presets_are_several_methods() -> None:
    table = {"name": "salun", "preset": ["unlearn_sparse"], "descent": {"lr": 0.5}}
    presets = list(vars(registry.methods.find("salun"))["card"].presets)
    (one,) = spec(methods=[table | {"preset": presets[0]}]).methods
    some = spec(methods=[table | {"preset": presets}]).methods
    assert some[0] == one
    assert len(some) == len(presets)
    assert all(vars(m)["descent"].lr == 0.5 for m in some), "a change is laid over each preset"


@pytest.mark.parametrize("presets", [[], [3], ["unlearn_sparse", "unlearn_sparse"]])
def test_presets_are_names(presets: Json) -> None:
    with pytest.raises(SpecError, match="list of different names"):
        spec(methods=[{"name": "salun", "preset": presets}])


def test_a_split_of_its_own_for_every_seed_shares_no_original_needlessly() -> None:
    forget = [{"name": "random", "count": 20, "seed": "run"}, {"name": "class", "classes": [0]}]
    wanted = spec(seeds=[4, 5], forget=forget, methods=[{"name": "finetune"}], retrained=0)
    cells = run.expand(wanted)
    drawn = [(vars(c.problem.forget)["seed"], c.seed) for c in cells[:2]]
    assert drawn == [(4, 4), (5, 5)]
    assert [c.seed for c in cells[2:]] == [4, 5]
    originals = [s.what for s in run.order(cells) if s.what.startswith("original")]
    assert originals == ["original, seed 4", "original, seed 5"], "one for every forget set"


def test_a_forget_set_without_a_seed_cannot_take_the_runs() -> None:
    with pytest.raises(SpecError, match="unknown key 'seed'"):
        spec(forget=[{"name": "ids", "ids": [1], "seed": "run"}])


def test_the_same_forget_set_twice_is_refused_where_seeds_are_tied() -> None:
    random = {"name": "random", "count": 20}
    with pytest.raises(SpecError, match="got one twice"):
        spec(forget=[random | {"seed": "run"}, random | {"seed": 0}])


def test_audits_may_be_asked_after_every_round(tmp_path: Path) -> None:
    method = {"name": "forsaken", "iterations": 3, "penalty": 0.0, "stop": 0.0, "budget": 1.0}
    rate = {"name": "forgetting_rate", "trees": 20}
    changes = {"methods": [method], "audits": [rate], "trace": {"audits": [rate]}}
    (record,), _ = ran(tmp_path, spec(**changes))
    curve, (finding,) = record["curve"]["forgetting_rate"], record["findings"]
    assert len(curve["fr"]) == len(record["curve"]["epoch"]) == 4
    assert curve["fr"][0] == 0  # the original has forgotten nothing
    found = finding["unlearned"]["values"]
    assert curve["fr"][-1] == pytest.approx(found["fr"], abs=1e-6)
    assert curve["cfr"][-1] == pytest.approx(found["cfr"], abs=1e-6)


def test_an_audit_that_has_the_method_run_again_cannot_be_traced() -> None:
    with pytest.raises(SpecError, match=r"u_lira.*\[\[audits\]\]"):
        spec(trace={"audits": [{"name": "u_lira"}]})
