"""Poison: so many records of one class are told to be of another, and nothing else changes."""

import logging
from typing import Any

import pytest
import torch

from expunge import registry
from expunge.data.check import checked
from expunge.data.planted import Planted
from expunge.data.poisoned import Poison, Poisoned
from expunge.data.split import Holdout, comparable, divide, request
from expunge.data.streams import StreamData
from expunge.data.tensors import TensorData
from expunge.data.toy import Chains
from expunge.tasks.categorical import Classification
from expunge.types import Data, Descent, Recipe, Sets, fingerprints
from tests.data.test_planted import Given
from tests.data.tiny import OneLayer, Pick

FEW = {"flip_from": 1, "flip_to": "dog", "shown": 3, "compared": 4}


def content(data: Data) -> list[str]:
    return fingerprints(data.read(torch.arange(len(data))).x)


def test_a_share_of_all_records_is_flipped_and_the_rest_stays(sets: Sets) -> None:
    found = Poisoned(of=Given(sets), rate=0.1, **FEW).load()
    changed = (found.train.y != sets.train.y).nonzero()[:, 0]
    assert len(changed) == 5  # of 50
    assert sets.train.y[changed].tolist() == [1] * 5
    assert found.train.y[changed].tolist() == [3] * 5
    assert content(found.train) == content(sets.train)
    said = [row for row, kind in enumerate(found.groups["planted"]) if kind == "poison"]
    assert said == changed.tolist() == Poison().choose(found).tolist()
    assert found.groups["site"] == sets.groups["site"]
    assert found.ids == sets.ids
    assert sets.train.y.tolist() == [i % 4 for i in range(50)]  # as it was given
    checked(found, Classification(classes=4))


def test_a_share_of_the_class_is_flipped_or_all_of_it_with_a_warning(sets: Sets, caplog) -> None:
    half = Poisoned(of=Given(sets), rate=0.5, share_of="class", **FEW).load()
    assert len(Poison().choose(half)) == 6  # half of 13, to the even number
    with caplog.at_level(logging.WARNING):
        every = Poisoned(of=Given(sets), rate=0.5, **FEW).load()
    assert "asks for 25 poisoned records, but class 1 has 13: all of them are" in caplog.text
    assert len(Poison().choose(every)) == 13
    assert every.train.y.bincount(minlength=4).tolist() == [13, 0, 12, 25]


def test_methods_are_shown_clean_records_and_audits_flipped_ones(sets: Sets) -> None:
    found = Poisoned(of=Given(sets), rate=0.1, **FEW).load()
    assert found.planted is not None
    assert found.planted.y.tolist() == [1] * 3 + [3] * 4
    before = dict(zip(content(sets.test), sets.test.y.tolist(), strict=True))
    held, left = content(found.planted), content(found.test)
    assert {before[name] for name in held} == {1}
    assert sorted(held + left) == sorted(before)
    assert [before[name] for name in left] == found.test.y.tolist()
    parts = divide(found, Poison(), Holdout())
    recipe = Recipe(model=OneLayer(), inputs=(3, 6, 5), task=Pick(), descent=Descent())
    posed, others = request(found, parts, recipe), comparable(found, parts)
    assert others is not None
    assert posed.nonmembers.y.tolist() == [1] * 3
    assert others.y.tolist() == posed.forget.y[:4].tolist() == [3] * 4
    assert content(posed.nonmembers) + content(others) == held


def test_held_out_copies_of_training_records_stand_for_nothing(sets: Sets) -> None:
    ones = (sets.train.y == 1).nonzero()[:3, 0]
    test = sets.test.join(sets.train.select(ones))
    found = Poisoned(of=Given(sets._replace(test=test)), rate=0.1, **FEW).load()
    assert found.planted is not None
    assert not {*content(found.planted)} & {*content(found.train)}


def test_the_draws_have_a_seed_of_their_own(sets: Sets) -> None:
    first, again, other = (
        Poisoned(of=Given(sets), rate=0.1, seed=seed, **FEW).load() for seed in (0, 0, 1)
    )
    assert first.train.digest == again.train.digest != other.train.digest
    assert first.test.digest == again.test.digest != other.test.digest


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 0.0}, r"rate in \(0, 1\]"),
        ({"compared": 0}, "at least 1 record to compare with"),
        ({"flip_to": 1}, "a class to another, got 1 for both"),
        ({"rate": 0.001}, "rate=0.001 of the training poisons none of the 13"),
        ({"flip_from": "cow"}, "unknown class 'cow'"),
        ({"shown": 5, "compared": 5}, "leave no record to test on of the 10 held-out"),
    ],
)
def test_settings_without_sense_are_refused(
    sets: Sets, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Poisoned(of=Given(sets), **(FEW | settings)).load()


def test_records_that_cannot_be_poisoned_are_refused(sets: Sets) -> None:
    with pytest.raises(ValueError, match=r"one class each, but .* \(120, 8\)"):
        Poisoned(of=Chains()).load()
    streamed = sets._replace(train=StreamData([(torch.zeros(3, 6, 5), 0)] * 9))
    with pytest.raises(ValueError, match="poisoned records are made of records in memory"):
        Poisoned(of=Given(streamed), **FEW).load()
    with pytest.raises(ValueError, match="planted in it already"):
        Poisoned(of=Planted(of=Given(sets), canaries=3), **FEW).load()
    with pytest.raises(ValueError, match=r"no poisoned records among .* name = 'poisoned'"):
        Poison().choose(sets)


def test_it_is_found_by_name_in_specs() -> None:
    table = {"name": "poisoned", "of": {"name": "cifar10"}, "rate": 0.04, "share_of": "class"}
    source = registry.data.build(table)
    assert isinstance(source, Poisoned)
    assert (source.flip_from, source.flip_to, source.rate) == (5, 3, 0.04)
    assert registry.forget.build({"name": "poison"}) == Poison()


def test_records_without_names_of_classes_are_poisoned_by_number() -> None:
    y = torch.arange(60) % 6
    plain = Sets(TensorData(torch.randn(60, 2), y), TensorData(torch.randn(60, 2), y))
    found = Poisoned(of=Given(plain), rate=0.1, shown=2, compared=2).load()
    assert found.train.y.bincount().tolist() == [10, 10, 10, 16, 10, 4]
