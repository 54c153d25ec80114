"""Runs: killed at any moment, damaged, shared, diverging; the records stay the same."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch

from expunge import registry
from expunge.bench import run
from expunge.bench.plan import plan
from expunge.bench.run import Event
from expunge.bench.spec import Spec, parse
from expunge.bench.store import Store
from expunge.subject import Refused
from expunge.types import Json

FORK = multiprocessing.get_context("fork")
TABLE = {
    "name": "toy",
    "data": [{"name": "blobs", "train": 120}],
    "models": [{"name": "mlp", "hidden": [8]}],
    "forget": [{"name": "random", "count": 20}],
    "training": {"descent": {"lr": 0.05, "epochs": 2}},
    "methods": [{"name": "retrain"}, {"name": "finetune", "descent": {"epochs": 1}}],
    "audits": [{"name": "accuracy"}, {"name": "cost"}, {"name": "weight_distance"}],
    "retrained": 2,
}
CARDS = [vars(cls)["card"] for cls in registry.audits.known().values()]
ALL = [  # that can be asked of a classifier and some of its records
    {"name": card.name, **card.toy}
    for card in CARDS
    if "classification" in card.tasks and not card.withheld
]


def spec(**changes: Json) -> Spec:
    return parse(TABLE | changes)


def stable(path: Path) -> list[Json]:
    """Return the records without what differs from run to run."""
    lines = (path / "records.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "measured"} for line in lines]


def kinds(folder: Path, wanted: Spec | None = None) -> list[tuple[str, str]]:
    """Run to the end and return what the listener was told."""
    heard: list[tuple[str, str]] = []

    def listen(event: Event) -> None:
        heard.append((event.kind, event.stage.what))

    run.run(wanted or spec(), folder / "out", Store(folder / "store"), listen=listen)
    return heard


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[Json]:
    """The records of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    kinds(folder)
    return stable(folder / "out")


def killed(folder: Path, kind: str, number: int) -> None:
    """Run in a process of its own, and kill it when it tells of a stage."""

    def listen(event: Event) -> None:
        if (event.kind, event.number) == (kind, number):
            os.kill(os.getpid(), signal.SIGKILL)

    def child() -> None:
        torch.set_num_threads(1)
        run.run(spec(), folder / "out", Store(folder / "store"), listen=listen)

    process = FORK.Process(target=child)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def artifacts(store: Path) -> dict[str, tuple[int, int]]:
    """Return which file each artifact's manifest is, and when it was written."""
    found = {p: p.stat() for p in store.glob("*/*/manifest.json")}
    return {str(p): (s.st_ino, s.st_mtime_ns) for p, s in found.items()}


def test_the_stages_of_the_grid() -> None:
    assert [s.what for s in run.order(run.expand(spec()))] == [
        "retrain, seed 0",
        "original, seed 0",
        "retrain, seed 1",
        "audits of retrain, seed 0",
        "finetune, seed 0",
        "audits of finetune, seed 0",
    ]


@pytest.mark.parametrize(
    ("kind", "number"), [("start", 1), ("done", 1), ("start", 3), ("done", 4), ("start", 6)]
)
def test_a_killed_run_goes_on_where_it_was(
    kind: str, number: int, tmp_path: Path, whole: list[Json]
) -> None:
    killed(tmp_path, kind, number)
    kept = artifacts(tmp_path / "store")
    finished = number - (kind == "start")
    assert len(kept) == finished
    heard = kinds(tmp_path)
    assert [k for k, _ in heard].count("cached") == finished
    assert [k for k, _ in heard].count("done") == 6 - finished
    assert kept.items() <= artifacts(tmp_path / "store").items()
    assert stable(tmp_path / "out") == whole


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_run_killed_while_it_writes_an_artifact(
    after: int, tmp_path: Path, whole: list[Json], monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = os.fsync
    count = 0

    def dying(handle: int) -> None:
        nonlocal count
        count += 1
        if count > 4 + after:
            os.kill(os.getpid(), signal.SIGKILL)
        flushed(handle)

    def child() -> None:
        monkeypatch.setattr(os, "fsync", dying)
        run.run(spec(), tmp_path / "out", Store(tmp_path / "store"))

    process = FORK.Process(target=child)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    kinds(tmp_path)
    assert stable(tmp_path / "out") == whole


def test_a_second_run_computes_nothing(tmp_path: Path, whole: list[Json]) -> None:
    kinds(tmp_path)
    before = artifacts(tmp_path / "store")
    assert {kind for kind, _ in kinds(tmp_path)} == {"cached"}
    assert artifacts(tmp_path / "store") == before
    assert stable(tmp_path / "out") == whole


def test_damage_is_told_and_computed_again(
    tmp_path: Path, whole: list[Json], caplog: pytest.LogCaptureFixture
) -> None:
    kinds(tmp_path)
    (first, second, *_) = sorted((tmp_path / "store" / "models").iterdir())
    (third, *_) = sorted((tmp_path / "store" / "records").iterdir())
    weights = first / "tensors.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    (second / "facts.json").unlink()
    facts = bytearray((third / "facts.json").read_bytes())
    facts[10] ^= 1
    (third / "facts.json").write_bytes(facts)
    heard = kinds(tmp_path)
    assert [k for k, _ in heard].count("done") == 3
    for folder in (first, second, third):
        assert str(folder) in caplog.text
    assert len(list((tmp_path / "store" / "damaged").iterdir())) == 3
    assert stable(tmp_path / "out") == whole


def test_two_runs_at_once(tmp_path: Path, whole: list[Json]) -> None:
    workers = [FORK.Process(target=kinds, args=(tmp_path,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    assert stable(tmp_path / "out") == whole
    assert not list((tmp_path / "store").glob("*/.draft-*"))


@pytest.mark.parametrize("lr", [1e3, 1e12, 1e30])
def test_a_method_that_diverges_is_recorded_and_the_grid_goes_on(lr: float, tmp_path: Path) -> None:
    ascent = {"name": "gradient_ascent", "descent": {"lr": lr, "epochs": 3}}
    kinds(tmp_path, spec(methods=[ascent, {"name": "finetune"}], audits=ALL))
    first, second = stable(tmp_path / "out")
    assert second["status"] == "done"
    if lr > 1e3:
        assert first["status"] == "diverged"
        assert first["verdict"]["kind"] == "failed"
        assert "lower" in first["error"]["message"]


def test_an_original_that_diverges_is_recorded_too(tmp_path: Path) -> None:
    kinds(tmp_path, spec(training={"descent": {"lr": 1e38, "epochs": 6}}))
    records = stable(tmp_path / "out")
    assert [r["status"] for r in records] == ["diverged"] * 2
    assert "original, seed 0: " in records[1]["error"]["message"]


def test_what_a_method_refuses_is_recorded_and_the_grid_goes_on(tmp_path: Path) -> None:
    least = {"name": "smu", "limit": 1e-9}
    kinds(tmp_path, spec(methods=[least, {"name": "finetune"}]))
    first, second = stable(tmp_path / "out")
    assert (first["status"], second["status"]) == ("failed", "done")
    assert first["verdict"]["kind"] == "failed"
    assert "original, seed 0: the weights before each of " in first["error"]["message"]


def test_what_a_method_refuses_is_recorded_where_its_course_is_traced_too(tmp_path: Path) -> None:
    kinds(tmp_path, spec(methods=[{"name": "smu", "limit": 1e-9}], trace={}))
    assert [record["status"] for record in stable(tmp_path / "out")] == ["failed"]


def test_an_audit_that_one_model_cannot_be_asked_is_left_out_and_told(tmp_path: Path) -> None:
    audits = [
        {"name": "accuracy"},
        {"name": "forgetting_rate", "oracle": "white_box", "tested": 0.4},
    ]
    sisa = {"name": "sisa", "shards": 2, "slices": 2}
    kinds(tmp_path, spec(methods=[sisa, {"name": "finetune"}], audits=audits))
    first, second = stable(tmp_path / "out")
    assert [found["audit"] for found in first["findings"]] == ["accuracy"]
    assert "one last layer" in first["notes"]["unasked"]["forgetting_rate"]
    assert [found["audit"] for found in second["findings"]] == ["accuracy", "forgetting_rate"]
    assert "unasked" not in second["notes"]


@pytest.mark.parametrize(
    ("model", "method", "said"),
    [
        ("mlp", {"name": "eu_k", "k": 9}, "expected k to be at most 2, got 9"),
        ("mlp", {"name": "cf_k", "k": 9}, "expected k to be at most 2, got 9"),
        ("mlp", {"name": "orthogonal_replay", "layers": ["nope"]}, "unknown layer 'nope'"),
        ("mlp", {"name": "divergence", "descent": {"batch_size": 1}}, "at least 2 values of each"),
        ("mlp", {"name": "salun", "avoid": "forgotten"}, "leaves no class to give"),
        ("linear", {"name": "orthogonal_replay"}, "before its last layer, but it has none"),
    ],
)
def test_a_method_that_does_not_fit_is_recorded_and_the_grid_goes_on(
    model: str, method: Json, said: str, tmp_path: Path
) -> None:
    models = [{"name": "mlp", "hidden": [8]} if model == "mlp" else {"name": model}]
    kinds(tmp_path, spec(models=models, methods=[method, {"name": "finetune"}]))
    first, second = stable(tmp_path / "out")
    assert (first["status"], second["status"]) == ("failed", "done")
    assert said in first["error"]["message"]


def test_a_layer_that_one_of_the_networks_lacks_leaves_the_audit_out_there(tmp_path: Path) -> None:
    inside = {"name": "pseudo_convergence", "layer": "3", "records": 40, "relearn": {"epochs": 1}}
    audits, sisa = [{"name": "accuracy"}, inside], {"name": "sisa", "shards": 2, "slices": 2}
    kinds(tmp_path, spec(methods=[sisa, {"name": "finetune"}], audits=audits))
    first, second = stable(tmp_path / "out")
    assert "unknown layer '3' of a Voting" in first["notes"]["unasked"]["pseudo_convergence"]
    assert [found["audit"] for found in first["findings"]] == ["accuracy"]
    assert [found["audit"] for found in second["findings"]] == ["accuracy", "pseudo_convergence"]


@pytest.mark.parametrize(
    ("change", "audit", "said"),
    [
        ({}, {"name": "pseudo_convergence", "layer": "nope"}, "unknown layer 'nope'"),
        ({"models": [{"name": "linear"}]}, {"name": "pseudo_convergence"}, "but it has none"),
        ({"forget": [{"name": "random", "count": 1}]}, {"name": "lira"}, "2 records on each side"),
        ({"forget": [{"name": "random", "count": 1}]}, {"name": "rmia"}, "2 records on each side"),
    ],
)
def test_an_audit_that_no_model_can_be_asked_is_refused_before_any_work(
    change: Json, audit: Json, said: str
) -> None:
    with pytest.raises(Refused, match=said):
        run.expand(spec(**change, audits=[audit]))


def test_one_forgotten_record_is_asked_about(tmp_path: Path) -> None:
    inside = {"name": "pseudo_convergence", "records": 40, "relearn": {"epochs": 1}, "plane": 20}
    audits = [{"name": "relearn_time", "records": 40, "descent": {"epochs": 1}}, inside]
    kinds(tmp_path, spec(forget=[{"name": "random", "count": 1}], audits=audits, retrained=3))
    for record in stable(tmp_path / "out"):
        assert record["status"] == "done"
        assert len(record["findings"]) == 2
        assert "unasked" not in record["notes"]


def test_shadows_that_cannot_be_trained_do_not_end_the_grid(tmp_path: Path) -> None:
    lone = {"descent": {"lr": 0.05, "epochs": 1, "batch_size": 1}}  # no spread for BatchNorm
    shadowed = {"name": "lira", "shadows": 4}
    kinds(tmp_path, spec(training=lone, audits=[{"name": "accuracy"}, shadowed]))
    assert [record["status"] for record in stable(tmp_path / "out")] == ["failed"] * 2


def test_a_record_holds_what_its_method_noted(tmp_path: Path) -> None:
    noise = {"name": "fisher_forgetting", "alpha": 1e9}
    kinds(tmp_path, spec(methods=[noise, {"name": "finetune"}]))
    first, second = stable(tmp_path / "out")
    assert first["notes"] == {"saturated": 1.0}
    assert second["notes"] == {}


def test_a_plan_computes_and_writes_nothing(tmp_path: Path) -> None:
    cells, store = run.expand(spec()), Store(tmp_path / "store")
    before = plan(cells, store)
    assert not list(tmp_path.iterdir())
    assert [item.cached for item in before] == [False] * 6
    assert all(item.seconds > 0 and item.size > 0 for item in before)
    kinds(tmp_path)
    after = plan(cells, store)
    assert [item.cached for item in after] == [True] * 6
    assert sum(item.seconds for item in after) == sum(item.size for item in after) == 0
    finetune = {"name": "finetune", "descent": {"epochs": 2}}
    more = plan(run.expand(spec(methods=[finetune])), store)
    assert [i.stage.what for i in more if not i.cached] == [
        "finetune, seed 0",
        "audits of finetune, seed 0",
    ]


def test_the_disk_estimate_is_of_the_right_order(tmp_path: Path) -> None:
    store, wanted = Store(tmp_path / "store"), spec(audits=ALL)
    foreseen = sum(item.size for item in plan(run.expand(wanted), store))
    kinds(tmp_path, wanted)
    assert foreseen / 10 < store.size() < foreseen * 10


def test_audits_left_out_are_those_that_apply(caplog: pytest.LogCaptureFixture) -> None:
    table = {k: v for k, v in TABLE.items() if k != "audits"}
    few = table | {"forget": [{"name": "random", "count": 4}]}
    run.expand(parse(few))
    assert "loss_attack was left out" in caplog.text
    asked = few | {"audits": [{"name": "loss_attack"}]}
    with pytest.raises(Refused, match="needs 10 records on each side"):
        run.expand(parse(asked))


def test_a_network_of_another_width_is_refused_before_any_work() -> None:
    arguments = {"in_features": 6, "out_features": 3}
    model = {"name": "imported", "target": "torch.nn:Linear", "arguments": arguments}
    with pytest.raises(ValueError, match="has 6 classes, but the model 'imported' gives 3"):
        run.expand(spec(models=[model]))


def test_nothing_global_is_touched(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    kinds(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
