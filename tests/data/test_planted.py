"""Planted records: copies are copies, canaries are wrong, and twins are treated alike."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from expunge import api, registry, stats
from expunge.bench import run as engine
from expunge.bench.check import stand_in
from expunge.bench.problem import Problem, Training, pose
from expunge.bench.spec import parse
from expunge.bench.store import Store
from expunge.cli import compact
from expunge.config import key, plain
from expunge.core.rng import generator
from expunge.data.bundled import Digits
from expunge.data.check import checked
from expunge.data.forget import ById, Forget
from expunge.data.planted import Canaries, Duplicates, Planted, noise, twins, wrong
from expunge.data.split import Holdout, Parts, comparable, divide
from expunge.data.streams import StreamData
from expunge.data.tensors import TensorData
from expunge.data.toy import Blobs, Chains
from expunge.models.mlp import MLP
from expunge.subject import WhiteBox
from expunge.types import Card, Data, Descent, Sets, Source, fingerprints
from tests.data.tiny import Pick


@dataclass(frozen=True, eq=False)
class Given(Source):
    """Sets at hand."""

    card = Card(name="given")

    sets: Sets

    def load(self) -> Sets:
        return self.sets


@dataclass(frozen=True, kw_only=True)
class Like(Forget):
    """Forget the first record, and compare with these."""

    card = Card(name="like")

    held: tuple[int, ...]

    def choose(self, sets: Sets) -> torch.Tensor:
        return torch.tensor([0])

    def alike(self, sets: Sets) -> torch.Tensor:
        return torch.tensor(self.held, dtype=torch.long)


def content(data: Data) -> list[str]:
    return fingerprints(data.read(torch.arange(len(data))).x)


def rows_of(sets: Sets, kind: str) -> list[int]:
    return [row for row, said in enumerate(sets.groups["planted"]) if said == kind]


def test_duplicates_are_copies_and_come_after_the_records_that_were_there(sets: Sets) -> None:
    found = Planted(of=Given(sets), duplicates=3, copies=4).load()
    assert len(found.train) == 50 + 3 * 3
    assert found.train.select(torch.arange(50)).digest == sets.train.digest
    assert found.train.index.tolist() == list(range(59))
    rows, names = rows_of(found, "duplicate"), content(found.train)
    assert len(rows) == 12
    assert sum(row < 50 for row in rows) == 3
    origins = [int(found.groups["copy_of"][row]) for row in rows]
    assert [origins.count(origin) for origin in sorted(set(origins))] == [4, 4, 4]
    for row, origin in zip(rows, origins, strict=True):
        assert names[row] == names[origin]
        assert found.train.y[row] == sets.train.y[origin]
        assert found.ids[row] == sets.ids[origin]
        assert found.groups["site"][row] == sets.groups["site"][origin]
    others = [row for row in range(59) if row not in rows]
    assert len({names[row] for row in range(59)}) == 50
    assert {found.groups["copy_of"][row] for row in others} == {""}
    assert found.test.digest == sets.test.digest
    assert found.planted is None


def test_canaries_have_wrong_labels_and_twins_of_the_same_true_and_told_class(sets: Sets) -> None:
    found = Planted(of=Given(sets), canaries=20).load()
    rows = rows_of(found, "canary")
    assert len(rows) == 20
    assert len(found.train) == 50
    assert content(found.train) == content(sets.train)
    changed = (found.train.y != sets.train.y).nonzero()[:, 0].tolist()
    assert changed == rows
    assert sets.train.y.tolist() == [i % 4 for i in range(50)]  # the given records stay as they are
    assert found.planted is not None
    assert found.planted.y.tolist() == found.train.y[rows].tolist()
    before = dict(zip(content(sets.test), sets.test.y.tolist(), strict=True))
    twin, left = content(found.planted), content(found.test)
    assert [before[name] for name in twin] == sets.train.y[rows].tolist()
    assert sorted(twin + left) == sorted(before)
    assert [before[name] for name in left] == found.test.y.tolist()
    checked(found, Pick())


def test_planted_records_are_looked_over_like_all_others(sets: Sets) -> None:
    found = Planted(of=Given(sets), canaries=3).load()
    beyond = TensorData(sets.test.select(torch.arange(3)).x, torch.tensor([0, 1, 4]))
    with pytest.raises(ValueError, match="1 planted labels are outside 0 to 3"):
        checked(found._replace(planted=beyond), Pick())


def test_noise_replaces_what_is_seen_and_leaves_the_class(sets: Sets) -> None:
    found = Planted(of=Given(sets), canaries=20, canary="noise").load()
    rows, names = rows_of(found, "canary"), content(found.train)
    before = content(sets.train)
    assert [row for row in range(50) if names[row] != before[row]] == rows
    assert found.train.y.tolist() == sets.train.y.tolist()
    assert found.planted is not None
    twin = content(found.planted)
    assert found.planted.y.tolist() == found.train.y[rows].tolist()
    assert len({*names, *twin, *content(found.test)}) == 50 + 20 + 20  # no noise is there twice
    assert set(content(found.test)) < set(content(sets.test))


def test_wrong_classes_are_all_others_and_equally_likely() -> None:
    told = wrong(torch.full((30_000,), 2), 4, generator(0))
    often = told.bincount(minlength=4)
    assert often[2] == 0
    assert ((often[[0, 1, 3]] - 10_000).abs() < 5 * (30_000 * 2 / 9) ** 0.5).all()
    assert wrong(torch.tensor([1, 0]), 2, generator(0)).tolist() == [0, 1]


def test_noise_of_bytes_is_uniform_and_of_reals_within_each_places_range() -> None:
    pixels = noise(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 200, generator(0))
    assert pixels.shape == (200, 3, 8, 8)
    often = pixels.flatten().long().bincount(minlength=256)
    assert ((often - 150).abs() < 6 * 150**0.5).all()
    like = torch.tensor([[0.0, -1.0, 7.0], [1.0, 3.0, 7.0]], dtype=torch.float64)
    reals = noise(like, 20_000, generator(0))
    assert reals.dtype == torch.float64
    assert (reals >= like[0]).all()
    assert (reals <= like[1]).all()
    assert reals.mean(0).tolist() == pytest.approx([0.5, 1.0, 7.0], abs=0.05)
    assert reals.var(0).tolist() == pytest.approx([1 / 12, 16 / 12, 0.0], rel=0.05)


def test_twins_are_of_the_same_class_and_taken_once() -> None:
    wanted, held = torch.tensor([2, 0, 2, 1]), torch.tensor([1, 2, 0, 0, 2, 2, 1])
    found = twins(wanted, held, generator(0))
    assert held[found].tolist() == wanted.tolist()
    assert len(set(found.tolist())) == 4
    drawn = {tuple(twins(wanted, held, generator(seed)).tolist()) for seed in range(20)}
    assert len(drawn) > 5
    with pytest.raises(ValueError, match=r"class 2 has 4 canaries and 3 held-out records; .*fewer"):
        twins(torch.full((4,), 2), held, generator(0))


@pytest.mark.parametrize("canary", ["label", "noise"])
def test_the_same_seed_plants_the_same_records(sets: Sets, canary) -> None:
    def load(**changes) -> Sets:
        settings = {"duplicates": 4, "copies": 3, "canaries": 6, "canary": canary} | changes
        return Planted(of=Given(sets), **settings).load()

    one, two, other = load(), load(), load(seed=1)
    for name in ("train", "test", "planted"):
        assert getattr(one, name).digest == getattr(two, name).digest
        assert getattr(one, name).digest != getattr(other, name).digest
    assert one.groups == two.groups
    assert not set(rows_of(one, "canary")) & set(rows_of(one, "duplicate"))
    alone, more = load(duplicates=0), load(canaries=9)
    assert rows_of(alone, "canary") == rows_of(one, "canary")
    assert rows_of(more, "duplicate") == rows_of(one, "duplicate")
    assert alone.planted is not None
    assert one.planted is not None
    assert alone.planted.digest == one.planted.digest


def test_streams_have_duplicates_too(sets: Sets) -> None:
    pairs = list(zip(sets.train.x, sets.train.y, strict=True))
    found = Planted(of=Given(sets._replace(train=StreamData(pairs))), duplicates=5, copies=2).load()
    whole = Planted(of=Given(sets), duplicates=5, copies=2).load()
    assert found.train.digest == whole.train.digest
    assert found.train.index.tolist() == list(range(55))


def test_sequences_have_duplicates_too() -> None:
    found = Planted(of=Chains(train=20), duplicates=2, copies=3).load()
    assert len(found.train) == 24
    assert len(set(content(found.train))) == 20


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "number of duplicates or canaries to plant, got 0 and 0"),
        ({"duplicates": -1, "canaries": 3}, "got -1 and 3"),
        ({"duplicates": 3, "copies": 1}, "at least 2 copies .* got 1"),
    ],
)
def test_settings_that_plant_nothing_are_refused(sets: Sets, settings, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Planted(of=Given(sets), **settings)


@pytest.mark.parametrize(
    ("changes", "settings", "said"),
    [
        ({}, {"canaries": 51}, "0 duplicates and 51 canaries among 50 training records; plant few"),
        ({}, {"duplicates": 30, "canaries": 21}, "30 duplicates and 21 canaries among 50"),
        ({}, {"canaries": 45}, r"class \d has 1\d canaries and 10 held-out records"),
        ({"classes": ("one",)}, {"canaries": 3}, "at least 2 classes, of which one is wrong"),
        ({"groups": {"planted": ("",) * 50}}, {"canaries": 3}, "given has records planted in it"),
        (
            {"train": StreamData([(torch.zeros(3), 1)] * 50)},
            {"canaries": 3},
            "records in memory, but these are streamed",
        ),
        (
            {"train": TensorData(torch.zeros(50, 3), torch.zeros(50, 3).long())},
            {"canaries": 3},
            r"of shape \(50, 3\)",
        ),
        (
            {"train": TensorData({"a": torch.zeros(50, 3)}, torch.arange(50) % 4)},
            {"canaries": 3, "canary": "noise"},
            "records of one tensor, got a; ",
        ),
        (
            {"train": TensorData(torch.zeros(50, 3).long(), torch.arange(50) % 4)},
            {"canaries": 3, "canary": "noise"},
            r"got records of torch.int64; plant canaries with canary = 'label'",
        ),
    ],
)
def test_what_cannot_be_planted_is_said(sets: Sets, changes, settings, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        Planted(of=Given(sets._replace(**changes)), **settings).load()
    assert "\n" not in str(caught.value)


def test_all_copies_are_forgotten_or_all_but_the_first_ones(sets: Sets) -> None:
    found = Planted(of=Given(sets), duplicates=3, copies=4, canaries=5).load()
    rows = rows_of(found, "duplicate")
    assert Duplicates().choose(found).tolist() == rows
    assert Canaries().choose(found).tolist() == rows_of(found, "canary")
    names = content(found.train)
    for kept in (1, 3):
        parts = divide(found, Duplicates(kept=kept), Holdout())
        assert len(parts.forget) == 3 * (4 - kept)
        stayed = [row for row in rows if row in parts.retain]
        assert len(stayed) == 3 * kept
        assert set(stayed) >= {row for row in rows if row < 50}  # the first ones
        assert {names[row] for row in stayed} == {names[row] for row in rows}
    assert divide(found, Duplicates(), Holdout()).alike is None


@pytest.mark.parametrize(
    ("forget", "settings", "said"),
    [
        (Duplicates(kept=4), {"duplicates": 3, "copies": 4}, "all 4 copies .* at most 3"),
        (Canaries(), {"duplicates": 3}, "no canaries among .* name = 'planted', .*`canaries` how"),
        (Duplicates(), {"canaries": 3}, "no duplicates among these training records"),
        (Canaries(), None, "no canaries among"),
    ],
)
def test_what_was_not_planted_cannot_be_forgotten(sets: Sets, forget, settings, said: str) -> None:
    found = Planted(of=Given(sets), **settings).load() if settings else sets
    with pytest.raises(ValueError, match=said):
        divide(found, forget, Holdout())


def test_a_negative_number_of_kept_copies_is_refused() -> None:
    with pytest.raises(ValueError, match="kept >= 0 copies, got -1"):
        Duplicates(kept=-1)


def test_canaries_are_compared_with_twins_that_are_in_no_other_part(
    sets: Sets, tmp_path: Path
) -> None:
    found = Planted(of=Given(sets), canaries=8).load()
    assert found.planted is not None
    parts = divide(found, Canaries(), Holdout())
    held = torch.cat([parts.val, parts.nonmembers, parts.test]).sort().values
    assert held.tolist() == list(range(32))
    assert parts.alike is not None
    assert parts.alike.tolist() == list(range(32, 40))
    twin = comparable(found, parts)
    assert twin is not None
    assert twin.digest == found.planted.digest
    parts.save(tmp_path / "split.safetensors")
    assert Parts.load(tmp_path / "split.safetensors").digest == parts.digest


def test_a_forget_set_may_be_compared_with_some_of_the_test_records_alone(sets: Sets) -> None:
    usual = divide(sets, ById(ids=("r0",)), Holdout())
    assert usual.alike is None
    assert comparable(sets, usual) is None
    names = ("retain", "forget", "val", "nonmembers", "test")
    assert usual.digest == key({name: getattr(usual, name).tolist() for name in names})
    parts = divide(sets, Like(held=(39, *range(30))), Holdout())
    assert parts.alike is not None
    expected = set(parts.test.tolist()) & {39, *range(30)}
    assert parts.alike.tolist() == sorted(expected)
    assert 0 < len(expected) < 31
    assert parts.digest != usual.digest
    found = comparable(sets, parts)
    assert found is not None
    assert torch.equal(found.index, parts.alike)
    shown = tuple(torch.cat([parts.val, parts.nonmembers]).tolist())
    with pytest.raises(ValueError, match=r"of 16 held-out .* 'like' forgets, none is left .*hold"):
        divide(sets, Like(held=shown), Holdout())


@pytest.fixture(scope="module")
def problem() -> Problem:
    """Pose the forgetting of canaries."""
    return posed(Canaries())


def posed(forget: Forget) -> Problem:
    source = Planted(of=Blobs(train=160, distance=4.0), canaries=40)
    training = Training(descent=Descent(lr=0.2, epochs=40, batch_size=32))
    return pose(source.load(), forget, MLP(hidden=(64,)), training, source=source)


def test_labs_and_cases_compare_canaries_with_their_twins(problem: Problem) -> None:
    case, twin = stand_in(problem), problem.sets.planted
    assert twin is not None
    assert case.nonmembers.digest == problem.lab(0).nonmembers.digest == twin.digest
    assert case.without(0).nonmembers.digest == twin.digest
    model = problem.recipe.drawn()
    (finding,) = api.audit(problem, model, model, audits=["accuracy"])
    assert finding.case.nonmembers.digest == twin.digest
    mix = [data.y.bincount(minlength=6).tolist() for data in (case.request.forget, twin)]
    assert mix[0] == mix[1]
    pool = problem.pool
    assert len(pool) == 160 + len(problem.test) + 40
    assert pool.data.y[pool.find(twin)].tolist() == twin.y.tolist()
    for shown in (problem.request.val, problem.request.nonmembers, problem.test):
        assert not set(content(shown)) & set(content(twin))


def test_what_is_compared_with_is_part_of_the_problems_key(problem: Problem) -> None:
    listed = posed(ById(ids=tuple(problem.parts.forget.tolist())))
    assert listed.parts.forget.tolist() == problem.parts.forget.tolist()
    assert "alike" not in listed.digests
    assert listed.key != problem.key
    assert listed.pool.digest == problem.pool.digest  # forget sets share shadows
    assert stand_in(listed).nonmembers.digest != stand_in(problem).nonmembers.digest


def test_only_twins_tell_that_a_retrained_model_has_not_seen_the_canaries(
    problem: Problem,
) -> None:
    forget, task = problem.request.forget, problem.recipe.task

    def found(model: WhiteBox, others: Data) -> float:
        margin = [-model.score(data, task, task.losses, 0) for data in (forget, others)]
        return float(stats.auc(*margin))

    original, retrained = WhiteBox(problem.train(0)), problem.retrained(0)
    twin = stand_in(problem).nonmembers
    assert found(original, twin) > 0.8
    assert not stats.auc_by_chance([(40, 40)]).excludes(found(retrained, twin))
    assert found(retrained, problem.test) < 0.2  # ordinary records are right where canaries err


def test_a_case_compares_with_the_test_set_unless_told_otherwise(problem: Problem) -> None:
    usual = dataclasses.replace(stand_in(problem), alike=None)
    assert set(content(usual.nonmembers)) <= set(content(problem.test))
    some = problem.test.select(torch.arange(10, len(problem.test)))
    fewer = dataclasses.replace(usual, alike=some).nonmembers
    assert set(content(fewer)) <= set(content(some))


def test_a_run_audits_canaries_beside_their_twins(tmp_path: Path) -> None:
    spec = parse(
        {
            "name": "canaries",
            "data": [
                {
                    "name": "planted",
                    "of": {"name": "blobs", "train": 160, "distance": 4.0},
                    "canaries": 20,
                }
            ],
            "models": [{"name": "mlp", "hidden": [16]}],
            "forget": [{"name": "canaries"}],
            "methods": [{"name": "retrain"}],
            "audits": [{"name": "accuracy"}],
            "training": {"descent": {"lr": 0.05, "epochs": 10, "batch_size": 32}},
            "retrained": 0,
        }
    )
    (record,) = engine.run(spec, tmp_path / "out", Store(tmp_path / "store"))
    answer = record["findings"][0]["unlearned"]
    assert record["data"]["settings"]["of"]["name"] == "blobs"
    assert answer["values"]["test"] > 0.8
    assert answer["null"]["value"] < 0.3  # where twins are
    assert answer["values"]["forget"] < 0.3


def test_it_is_found_by_name_in_specs_and_on_the_command_line() -> None:
    wanted = Planted(of=Digits(held=0.5), canaries=7, canary="noise")
    table = {"name": "planted", "of": {"name": "digits", "held": 0.5}, "canaries": 7}
    assert registry.data.build({**table, "canary": "noise"}) == wanted
    text = "planted,of.name=digits,of.held=0.5,canaries=7,canary=noise"
    assert registry.data.build(compact.source(text)) == wanted
    assert hash(wanted) != hash(dataclasses.replace(wanted, of=Digits()))
    assert plain(wanted)["of"]["name"] == "digits"
    assert registry.forget.build({"name": "duplicates", "kept": 1}) == Duplicates(kept=1)
    assert registry.forget.build({"name": "canaries"}) == Canaries()
