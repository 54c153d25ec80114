"""A split is complete, disjoint, repeatable, and says what is wrong with a bad request."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.data.split import (
    AtRandom,
    ById,
    Forget,
    Holdout,
    OfClass,
    OfGroup,
    Parts,
    comparable,
    divide,
    matched,
    request,
    unseen,
)
from expunge.data.strata import common, distinct, draw, thinned
from expunge.data.tensors import TensorData
from expunge.models.linear import Linear
from expunge.tasks.categorical import Classification
from expunge.types import Descent, Recipe, Sets


def labelled(y: list[int]) -> TensorData:
    return TensorData(torch.arange(len(y)).float()[:, None], torch.tensor(y))


@pytest.mark.parametrize(
    "forget",
    [
        AtRandom(count=7),
        AtRandom(fraction=0.3),
        OfClass(classes=("bee",)),
        OfClass(classes=(0, "dog"), fraction=0.5),
        OfGroup(column="site", values=("north",)),
        ById(ids=("r4", "r0", "r4")),
    ],
)
def test_parts_are_disjoint_and_complete(sets: Sets, forget: Forget, tmp_path: Path) -> None:
    parts = divide(sets, forget, Holdout())
    train = torch.cat([parts.retain, parts.forget])
    held = torch.cat([parts.val, parts.nonmembers, parts.test])
    assert train.sort().values.tolist() == list(range(50))
    assert held.sort().values.tolist() == list(range(40))
    parts.save(tmp_path / "split.safetensors")
    again = Parts.load(tmp_path / "split.safetensors")
    assert again.digest == parts.digest == divide(sets, forget, Holdout()).digest
    assert divide(sets, forget, Holdout(seed=1)).digest != parts.digest


def test_each_way_to_choose_chooses_what_it_says(sets: Sets, tmp_path: Path) -> None:
    y = sets.train.y
    assert len(AtRandom(count=7).choose(sets)) == 7
    assert len(AtRandom(fraction=0.3).choose(sets)) == 15
    assert len(AtRandom().choose(sets)) == 5
    assert not torch.equal(AtRandom().choose(sets), AtRandom(seed=1).choose(sets))
    assert OfClass(classes=("bee", 3)).choose(sets).tolist() == [
        i for i in range(50) if y[i] in (1, 3)
    ]
    half = OfClass(classes=("bee",), fraction=0.5).choose(sets)
    assert len(half) == round(0.5 * int((y == 1).sum()))
    assert set(y[half].tolist()) == {1}
    assert OfGroup(column="site", values=("north",)).choose(sets).tolist() == list(range(20))
    listed = tmp_path / "ids.txt"
    listed.write_text("r9\n\nr2 \n")
    assert ById(path=str(listed)).choose(sets).tolist() == [2, 9]
    assert ById(ids=(3, "1")).choose(sets._replace(ids=())).tolist() == [1, 3]


def test_an_id_that_several_records_carry_names_them_all(sets: Sets) -> None:
    twice = sets._replace(ids=("ann", "bob") * 25)
    assert ById(ids=("ann",)).choose(twice).tolist() == list(range(0, 50, 2))


def test_the_request_holds_what_the_parts_say_and_no_test_record(sets: Sets) -> None:
    from expunge.types import Recipe
    from tests.data.tiny import OneLayer, Pick

    parts = divide(sets, AtRandom(count=5), Holdout())
    recipe = Recipe(model=OneLayer(), inputs=(3, 6, 5), task=Pick(), descent=Descent())
    made = request(sets, parts, recipe)
    assert torch.equal(made.forget.index, parts.forget)
    assert torch.equal(made.retain.index, parts.retain)
    assert torch.equal(made.val.index, parts.val)
    assert torch.equal(made.nonmembers.index, parts.nonmembers)
    assert torch.equal(unseen(sets, parts).index, parts.test)


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.data())
def test_draws_keep_the_classes_proportions(y: list[int], data) -> None:
    count = data.draw(st.integers(0, len(y)))
    answers = torch.tensor(y)
    rows = draw(answers, count, torch.Generator().manual_seed(0))
    assert len(rows) == count == len(set(rows.tolist()))
    share = answers.bincount(minlength=5) * count / len(y)
    assert ((answers[rows].bincount(minlength=5) - share).abs() < 1 + 1e-5).all()


def test_a_scale_is_always_the_same_records_with_their_ids(sets: Sets) -> None:
    small = thinned(sets, 0.4)
    assert (len(small.train), len(small.test), len(small.ids)) == (20, 16, 20)
    assert small.train.digest == thinned(sets, 0.4).train.digest
    assert small.train.index.tolist() == list(range(20))
    place = int(small.ids[3][1:])
    assert torch.equal(
        small.train.read(torch.tensor([3])).x, sets.train.read(torch.tensor([place])).x
    )
    assert small.train.y.bincount().tolist() == [5, 5, 5, 5]
    tested = thinned(sets, 0.4, 1.0)
    assert torch.equal(tested.train.index, small.train.index)
    assert tested.train.digest == small.train.digest
    assert tested.test.digest == sets.test.digest
    assert len(thinned(sets, 1.0, 0.4).train) == 50
    with pytest.raises(ValueError, match=r"scale=0.001 leaves none of 40 test records"):
        thinned(sets, 1.0, 0.001)


def test_matching_gives_the_largest_set_of_the_same_proportions() -> None:
    like, candidates = labelled([0] * 10 + [1] * 30), labelled([0] * 50 + [1] * 15 + [2] * 9)
    found = matched(candidates, like, torch.Generator().manual_seed(0))
    assert found.y.bincount().tolist() == [5, 15]
    one = matched(candidates, labelled([2]), torch.Generator().manual_seed(0))
    assert one.y.tolist() == [2] * 9


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=40),
    st.lists(st.integers(0, 3), min_size=1, max_size=40),
)
def test_matched_proportions_are_within_half_a_record(like: list[int], there: list[int]) -> None:
    if not set(like) <= set(there):
        return
    found = matched(labelled(there), labelled(like), torch.Generator().manual_seed(0))
    goal, have = torch.tensor(like).bincount(minlength=4), torch.tensor(there).bincount(minlength=4)
    got = found.y.bincount(minlength=4)
    scale = min(have[k] / goal[k] for k in set(like))
    assert (got <= have).all()
    assert ((got - scale * goal).abs() <= 0.5 + 1e-5).all()


def test_as_many_of_each_class_are_taken_of_two_sets_and_none_that_one_lacks() -> None:
    one, other = labelled([0] * 10 + [1] * 3 + [2] * 5), labelled([0] * 4 + [1] * 9 + [3] * 2)
    found = common(one, other, torch.Generator().manual_seed(0))
    assert [part.y.bincount().tolist() for part in found] == [[4, 3]] * 2
    nothing = common(labelled([0]), labelled([1]), torch.Generator())
    assert [len(part) for part in nothing] == [0, 0]


def test_a_class_without_candidates_cannot_be_matched() -> None:
    with pytest.raises(ValueError, match=r"1 classes of the 3 records .* no candidate .*\[2\]"):
        matched(labelled([0, 1]), labelled([0, 1, 2]), torch.Generator())


@pytest.mark.parametrize(
    ("forget", "message"),
    [
        (ById(ids=("r1", "x1", "x2", "x3", "x4")), r"4 of 5 ids .* \(first: x1, x2, x3\); .* r0"),
        (ById(path="/no/such/file"), "cannot read ids from /no/such/file"),
        (OfClass(classes=("bea",)), "unknown class 'bea'; did you mean 'bee'"),
        (OfClass(classes=(9,)), "class number from 0 to 3, got 9"),
        (OfClass(classes=()), "forget set is empty"),
        (OfClass(classes=(0, 1, 2, 3)), "all of the 50 training records"),
        (OfGroup(column="sit", values=("x",)), "unknown group column 'sit'; did you mean 'site'"),
        (OfGroup(column="site", values=("nort",)), "value of 'site' 'nort'; did you mean 'north'"),
        (AtRandom(count=50), "between 1 and 49 of 50 training records, got 50"),
        (AtRandom(count=0), "between 1 and 49 of 50 training records, got 0"),
    ],
)
def test_what_cannot_be_forgotten_is_said(sets: Sets, forget: Forget, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        divide(sets, forget, Holdout())
    assert "\n" not in str(caught.value)


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="expected count or fraction, got both"):
        AtRandom(count=3, fraction=0.1)
    with pytest.raises(ValueError, match=r"in a file .* or in place"):
        ById(path="x", ids=("y",))
    with pytest.raises(ValueError, match=r"below 1 together, got 0.5 and 0.5"):
        Holdout(val=0.5, nonmembers=0.5)


def test_too_few_held_out_records_are_refused(sets: Sets) -> None:
    few = sets._replace(test=sets.test.select(torch.arange(2)))
    with pytest.raises(ValueError, match="2 held-out records leave none for val"):
        divide(few, AtRandom(count=3), Holdout())


def test_methods_are_shown_planted_records_and_audits_get_the_others(sets: Sets) -> None:
    class Strangers(AtRandom):
        def alike(self, sets: Sets) -> torch.Tensor:
            return 40 + torch.arange(6)

        def shown(self, sets: Sets) -> torch.Tensor:
            return 40 + torch.arange(sets.shown)

    x = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 3, 6, 5)
    planted = TensorData(x.contiguous(), torch.zeros(6).long())
    sets = sets._replace(planted=planted, shown=4)
    parts = divide(sets, Strangers(count=7), Holdout())
    assert parts.shown is not None
    recipe = Recipe(
        model=Linear(), inputs=(3, 6, 5), task=Classification(classes=4), descent=Descent()
    )
    posed = request(sets, parts, recipe)
    assert posed.nonmembers.read(torch.arange(4)).x[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    others = comparable(sets, parts)
    assert others is not None
    assert others.read(torch.arange(2)).x[:, 0, 0, 0].tolist() == [4, 5]
    ordinary = request(sets, divide(sets, AtRandom(count=7), Holdout()), recipe)
    assert len(ordinary.nonmembers) == len(parts.nonmembers)
    assert int(ordinary.nonmembers.y.max()) > 0


def test_distinct_records_are_the_first_of_each_content_and_answer() -> None:
    test = labelled([0, 1, 2, 3, 4, 5])
    x = torch.tensor([0, 1, 0, 0])[:, None].float()
    train = TensorData(x, torch.tensor([7, 1, 7, 8]))
    found = distinct(Sets(train, test, ids=("a", "b", "c", "d")))
    assert found.ids == ("a", "b", "d")  # c is a copy of a; d has another answer
    assert found.train.y.tolist() == [7, 1, 8]
    assert found.test.y.tolist() == [0, 2, 3, 4, 5]  # its second is b
