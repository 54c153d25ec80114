"""What a pass may have of its own, and rates by epoch, against torch's optimisers by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F

from expunge.core.cost import metered
from expunge.core.descent import Pass, covered, descend
from expunge.core.rng import generator
from expunge.types import Descent, steps_of


def teach(blobs, model, data, **own):
    loss = blobs.request.task.loss
    return Pass(data, lambda batch: loss(model, batch), "freeze", **own)


def run(blobs, model, rounds, descent):
    descend(model, rounds, descent, blobs.request.recipe, generator(0))


def whole(data):
    return data.take(torch.arange(len(data)))


def assert_same(ours, theirs):
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def step(optimizer, model, data):
    x, y, _ = whole(data)
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


@pytest.mark.parametrize("epochs", range(1, 10))
def test_a_triangle_by_epoch_climbs_and_falls_as_the_challenges_code_does(blobs, epochs):
    descent = Descent(lr=0.8, epochs=epochs, batch_size=30, schedule="triangle", stride="epoch")
    seen, model = [], copy.deepcopy(blobs.original)
    one = teach(blobs, model, blobs.request.retain, after=seen.append)
    run(blobs, model, [[one]] * epochs, descent)
    top, end = (epochs + 1) // 2, epochs + 1
    heights = [k / top if k <= top else (end - k) / (end - top) for k in range(1, end)]
    steps = blobs.request.retain.steps(30)
    assert seen == pytest.approx([0.8 * height for height in heights for _ in range(steps)])


def test_a_cosine_by_epoch_is_torchs(blobs):
    descent = Descent(lr=0.1, epochs=4, batch_size=30, schedule="cosine", stride="epoch")
    seen, model = [], copy.deepcopy(blobs.original)
    one = teach(blobs, model, blobs.request.retain, after=seen.append)
    run(blobs, model, [[one]] * 4, descent)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
    expected = []
    for _ in range(4):
        expected += schedule.get_last_lr() * blobs.request.retain.steps(30)
        optimizer.step()
        schedule.step()
    assert seen == pytest.approx(expected)


def test_passes_with_settings_of_their_own_have_optimisers_of_their_own(blobs):
    retain, forget = blobs.request.retain, blobs.request.forget
    shared = {"batch_size": 10_000, "weight_decay": 0.1}
    slow = Descent(lr=0.02, **shared)
    fast = Descent(lr=0.1, momentum=0.5, schedule="linear", **shared)
    ours, theirs = copy.deepcopy(blobs.original), copy.deepcopy(blobs.original)
    passes = [teach(blobs, ours, forget, descent=fast), teach(blobs, ours, retain)]
    run(blobs, ours, [passes] * 4, slow)
    first = torch.optim.SGD(theirs.parameters(), 0.1, 0.5, weight_decay=0.1)
    second = torch.optim.SGD(theirs.parameters(), 0.02, 0.9, weight_decay=0.1)
    for number in range(4):
        first.param_groups[0]["lr"] = 0.1 * (1 - number / 4)
        step(first, theirs, forget)
        step(second, theirs, retain)
    assert_same(ours, theirs)


def test_passes_of_equal_settings_share_one_optimiser(blobs):
    retain, forget = blobs.request.retain, blobs.request.forget
    descent = Descent(lr=0.05, batch_size=10_000)
    ours, theirs = copy.deepcopy(blobs.original), copy.deepcopy(blobs.original)
    passes = [teach(blobs, ours, forget, descent=Descent(**vars(descent)))]
    run(blobs, ours, [[*passes, teach(blobs, ours, retain)]] * 2, descent)
    optimizer = torch.optim.SGD(theirs.parameters(), 0.05, 0.9)
    for data in (forget, retain) * 2:
        step(optimizer, theirs, data)
    assert_same(ours, theirs)


def test_a_pass_is_told_its_beginning_and_each_step(blobs):
    told, model = [], copy.deepcopy(blobs.original)
    watched = teach(
        blobs,
        model,
        blobs.request.retain,
        before=lambda: told.append("before"),
        after=lambda rate: told.append(rate),
    )
    run(blobs, model, [[teach(blobs, model, blobs.request.forget), watched]] * 2, Descent(lr=0.01))
    steps = blobs.request.retain.steps(Descent().batch_size)
    assert told == (["before"] + [0.01] * steps) * 2


def test_what_is_done_before_a_pass_is_what_its_steps_start_from(blobs):
    ours, theirs = copy.deepcopy(blobs.original), copy.deepcopy(blobs.original)

    @torch.no_grad()
    def halve(model=ours):
        for p in model.parameters():
            p.mul_(0.5)

    descent = Descent(lr=0.05, batch_size=10_000)
    retain = blobs.request.retain
    run(
        blobs,
        ours,
        [[teach(blobs, ours, retain)], [teach(blobs, ours, retain, before=halve)]],
        descent,
    )
    optimizer = torch.optim.SGD(theirs.parameters(), 0.05, 0.9)
    step(optimizer, theirs, retain)
    halve(theirs)
    step(optimizer, theirs, retain)
    assert_same(ours, theirs)


@pytest.mark.parametrize("steps", [0, 1, 3, 4, 9])
def test_a_pass_may_end_early_and_its_schedule_knows(blobs, steps):
    data, seen, model = blobs.request.retain, [], copy.deepcopy(blobs.original)
    descent = Descent(lr=1e-3, batch_size=30, schedule="linear")
    one = teach(blobs, model, data, after=seen.append, steps=steps)
    with metered() as bill:
        run(blobs, model, [[one]] * 2, descent)
    taken = min(steps, data.steps(30))
    expected = [1e-3 * (1 - k / (2 * taken)) for k in range(2 * taken)]
    assert seen == pytest.approx(expected)
    assert bill.cost.backward == 2 * covered(len(data), 30, steps)


@pytest.mark.parametrize("size", [1, 3, 5, 7, 20, 50])
def test_records_covered_are_those_of_the_first_batches(blobs, size):
    data = blobs.request.forget
    lengths = [len(batch.y) for batch in data.batches(size)]
    assert len(lengths) == steps_of(len(data), size) == data.steps(size)
    for steps in range(len(lengths) + 2):
        assert covered(len(data), size, steps) == sum(lengths[:steps])
