"""Tuning: apart from what is reported on, resumable, deterministic, not stopped by divergence."""

import json
import math
import multiprocessing
import os
import signal
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from expunge import registry
from expunge.bench import workers
from expunge.bench.apart import Apart
from expunge.bench.run import Event, problems
from expunge.bench.search import Result, Study, at, changed, space
from expunge.bench.spec import Spec, parse
from expunge.bench.stages import Bench, controls, original, restored
from expunge.bench.store import Store
from expunge.bench.tune import Plan, Tuned, Tuning, judged, prepared, tune
from expunge.bench.tuned import entry, fragment, lines, toml
from expunge.bench.workers import Processes
from expunge.core.descent import Diverged
from expunge.data.forget import AtRandom, ById, Forget, OfClass, OfGroup
from expunge.data.tensors import TensorData
from expunge.data.toy import Blobs, Chains
from expunge.method import Method, MethodCard, Search
from expunge.methods.finetune import Finetune
from expunge.types import Descent, Json, Recipe, Sets

TABLE = {
    "name": "toy",
    "data": [{"name": "blobs", "train": 120}],
    "models": [{"name": "mlp", "hidden": [8]}],
    "forget": [{"name": "random", "count": 20}],
    "training": {"descent": {"lr": 0.05, "epochs": 5, "batch_size": 32}},
    "methods": [
        {"name": "retrain"},
        {"name": "finetune", "descent": {"epochs": 1}},
        {"name": "gradient_ascent"},
    ],
    "retrained": 4,
}
FORK = multiprocessing.get_context("fork")


def spec(**changes: Json) -> Spec:
    return parse(TABLE | changes)


def plan(tuning: Tuning | None = None, names: tuple[str, ...] = (), **changes: Json) -> Plan:
    return prepared(spec(**changes), tuning or Tuning(trials=4), names)


def stable(made: Plan, found: list[Tuned]) -> list[Json]:
    """Return every trial without what differs from run to run."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines(made, found)]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store that holds a whole search."""
    store = Store(tmp_path_factory.mktemp("kept"))
    tune(plan(), store)
    return store


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What has been computed, as it is."""
    told: list[str] = []
    make = Bench.make

    def counted(self: Bench, stage, meter):
        told.append(stage.what)
        return make(self, stage, meter)

    monkeypatch.setattr(Bench, "make", counted)
    return told


# What is tuned on


BLOBS = Blobs(train=120).load()
PEOPLE = BLOBS._replace(groups={"person": tuple(str(i // 6) for i in range(120))})


@pytest.mark.parametrize(
    "reported",
    [
        [AtRandom(count=20)],
        [AtRandom(count=20, seed=s) for s in range(3)],
        [OfClass(classes=(1, 3), fraction=0.5)],
        [ById(ids=tuple(range(0, 60, 4)))],
    ],
    ids=["random", "seeds", "half of classes", "ids"],
)
def test_a_forget_set_apart_has_as_many_of_each_class_and_no_record_in_common(
    reported: list[Forget],
) -> None:
    wanted = reported[0].choose(BLOBS)
    found = Apart(like=reported[0], reported=tuple(reported)).choose(BLOBS)
    taken = {int(i) for forget in reported for i in forget.choose(BLOBS)}
    assert not taken & set(found.tolist())
    assert len(set(found.tolist())) == len(found)
    counts = [torch.bincount(BLOBS.train.y[rows], minlength=6) for rows in (wanted, found)]
    assert torch.equal(*counts)
    again = Apart(like=reported[0], reported=tuple(reported), seed=1).choose(BLOBS)
    room = 120 - len(taken) > len(found) and not isinstance(reported[0], OfClass)
    assert torch.equal(found, again) is not room


def test_other_classes_stand_in_for_whole_ones() -> None:
    like = OfClass(classes=(1, 3))
    found = Apart(like=like, reported=(like,)).choose(BLOBS)
    classes = set(BLOBS.train.y[found].tolist())
    assert len(classes) == 2
    assert not classes & {1, 3}
    assert len(found) == sum(int((BLOBS.train.y == k).sum()) for k in classes)


def test_other_groups_stand_in_for_groups() -> None:
    like = OfGroup(column="person", values=("3", "4"))
    found = Apart(like=like, reported=(like, AtRandom(count=5))).choose(PEOPLE)
    people = {PEOPLE.groups["person"][i] for i in found.tolist()}
    assert len(people) == 2
    assert len(found) == 12
    assert not people & {"3", "4"}
    assert not set(AtRandom(count=5).choose(PEOPLE).tolist()) & set(found.tolist())


def test_records_without_classes_are_drawn_at_random() -> None:
    chains, like = Chains(train=40).load(), AtRandom(count=10)
    found = Apart(like=like, reported=(like,)).choose(chains)
    assert len(found) == 10
    assert not set(found.tolist()) & set(like.choose(chains).tolist())


def test_nothing_left_to_tune_on_is_told() -> None:
    two = Sets(TensorData(torch.rand(6, 2), torch.arange(6) % 2), BLOBS.test)
    like = OfClass(classes=(0,))
    with pytest.raises(ValueError, match="nothing to tune on"):
        Apart(like=like, reported=(like, OfClass(classes=(1,)))).choose(two)


def test_the_problem_is_another_than_the_one_that_is_reported_on() -> None:
    wanted = spec(seeds=[0, 1000], pretraining={"data": {"name": "blobs", "seed": 5}})
    made = prepared(wanted, Tuning())
    (tuned,), (reported,) = made.problems, list(problems(wanted))
    assert not set(tuned.parts.forget.tolist()) & set(reported.parts.forget.tolist())
    assert len(tuned.parts.forget) == len(reported.parts.forget)
    assert torch.equal(tuned.parts.val, reported.parts.val)
    assert tuned.recipe.start is not None
    assert reported.recipe.start is not None
    assert tuned.recipe.start.digest == reported.recipe.start.digest
    assert made.seed not in wanted.seeds
    key = original(tuned, Finetune(), made.seed).key
    assert key not in [original(reported, Finetune(), s).key for s in wanted.seeds]
    assert tuned.test is tuned.sets.test is tuned.request.val


def test_forget_sets_that_differ_in_their_seed_alone_are_tuned_for_once() -> None:
    tables = [{"name": "random", "count": 20, "seed": "run"}, {"name": "random", "count": 10}]
    made = plan(forget=tables, seeds=[0, 1, 2])
    assert [len(problem.request.forget) for problem in made.problems] == [20, 10]
    assert made.titles == [
        "blobs · mlp · random (count 20)",
        "blobs · mlp · random (count 10)",
    ]


def test_the_test_set_does_not_matter(
    kept: Store, made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = plan()
    clean = stable(before, tune(before, kept))
    (reported,) = problems(spec())
    load = Blobs.load

    def poisoned(self: Blobs) -> Sets:
        sets = load(self)
        x = torch.cat([batch.x for batch in sets.test.batches(1000)])
        x[reported.parts.test] = 1e38
        return sets._replace(test=TensorData(x, sets.test.y))

    monkeypatch.setattr(Blobs, "load", poisoned)
    (again,) = problems(spec())
    assert again.digests["test"] != reported.digests["test"]
    after = plan()
    assert not made
    assert stable(after, tune(after, Store(tmp_path))) == clean
    assert len(made) == 3 + 2 + 2 * 8  # all of it, anew
    made.clear()
    tune(after, kept)
    assert not made


# What is searched


def method(name: str) -> Method:
    card = vars(registry.methods.find(name))["card"]
    return registry.methods.build({"name": name, **card.toy})


@pytest.mark.parametrize("name", registry.methods.known())
def test_both_ends_of_every_search_are_settings_that_the_method_takes(name: str) -> None:
    given = method(name)
    for setting, search in space(given).items():
        assert search.low <= at(given, setting) <= search.high
        for end in (search.low, search.high):
            new = changed(given, setting, float(end))
            assert at(new, setting) == pytest.approx(end)


def test_left_to_itself_the_rate_is_searched_over_two_decades_either_side() -> None:
    found = space(Finetune(descent=Descent(lr=0.03)))
    assert list(found) == ["descent.lr"]
    low, high, log = found["descent.lr"]
    assert (low, high, log) == (pytest.approx(3e-4), pytest.approx(3.0), True)


def declaring(monkeypatch: pytest.MonkeyPatch, **search: Search) -> Method:
    """Return a method whose card says what to search."""
    card = MethodCard(name="finetune", needs=(), norms="", null=None, search=search)
    monkeypatch.setattr(Finetune, "card", card)
    return Finetune()


def test_a_card_may_say_what_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"descent.batch_size": Search(2, 64, False), "descent.momentum": Search(0.95, 0.99)}
    given = declaring(monkeypatch, **names)
    found = space(given)
    assert found["descent.batch_size"] == (2, 128, False)
    assert found["descent.momentum"] == (0.9, 0.99, True)
    new = changed(changed(given, "descent.batch_size", 6.7), "descent.momentum", 0.91)
    assert new == Finetune(descent=Descent(epochs=5, batch_size=7, momentum=0.91))
    assert type(at(new, "descent.batch_size")) is int


def test_a_setting_that_is_no_number_cannot_be_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="expected a number at 'norms'"):
        space(declaring(monkeypatch, norms=Search(0, 1)))


def answer(objective: float | None, seconds: float = 1.0) -> Result:
    return Result(objective=objective, parts={}, values={}, seconds=seconds)


def searched(study: Study, objective: Callable[[float], float | None]) -> list[float]:
    """Run a study to its end and return the learning rates it asked for."""
    rates = []
    while study.ready:
        number, asked = study.ask()
        rates.append(at(asked, "descent.lr"))
        study.tell(number, answer(objective(rates[-1])))
    return rates


def away(rate: float) -> float:
    """Return the decades from 0.5: where the best rate is is known."""
    return abs(math.log10(rate / 0.5))


def test_the_best_rate_is_found_where_it_is_known() -> None:
    rates = searched(Study(Finetune(), seed=0, trials=25), away)
    assert rates[0] == 0.01
    assert away(min(rates, key=away)) < 0.15
    late = sorted(map(away, rates[15:]))
    assert late[len(late) // 2] < 0.5  # chance alone is 1 decade away on average, and more


def test_equal_seeds_ask_equally_and_others_do_not() -> None:
    first, second, third = (
        searched(Study(Finetune(), seed=seed, trials=8), away) for seed in (0, 0, 1)
    )
    assert first == second
    assert first[1:] != third[1:]


def test_trials_that_diverge_do_not_end_a_search() -> None:
    def off(rate: float) -> float | None:
        return abs(math.log10(rate / 1e-3)) if rate < 2e-3 else None

    found = [off(rate) for rate in searched(Study(Finetune(), seed=0, trials=25), off)]
    assert len(found) == 25
    assert found[0] is None
    assert min(value for value in found if value is not None) < 0.15


def test_what_is_asked_does_not_depend_on_when_results_come() -> None:
    def asked(ending: Callable[[list[int]], int]) -> list[float]:
        study, running, rates = Study(Finetune(), seed=0, trials=12, abreast=3), [], []
        while study.ready or running:
            while study.ready:
                number, method = study.ask()
                running.append(number)
                rates.append(at(method, "descent.lr"))
            number = ending(running)
            running.remove(number)
            study.tell(number, answer(away(rates[number])))
        return rates

    first, last = asked(min), asked(max)
    assert len(first) == 12
    assert first == last


def test_a_search_ends_with_its_seconds() -> None:
    study = Study(Finetune(), seed=0, trials=50, seconds=4.5)
    assert len(searched(study, away)) == 5
    study = Study(Finetune(), seed=0, trials=50, seconds=0.1)
    assert len(searched(study, away)) == 1


@pytest.mark.parametrize(
    ("tuning", "parts"),
    [
        (Tuning(), {"forget": 0.3, "retain": 0.1, "val": 0.2}),
        (Tuning(objective="validation"), {"retain": 0.1, "val": 0.2}),
        (Tuning(target={"forget": 0.7}), {"forget": 0.3}),
    ],
    ids=["gap", "validation", "target"],
)
def test_the_objective_by_hand(tuning: Tuning, parts: dict[str, float]) -> None:
    values = {"forget/accuracy": 0.4, "retain/accuracy": 1.0, "val/accuracy": 0.9}
    values |= {name.replace("accuracy", "loss"): 7.0 for name in values}
    references = {"forget": 0.7, "retain": 0.9, "val": 0.7}
    result = judged({"values": values, "seconds": 2.0}, references, tuning.sets)
    assert result.parts == pytest.approx(parts)
    assert result.objective == pytest.approx(sum(parts.values()) / len(parts))
    assert result.seconds == 2.0


# A whole search


def test_the_first_trial_is_the_method_as_given_and_the_best_is_no_worse(kept: Store) -> None:
    for tuned in tune(plan(), kept):
        first, best = tuned.trials[0], tuned.best
        assert first.method == tuned.method
        assert first.result.objective is not None
        assert best is not None
        assert best.result.objective <= first.result.objective
        assert best.result.objective == min(t.result.objective for t in tuned.trials)
        assert len({str(t.settings) for t in tuned.trials}) == 4
        assert tuned.seconds > 0


def test_the_reference_is_the_mean_of_retrained_models(kept: Store) -> None:
    made = plan()
    (problem,), tuned = made.problems, tune(made, kept)[0]
    assert made.controls == 2
    bench = Bench(kept)
    models = [
        restored(bench.result(stage), problem, Recipe.fresh) for stage in controls(problem, 2)
    ]
    for name in ("forget", "retain", "val"):
        data = getattr(problem.request, name)
        right = [
            float((model(data.take(torch.arange(len(data))).x).argmax(1) == data.y).double().mean())
            for model in models
        ]
        assert tuned.references[name] == pytest.approx(sum(right) / 2)


def test_a_second_search_computes_nothing(kept: Store, made: list[str]) -> None:
    tune(plan(), kept)
    assert not made
    tune(plan(Tuning(trials=5)), kept)
    assert made == [
        *("finetune, trial 4", "scores of finetune, seed 1000"),
        *("gradient_ascent, trial 4", "scores of gradient_ascent, seed 1000"),
    ]


def test_a_search_that_is_killed_goes_on_where_it_was(
    tmp_path: Path, kept: Store, made: list[str]
) -> None:
    def listen(event: Event) -> None:
        if event.number == 7:
            os.kill(os.getpid(), signal.SIGKILL)

    child = FORK.Process(target=lambda: tune(plan(), Store(tmp_path), listen=listen))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    wanted = plan()
    found = tune(wanted, Store(tmp_path))
    assert [what for what in made if "trial" in what] == [
        *("finetune, trial 2", "gradient_ascent, trial 2"),
        *("finetune, trial 3", "gradient_ascent, trial 3"),
    ]
    assert "original, seed 1000" not in made
    assert stable(wanted, found) == stable(wanted, tune(wanted, kept))


def test_a_method_that_diverges_now_and_then(tmp_path: Path) -> None:
    wild = {"name": "gradient_ascent", "descent": {"lr": 1.0, "epochs": 10}}
    made = plan(Tuning(trials=6), methods=[wild])
    found = tune(made, Store(tmp_path))
    told = [trial.result.why for trial in found[0].trials]
    assert len(told) == 6
    assert 0 < sum(why is not None for why in told) < 6
    assert found[0].best is not None
    assert f"6 trials, {sum(why is not None for why in told)} diverged" in fragment(made, found)
    assert [line["error"] for line in lines(made, found)] == told


def test_a_method_that_always_diverges(tmp_path: Path) -> None:
    wild = {"name": "gradient_ascent", "descent": {"lr": 1e30, "epochs": 4}}
    made = plan(Tuning(trials=2), methods=[wild])
    found = tune(made, Store(tmp_path))
    assert found[0].best is None
    assert found[0].seconds == 0
    text = fragment(made, found)
    assert "every trial diverged" in text
    assert parse(TABLE | tomllib.loads(text)).methods == (found[0].method,)


def test_retrained_models_that_diverge_leave_nothing_to_compare_with(tmp_path: Path) -> None:
    made = plan(training={"descent": {"lr": 1e38, "epochs": 6}})
    with pytest.raises(Diverged, match="a retrained model diverged"):
        tune(made, Store(tmp_path))


def test_a_target_needs_no_retrained_models(kept: Store, made: list[str]) -> None:
    wanted = plan(Tuning(trials=3, target={"forget": 0.2}), retrained=0)
    (found, _) = tune(wanted, kept)
    assert found.references == {"forget": 0.2}
    assert not any("retrain" in what for what in made)
    parts = [trial.result.parts for trial in found.trials]
    forget = [trial.result.values["forget"] for trial in found.trials]
    assert parts == [{"forget": pytest.approx(abs(value - 0.2))} for value in forget]


def test_pretraining_is_carried(tmp_path: Path, made: list[str]) -> None:
    pretraining = {"data": {"name": "blobs", "seed": 5}, "descent": {"epochs": 1}}
    tune(plan(Tuning(trials=1), ("finetune",), pretraining=pretraining), Store(tmp_path))
    assert made[:2] == ["pretraining", "original, seed 1000"]
    assert made.count("pretraining") == 1


def test_tasks_without_accuracy_are_compared_by_loss() -> None:
    values = {"forget/loss": 3.0, "retain/loss": 1.0, "val/loss": 2.0}
    references = {"forget": 2.0, "retain": 1.0, "val": 2.0}
    result = judged({"values": values, "seconds": 1.0}, references, ("forget", "retain", "val"))
    assert result.objective == pytest.approx(1 / 3)


# What is left behind


def test_the_fragment_can_be_pasted_into_the_spec(kept: Store) -> None:
    made = plan()
    found = tune(made, kept)
    text = fragment(made, found)
    pasted = parse(TABLE | tomllib.loads(text)).methods
    assert pasted == (*(tuned.best.method for tuned in found), *made.unsearched)
    assert "no test set was read" in text


@pytest.mark.parametrize("name", registry.methods.known())
def test_every_method_can_be_written_as_an_entry(name: str) -> None:
    given = method(name)
    (table,) = tomllib.loads(entry(given))["methods"]
    assert registry.methods.build(table) == given


@pytest.mark.parametrize(
    "value",
    [
        *(True, False, 3, -0.5, 1e-05, 1e22, math.inf, "a", 'quo"te\\\n\t', "é\x7f😀"),
        *([], [1, 2], [[0.5], ["x", {"a": 1}]], {"a": {"b c": [1]}, "d.e": ""}, {}),
    ],
)
def test_toml_is_read_as_it_was_written(value: Json) -> None:
    assert tomllib.loads(f"value = {toml(value)}") == {"value": value}


def test_there_is_a_line_for_every_trial(kept: Store) -> None:
    made = plan()
    written = [json.loads(json.dumps(line)) for line in lines(made, tune(made, kept))]
    assert [(line["given"]["name"], line["trial"]) for line in written] == [
        (name, number) for name in ("finetune", "gradient_ascent") for number in range(4)
    ]
    for line in written:
        assert line["method"]["descent"]["lr"] == line["settings"]["descent.lr"]
        assert line["objective"] == pytest.approx(sum(line["parts"].values()) / 3)
        rebuilt = registry.methods.build(line["method"])
        assert rebuilt.card.name == line["given"]["name"]


# Side by side


def test_several_processes_find_what_one_does(
    tmp_path: Path, kept: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "START", "fork")
    made, heard = plan(), []
    alone = stable(made, tune(made, kept))
    listen = heard.append
    assert stable(made, tune(made, Store(tmp_path), jobs=2, listen=listen)) == alone
    assert [event.number for event in heard] == list(range(1, 12))
    assert {event.kind for event in heard} == {"done"}


@pytest.mark.slow
def test_processes_that_start_anew_find_the_same(tmp_path: Path, kept: Store) -> None:
    made = plan()
    alone = stable(made, tune(made, kept))
    assert stable(made, tune(made, Store(tmp_path), jobs=2)) == alone


def test_one_search_may_have_several_trials_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[str]
) -> None:
    monkeypatch.setattr(workers, "START", "fork")
    wanted = plan(Tuning(trials=6), ("finetune",))
    (found,) = tune(wanted, Store(tmp_path), jobs=3)
    assert [trial.number for trial in found.trials] == list(range(6))
    tune(wanted, Store(tmp_path), jobs=3)
    assert not made  # and nothing in this process, which counts alone


def failing(number: int):
    def fulfil(order: str):
        if order == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError(f"{order} by {number}")

    return fulfil


@pytest.mark.parametrize(("order", "said"), [("raised", "raised by 0"), ("die", "worker process")])
def test_what_goes_wrong_in_a_process_is_told(
    order: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "START", "fork")
    with Processes(2, failing) as crew:
        crew.give("tag", order)
        with pytest.raises((ValueError, RuntimeError), match=said):
            crew.take()


# Bad input


@pytest.mark.parametrize(
    ("names", "changes", "said"),
    [
        (("finetun",), {}, "unknown method of this spec 'finetun'; did you mean 'finetune'"),
        (("salun",), {}, "unknown method of this spec 'salun'"),
        (("retrain",), {}, "retrain: no setting to search"),
        ((), {"methods": [{"name": "retrain"}]}, "retrain: no setting to search"),
        ((), {"retrained": 0}, "retrained = 0"),
        (
            (),
            {"methods": [{"name": "finetune", "descent": {"lr": 0.0}}]},
            "finetune: expected 'descent.lr' above 0",
        ),
    ],
)
def test_what_cannot_be_tuned_is_told(names: tuple[str, ...], changes: Json, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        plan(None, names, **changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"trials": 0}, "at least 1 trial, got 0"),
        ({"seconds": 0.0}, "seconds above 0"),
        ({"seed": -1}, "seed >= 0"),
        ({"target": {"test": 0.5}}, "unknown set 'test'"),
        ({"target": {"val": math.nan}}, "a target >= 0 for val"),
    ],
)
def test_settings_of_a_search_that_make_no_sense(settings: Json, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Tuning(**settings)


def test_optuna_is_asked_for_by_the_name_of_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"pip install 'expunge\[tune\]'"):
        plan()
