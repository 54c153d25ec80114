"""Outsiders: from where they should be, labelled as said, and held out alike."""

from typing import Any

import pytest
import torch

from expunge import registry
from expunge.config import plain
from expunge.core.rng import generator
from expunge.data.check import checked
from expunge.data.outsiders import OfOutsiders, Outsiders, evenly
from expunge.data.planted import Planted
from expunge.data.split import AtRandom, Holdout, comparable, divide, request
from expunge.data.streams import StreamData
from expunge.data.tensors import TensorData
from expunge.data.toy import Blobs, Chains
from expunge.tasks.categorical import Classification
from expunge.types import Data, Descent, Recipe, Sets, fingerprints
from tests.data.test_planted import Given
from tests.data.test_words import TEST, TRAIN, by_frequency, reviews
from tests.data.tiny import OneLayer, Pick

FEW = {"count": 12, "shown": 8, "compared": 16}


def content(data: Data) -> list[str]:
    return fingerprints(data.read(torch.arange(len(data))).x)


def pixels(n: int, seed: int, shape: tuple[int, ...] = (3, 6, 5)) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=rng)


def strange(names: tuple[str, ...] = (), n: int = 40, classes: int = 5) -> Sets:
    """Return other pictures, `n` to train on and half as many held out."""
    y = torch.arange(n) % classes
    return Sets(TensorData(pixels(n, 7), y), TensorData(pixels(n // 2, 8), y[: n // 2]), names)


def labelled(data: Data) -> dict[str, int]:
    return dict(zip(content(data), data.y.tolist(), strict=True))


def everything(*parts: Data) -> dict[str, int]:
    return {name: y for part in parts for name, y in labelled(part).items()}


def test_outsiders_come_after_all_others_and_are_held_out_alike(sets: Sets) -> None:
    theirs = strange()
    found = Outsiders(of=Given(sets), others=Given(theirs), **FEW).load()
    assert len(found.train) == 62
    assert found.train.select(torch.arange(50)).digest == sets.train.digest
    assert found.train.index.tolist() == list(range(62))
    assert found.test.digest == sets.test.digest
    assert found.groups["planted"] == ("",) * 50 + ("outsider",) * 12
    assert found.groups["site"] == (*sets.groups["site"], *[""] * 12)
    assert found.ids[50:52] == ("outsider 0", "outsider 1")
    assert found.planted is not None
    assert found.shown == 8
    members, held = content(found.train)[50:], content(found.planted)
    assert len({*members, *held}) == 36
    assert {*members, *held} < {*content(theirs.train), *content(theirs.test)}
    labels = [found.train.y[50:], *found.planted.y.split([8, 16])]
    assert [y.bincount().tolist() for y in labels] == [[3] * 4, [2] * 4, [4] * 4]
    checked(found, Classification(classes=4))


def test_methods_are_shown_some_and_audits_compare_with_the_others(sets: Sets) -> None:
    found = Outsiders(of=Given(sets), others=Given(strange()), **FEW).load()
    parts = divide(found, OfOutsiders(), Holdout())
    assert parts.forget.tolist() == list(range(50, 62))
    recipe = Recipe(model=OneLayer(), inputs=(3, 6, 5), task=Pick(), descent=Descent())
    posed = request(found, parts, recipe)
    others = comparable(found, parts)
    assert others is not None
    assert found.planted is not None
    held = content(found.planted)
    assert content(posed.nonmembers) == held[:8]
    assert content(others) == held[8:]
    assert divide(found, OfOutsiders(count=5), Holdout()).forget.tolist() == list(range(50, 55))
    with pytest.raises(ValueError, match="at most the 12 outsiders there are, got 13"):
        OfOutsiders(count=13).choose(found)
    with pytest.raises(ValueError, match=r"no outsiders among .* name = 'outsiders'"):
        OfOutsiders().choose(sets)
    unshown = Outsiders(of=Given(sets), others=Given(strange()), **(FEW | {"shown": 0})).load()
    parts = divide(unshown, OfOutsiders(), Holdout())
    assert parts.shown is None
    ordinary = request(unshown, parts, recipe)
    assert set(content(ordinary.nonmembers)) < set(content(sets.test))


def test_labels_are_wrong_by_the_classes_names_not_by_their_numbers(sets: Sets) -> None:
    # Of the others, 0 and 3 are of a class that the task has by the same name, 1 by another.
    theirs = strange(("dog", "insect", "monkey", "ant", "lion"), 600)
    same = (("insect", "bee"),)
    numbers = {"count": 300, "shown": 0, "compared": 300, "labels": "wrong", "same": same}
    found = Outsiders(of=Given(sets), others=Given(theirs), **numbers).load()
    assert found.planted is not None
    told = everything(found.train.select(50 + torch.arange(300)), found.planted)
    true = everything(theirs.train, theirs.test)
    said: dict[int, set[int]] = {}
    for name, label in told.items():
        said.setdefault(true[name], set()).add(label)
    assert said == {0: {0, 1, 2}, 1: {0, 2, 3}, 2: {0, 1, 2, 3}, 3: {1, 2, 3}, 4: {0, 1, 2, 3}}


def test_labels_of_their_own_are_by_name_or_else_by_number(sets: Sets) -> None:
    numbered = strange(("0", "1"), classes=2)
    own = {"labels": "own", **FEW}
    found = Outsiders(of=Given(sets), others=Given(numbered), **own).load()
    assert found.planted is not None
    true = everything(numbered.train, numbered.test)
    told = everything(found.train.select(50 + torch.arange(12)), found.planted)
    assert all(true[name] == label for name, label in told.items())
    named = strange(("cat", "ant"), classes=2)
    found = Outsiders(of=Given(sets), others=Given(named), **own).load()
    true = everything(named.train, named.test)
    told = everything(found.train.select(50 + torch.arange(12)))
    assert all({0: 2, 1: 0}[true[name]] == label for name, label in told.items())
    with pytest.raises(ValueError, match=r"1 classes of the outsiders are none .* \(lion\)"):
        Outsiders(of=Given(sets), others=Given(strange(("cat", "lion"), classes=2)), **own).load()
    with pytest.raises(ValueError, match=r"none of the task's \(4\)"):
        Outsiders(of=Given(sets), others=Given(strange()), **own).load()
    same = (("tiger", "cat"),)
    with pytest.raises(ValueError, match="unknown class 'tiger'"):
        Outsiders(of=Given(sets), others=Given(named), same=same, **own).load()


def test_held_out_records_of_the_task_get_one_wrong_class_and_leave_the_test_set(
    sets: Sets,
) -> None:
    found = Outsiders(of=Given(sets), **(FEW | {"compared": 10})).load()
    assert found.planted is not None
    told = everything(found.train.select(50 + torch.arange(12)), found.planted)
    true = everything(sets.test)
    assert len(told) == 30
    assert all(true[name] != label for name, label in told.items())
    left = everything(found.test)
    assert len(left) == 10
    assert not left.keys() & told.keys()
    assert all(true[name] == label for name, label in left.items())
    checked(found, Classification(classes=4))
    with pytest.raises(ValueError, match=r"expected 41 outsiders .* but there are 40"):
        Outsiders(of=Given(sets), count=20, shown=10, compared=11).load()
    with pytest.raises(ValueError, match="all 40 held-out records would be outsiders"):
        Outsiders(of=Given(sets), count=20, shown=10, compared=10).load()


def test_held_out_classes_leave_the_task_and_others_are_numbered_anew() -> None:
    whole = Blobs(classes=6, train=240, seed=3)
    sets = whole.load()
    found = Outsiders(of=whole, classes=("blob 1", 4), count=40, shown=30, compared=20).load()
    assert found.planted is not None
    assert found.classes == ("blob 0", "blob 2", "blob 3", "blob 5")
    before = everything(sets.train, sets.test)
    ordinary = everything(found.train.select(torch.arange(160)), found.test)
    assert all({0: 0, 2: 1, 3: 2, 5: 3}[before[name]] == y for name, y in ordinary.items())
    assert len(ordinary) == 240
    strangers = everything(found.train.select(160 + torch.arange(40)), found.planted)
    assert len(strangers) == 90
    assert {before[name] for name in strangers} == {1, 4}
    assert found.train.y[160:].bincount().tolist() == [10] * 4
    # Neither half holds records of one of the sources alone.
    held = set(content(sets.test))
    assert 0 < len(held & set(content(found.planted))) < 50
    checked(found, Classification(classes=4))


def test_texts_are_coded_by_the_targets_vocabulary(tmp_path) -> None:
    reviews(tmp_path, "imdb", TRAIN, TEST)
    others = ["good tea", "bad camera", "a zebra", "the end", "cast away", "film too"]
    reviews(tmp_path, "customer_reviews", others, ["was bad", "too good"])
    root = str(tmp_path)
    of = {"name": "imdb", "root": root, "form": "tokens", "vocabulary": 12, "length": 4}
    table = {"name": "outsiders", "of": of, "labels": "own", "count": 3, "shown": 2, "compared": 3}
    table["others"] = {"name": "customer_reviews", "root": root}
    found = registry.data.build(table).load()
    words = by_frequency(TRAIN, 12)
    spoken = {
        tuple(words.index(w) if w in words else 1 for w in text.split()): row % 2
        for texts in (others, ["was bad", "too good"])
        for row, text in enumerate(texts)
    }
    assert found.planted is not None
    rows = torch.cat(
        [found.train.read(4 + torch.arange(3)).x, found.planted.read(torch.arange(5)).x]
    )
    labels = [*found.train.y[4:].tolist(), *found.planted.y.tolist()]
    assert rows.shape == (8, 4)
    assert not rows[:, 2:].any()
    assert {tuple(row[:2]): y for row, y in zip(rows.tolist(), labels, strict=True)} == spoken


def test_no_content_is_there_twice_nor_among_the_training_records(sets: Sets) -> None:
    theirs, mine = strange(), sets.train.read(torch.arange(20)).x
    x = torch.cat(
        [theirs.train.read(torch.arange(40)).x, mine, theirs.train.read(torch.arange(9)).x]
    )
    doubled = Sets(TensorData(x, torch.zeros(69).long()), theirs.test)
    numbers = {"count": 20, "shown": 20, "compared": 20}
    found = Outsiders(of=Given(sets), others=Given(doubled), **numbers).load()
    assert found.planted is not None
    every = content(found.train) + content(found.planted)
    assert len(set(every)) == len(every) == 50 + 60
    with pytest.raises(ValueError, match=r"expected 61 outsiders .* but there are 60 of different"):
        Outsiders(of=Given(sets), others=Given(doubled), **(numbers | {"count": 21})).load()


def test_the_draw_has_a_seed_of_its_own(sets: Sets) -> None:
    first, again, other = (
        Outsiders(of=Given(sets), others=Given(strange()), seed=seed, **FEW).load()
        for seed in (0, 0, 1)
    )
    assert first.train.digest == again.train.digest != other.train.digest
    same = divide(first, OfOutsiders(), Holdout(seed=5))
    assert same.forget.tolist() == list(range(50, 62))


def test_classes_are_dealt_evenly_and_in_no_order() -> None:
    order = torch.tensor([2, 0, 1])
    dealt = evenly(3001, order, generator(0))
    assert dealt.bincount().tolist() == [1000, 1000, 1001]
    assert dealt[:30].tolist() != (order.repeat(10)).tolist()
    assert len(evenly(0, order, generator(0))) == 0


def test_records_trained_on_are_refused_as_held_out(sets: Sets) -> None:
    found = Outsiders(of=Given(sets), others=Given(strange()), **FEW).load()
    assert found.planted is not None
    leaked = found.planted.join(found.train.select(torch.arange(49, 52)))
    with pytest.raises(ValueError, match="3 of 27 planted records are among the 62 training"):
        checked(found._replace(planted=leaked), Classification(classes=4))
    # The same picture with another answer is another record.
    other = TensorData(sets.train.read(torch.arange(3)).x, (sets.train.y[:3] + 1) % 4)
    checked(found._replace(planted=other), Classification(classes=4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "at least 1 outsider to train on"),
        ({"others": Blobs(), "classes": (1,)}, "got both; drop one"),
        ({"same": (("a", "b"),)}, "of which there are none"),
        ({"classes": (1,), "labels": "wrong"}, "no wrong class in it"),
        ({"labels": "own"}, "no outsiders; take labels = 'wrong'"),
    ],
)
def test_settings_without_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Outsiders(of=Blobs(), **settings)


def test_records_that_cannot_be_put_together_are_refused(sets: Sets) -> None:
    bigger = Sets(TensorData(pixels(40, 1, (3, 8, 8)), torch.zeros(40).long()), sets.test)
    bigger = bigger._replace(test=bigger.train.select(torch.arange(5)))
    with pytest.raises(ValueError, match=r"\(3, 6, 5\) .* \(3, 8, 8\) .* images with `side`"):
        Outsiders(of=Given(sets), others=Given(bigger), **FEW).load()
    with pytest.raises(ValueError, match=r"one class each, but .* \(120, 8\)"):
        Outsiders(of=Given(sets), others=Chains(), **FEW).load()
    streamed = sets._replace(train=StreamData([(torch.zeros(3, 6, 5), 0)] * 9))
    with pytest.raises(ValueError, match="outsiders are made of records in memory"):
        Outsiders(of=Given(streamed), others=Given(strange()), **FEW).load()
    with pytest.raises(ValueError, match="planted in it already"):
        Outsiders(of=Planted(of=Given(sets), canaries=3), others=Given(strange()), **FEW).load()
    with pytest.raises(ValueError, match=r"expected 36 outsiders .* but there are 21"):
        Outsiders(of=Given(sets), others=Given(strange(n=14)), **FEW).load()


def test_it_is_found_by_name_in_specs() -> None:
    table = {
        "name": "outsiders",
        "of": {"name": "cifar10"},
        "others": {"name": "stl10", "side": 32},
        "labels": "wrong",
        "same": [["car", "automobile"]],
    }
    source = registry.data.build(table)
    assert isinstance(source, Outsiders)
    assert source.same == (("car", "automobile"),)
    assert {source: 1}[registry.data.build(table)] == 1
    assert plain(source)["others"]["side"] == 32
    assert registry.forget.build({"name": "outsiders", "count": 50}) == OfOutsiders(count=50)


def test_an_ordinary_forget_set_of_such_data_is_audited_as_before(sets: Sets) -> None:
    found = Outsiders(of=Given(sets), others=Given(strange()), **FEW).load()
    parts = divide(found, AtRandom(count=5), Holdout())
    assert parts.shown is None
    assert comparable(found, parts) is None
