"""Shadow models: halves of a pool, margins by content, and what is refused."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from expunge.config import key
from expunge.core.descent import Diverged, train
from expunge.core.losses import confidence
from expunge.core.rng import derive
from expunge.data.memory import ByMemory, left_out, memorisation
from expunge.data.tensors import TensorData
from expunge.lab import Lab, Memory, Repeat
from expunge.models.given import Given
from expunge.pool import Kept, Pool, Shadows
from expunge.subject import Refused
from expunge.types import Sets


def points(count: int, classes: int = 3, seed: int = 0) -> TensorData:
    rng = torch.Generator().manual_seed(seed)
    return TensorData(torch.randn(count, 4, generator=rng), torch.arange(count) % classes)


@pytest.fixture
def lab(blobs) -> Lab:
    return Lab(request=blobs.request, test=blobs.test, seed=3)


def test_every_record_is_in_exactly_half_of_the_shadows():
    pool = Pool(points(41))
    halves = torch.stack([pool.half(number) for number in range(10)])
    assert (halves.sum(0) == 5).all()
    assert {int(row.sum()) for row in halves} == {20, 21}
    assert torch.equal(halves[4], ~halves[5])
    assert not torch.equal(halves[0], halves[2])


def test_copies_share_a_side():
    data = points(30)
    pool = Pool(data.join(data.select(torch.tensor([3, 3, 7]))))
    assert pool.copies[[30, 31, 32]].tolist() == [3, 3, 7]
    for number in range(6):
        half = pool.half(number)
        assert half[30] == half[31] == half[3]
        assert half[32] == half[7]


def test_records_are_found_by_content():
    data = points(30)
    pool = Pool(data)
    assert pool.find(data.select(torch.tensor([9, 2]))).tolist() == [9, 2]
    with pytest.raises(Refused, match=r"5 of 5 records .* not among the 30"):
        pool.find(points(5, seed=1))


def test_a_class_that_a_half_lacks_is_refused():
    y = torch.zeros(20, dtype=torch.long)
    y[7] = 1
    pool = Pool(TensorData(points(20).read(torch.arange(20)).x, y))
    with pytest.raises(Refused, match=r"has no record of 1 classes \(first: \[1\]\)"):
        [pool.half(number) for number in range(2)]


def test_shadows_are_what_the_recipe_gives_on_each_half(lab):
    shadows = lab.shadows(2)
    for number in range(2):
        half = lab.pool.half(number)
        data = lab.pool.data.select(half.nonzero()[:, 0])
        model = train(lab.request.recipe, data, derive(0, "shadow", number))
        batch = lab.pool.data.take(torch.arange(len(lab.pool)))
        with torch.no_grad():
            wanted = confidence(model(batch.x), batch.y)
        torch.testing.assert_close(shadows.margin[number], wanted)
        assert torch.equal(shadows.member[number], half)


def test_more_shadows_top_up_those_that_are_there(blobs):
    made = []

    def counted(orders):
        for order in orders:
            made.append(order.seed)
            yield train(*order)

    lab = Lab(request=blobs.request, test=blobs.test, seed=3, train=counted)
    few = lab.shadows(2)
    more = lab.shadows(4)
    assert len(made) == len(set(made)) == 4
    assert torch.equal(more.margin[:2], few.margin)
    # Another case of the same records and recipe shares them, whatever its seed.
    again = Lab(request=blobs.request, test=blobs.test, seed=8, train=counted, shelf=lab.shelf)
    assert torch.equal(again.shadows(4).margin, more.margin)
    assert len(made) == 4


def test_a_pool_that_was_killed_keeps_what_was_made(blobs):
    def fails(orders):
        for number, order in enumerate(orders):
            if number == 1:
                raise KeyboardInterrupt
            yield train(*order)

    shelf = Memory()
    lab = Lab(request=blobs.request, test=blobs.test, seed=3, train=fails, shelf=shelf)
    with pytest.raises(KeyboardInterrupt):
        lab.shadows(3)
    assert shelf.find(lab.about_shadow(0)) is not None
    assert shelf.find(lab.about_shadow(1)) is None


def test_another_recipe_shares_no_shadow(lab):
    recipe = lab.request.recipe
    slower = dataclasses.replace(recipe, descent=dataclasses.replace(recipe.descent, lr=0.003))
    other = dataclasses.replace(lab, request=dataclasses.replace(lab.request, recipe=slower))
    assert key(other.about_shadow(0)) != key(lab.about_shadow(0))


def test_shadows_of_another_recipe_or_pool_are_refused(lab, tmp_path):
    kept = Kept(lab.shadows(2), key(lab.request.recipe), lab.pool.digest)
    kept.save(tmp_path / "shadows.safetensors")
    kept = Kept.load(tmp_path / "shadows.safetensors")
    given = dataclasses.replace(lab, given=kept, shelf=Memory())
    assert torch.equal(given.shadows(2).margin, lab.shadows(2).margin)
    for wrong in (kept._replace(recipe="0" * 64), kept._replace(pool="0" * 64)):
        with pytest.raises(Refused, match="of another"):
            dataclasses.replace(lab, given=wrong).shadows(2)
    with pytest.raises(Refused, match="4 shadow models are needed, but only 2"):
        given.shadows(4)


def test_shadows_of_another_given_network_are_refused(lab):
    def of(network):
        recipe = dataclasses.replace(lab.request.recipe, model=Given(module=network))
        request = dataclasses.replace(lab.request, recipe=recipe)
        return dataclasses.replace(lab, request=request, shelf=Memory())

    (inputs,) = lab.request.forget.shape
    slim, wide, other = (
        of(nn.Sequential(nn.Linear(inputs, width), kind(), nn.Linear(width, 6)))
        for width, kind in ((4, nn.ReLU), (8, nn.ReLU), (4, nn.Tanh))
    )
    kept = Kept(slim.shadows(2), key(slim.request.recipe), slim.pool.digest)
    again = of(copy.deepcopy(slim.request.recipe.model.module.apply(redrawn)))  # of other weights
    assert dataclasses.replace(again, given=kept).shadows(2).margin.shape[0] == 2
    for wrong in (wide, other):
        with pytest.raises(Refused, match="of another recipe"):
            dataclasses.replace(wrong, given=kept).shadows(2)


def redrawn(layer):
    if isinstance(layer, nn.Linear):
        layer.reset_parameters()


def test_a_target_of_unknown_recipe_is_refused(lab):
    unknown = dataclasses.replace(lab, known=False)
    for make in (unknown.shadows, unknown.retrained):
        with pytest.raises(Refused, match="retrained ones must be trained exactly as the target"):
            make(2)
    assert unknown.retrained(0) == ()


def made_up(models: int = 8, records: int = 400, gain: float = 2.0) -> Shadows:
    rng = torch.Generator().manual_seed(0)
    pool = Pool(points(records))
    member = torch.stack([pool.half(number) for number in range(models)])
    return Shadows(torch.randn(models, records, generator=rng) + gain * member, member)


def test_a_stale_shadow_is_caught():
    shadows = made_up()
    assert shadows.checked() is shadows
    margin = shadows.margin.clone()
    margin[5] = margin[5].flip(0)  # answers of a model that had another half
    with pytest.raises(Refused, match="shadow model 5 tells its half"):
        Shadows(margin, shadows.member).checked()


def test_a_shadow_whose_half_is_the_other_is_caught():
    shadows = made_up()
    member = shadows.member.clone()
    member[5] = ~member[5]
    with pytest.raises(Refused, match=r"shadow model 5 tells its half .* AUC of 0\.0"):
        Shadows(shadows.margin, member).checked()
    with pytest.raises(Refused, match=r"8 shadow models .* `member` is probably swapped"):
        Shadows(shadows.margin, ~shadows.member).checked()


@pytest.mark.parametrize("gain", [0.0, 0.1, 0.2, 0.3])
def test_shadows_that_remember_little_are_not_called_stale(gain):
    shadows = made_up(models=32, gain=gain)
    assert shadows.checked() is shadows


def test_answers_that_are_not_finite_are_refused():
    shadows = made_up()
    margin = shadows.margin.clone()
    margin[2, 7] = torch.inf
    with pytest.raises(Refused, match="shadow model 2 answers 1 of 400"):
        Shadows(margin, shadows.member).checked()


def test_an_unlearned_shadow_forgets_its_part_and_keeps_the_rest(blobs):
    seen = []

    def keep_all(request, whole, number):
        seen.append((request, whole, number))
        return train(request.recipe, whole, number)

    again = Repeat("x", lambda _: blobs.original, keep_all, "nothing")
    lab = Lab(request=blobs.request, test=blobs.test, seed=3, unlearn=again)
    shadows = lab.unlearned_shadows(2)
    asked = len(blobs.request.forget) + len(lab.nonmembers)
    assert shadows.margin.shape == shadows.member.shape == (2, asked)
    for (request, whole, number), member in zip(seen, shadows.member, strict=True):
        half = lab.pool.half(number)
        assert len(request.forget) == int(member.sum())
        assert len(request.forget) + len(request.retain) == len(whole) == int(half.sum())
        there = lab.pool.find(request.forget)
        assert half[there].all()
        kept = set(lab.pool.find(request.retain).tolist())
        wanted = lab.pool.find(blobs.request.forget.join(lab.nonmembers))
        assert not kept.intersection(wanted.tolist())
        assert set(there.tolist()) == set(wanted[member].tolist())


def test_memorisation_is_the_gain_from_having_seen_a_record():
    margin = torch.tensor([[2.0, 0.0], [0.0, 0.0], [1.0, -1.0], [-1.0, 1.0]])
    member = torch.tensor([[True, False], [False, True], [True, True], [False, False]])
    sure = margin.double().sigmoid()
    gain = memorisation(Shadows(margin, member))
    without = left_out(Shadows(margin, member))
    torch.testing.assert_close(without, (sure[[1, 0]][:, [0, 1]].diag() + sure[3]) / 2)
    in_first = (sure[0, 0] + sure[2, 0]) / 2
    torch.testing.assert_close(gain[0], in_first - without[0])


def test_the_most_memorised_are_forgotten_and_compared_with_their_like():
    train_set, test_set = points(60), points(30, seed=1)
    pool = Pool(train_set.join(test_set.select(torch.arange(10, 30))))
    member = torch.stack([pool.half(number) for number in range(4)])
    gain = torch.zeros(80)
    gain[[5, 11, 17]] = 6.0  # memorised
    gain[[61, 64, 70]] = 7.0  # would be, of class 2; records of another are second to none
    shadows = Shadows(member * gain - 3.0, member)
    sets = Sets(train_set, test_set)
    graded = ByMemory(count=3, shadows=4).seeing(shadows, torch.arange(10, 30))
    assert graded.choose(sets).tolist() == [5, 11, 17]
    assert train_set.y[[5, 11, 17]].tolist() == test_set.y[[11, 14, 20]].tolist() == [2, 2, 2]
    assert graded.alike(sets).tolist() == [11, 14, 20]
    least = ByMemory(grade="least", count=57, shadows=4).seeing(shadows, torch.arange(10, 30))
    assert not {5, 11, 17}.intersection(least.choose(sets).tolist())
    assert key(graded) == key(ByMemory(count=3, shadows=4))
    with pytest.raises(ValueError, match="chosen by shadow models"):
        ByMemory(count=3).choose(sets)
    with pytest.raises(ValueError, match="between 1 and 59"):
        ByMemory(count=60).seeing(shadows, torch.arange(10, 30)).choose(sets)


def test_a_shadow_that_diverges_as_it_unlearns_is_left_out(blobs):
    def fails_once(request, whole, number):
        if number == 1:
            raise Diverged("the loss was nan")
        return train(request.recipe, whole, number)

    def lab(shadow):
        again = Repeat("x", lambda _: blobs.original, shadow, "nothing")
        return Lab(request=blobs.request, test=blobs.test, seed=3, unlearn=again)

    shadows = lab(fails_once).unlearned_shadows(6)
    assert len(shadows.margin) == len(shadows.member) == 5
    whole = lab(lambda request, whole, number: train(request.recipe, whole, number))
    kept = whole.unlearned_shadows(6)
    assert torch.equal(shadows.margin, kept.margin[[0, 2, 3, 4, 5]])
    assert torch.equal(shadows.member, kept.member[[0, 2, 3, 4, 5]])

    def fails(*_):
        raise Diverged("the loss was nan")

    for shadow, count, lost in ((fails, 6, 6), (fails_once, 4, 1)):
        with pytest.raises(Diverged, match=f"{lost} of {count} shadow models"):
            lab(shadow).unlearned_shadows(count)
