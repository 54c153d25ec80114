"""One step of every method, worked out by hand."""

import dataclasses
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from expunge.api import problem as pose
from expunge.bench.problem import Training
from expunge.core.descent import train
from expunge.core.order import largest
from expunge.core.relabel import Misleading, Sample, allowed, mislead_then_teach
from expunge.core.rng import derive, generator
from expunge.method import Sizes
from expunge.methods.finetune import Finetune
from expunge.methods.gradient_ascent import GradientAscent
from expunge.methods.random_label import RandomLabel
from expunge.methods.retrain import Retrain
from expunge.methods.salun import SalUn, salient
from expunge.tasks.categorical import Classification, NextToken
from expunge.types import Descent, Refused

LR = 0.3
ONE_EPOCH = Descent(lr=1e-3, epochs=1)


def linear(classes):
    problem = pose(
        {"name": "blobs", "classes": classes, "train": 40},
        "linear",
        range(8),
        training=Training(descent=Descent(lr=0.1, epochs=3, batch_size=16)),
    )
    return problem, problem.train(0)


@pytest.fixture
def two():
    """A linear problem of two classes: the wrong answer is the other one."""
    return linear(2)


@pytest.fixture(scope="module")
def digits():
    """A network with BatchNorm, untrained: its statistics are all that is looked at."""
    problem = pose("digits", {"name": "convnet", "width": 2}, range(40))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return problem.request, problem.recipe.fresh().eval()


def whole(data):
    return data.take(torch.arange(len(data)))


def gradient(model, x, y, weights=None):
    """The gradient of the mean loss by autograd, away from any of our loops."""
    model.zero_grad()
    losses = F.cross_entropy(model(x), y, reduction="none")
    (losses.mean() if weights is None else (losses * weights).mean()).backward()
    found = {k: p.grad.clone() for k, p in model.named_parameters()}
    model.zero_grad()
    return found


def assert_moved(out, original, step):
    for (name, new), old in zip(out.named_parameters(), original.parameters(), strict=True):
        torch.testing.assert_close(new, old + step[name], rtol=1e-5, atol=1e-7)


def one_step(method, **settings):
    return method(descent=Descent(lr=LR, epochs=1, batch_size=10_000), **settings)


def test_finetune_is_one_step_down_the_retain_loss(two):
    problem, original = two
    out = one_step(Finetune)(original, problem.request, seed=0).model
    x, y, _ = whole(problem.request.retain)
    assert_moved(out, original, {k: -LR * g for k, g in gradient(original, x, y).items()})


def test_gradient_ascent_is_one_step_up_the_forget_loss(two):
    problem, original = two
    out = one_step(GradientAscent)(original, problem.request, seed=0).model
    x, y, _ = whole(problem.request.forget)
    assert_moved(out, original, {k: LR * g for k, g in gradient(original, x, y).items()})


def test_gradient_ascent_leaves_records_beyond_the_cap_alone(two):
    problem, original = two
    x, y, _ = whole(problem.request.forget)
    losses = F.cross_entropy(original(x), y, reduction="none")
    cap = losses.sort().values[3].item() + 1e-6
    out = one_step(GradientAscent, cap=cap)(original, problem.request, seed=0).model
    pushed = gradient(original, x, y, (losses <= cap).float())
    assert_moved(out, original, {k: LR * g for k, g in pushed.items()})


def test_gradient_ascent_ends_where_validation_records_suffer(two):
    problem, original = two
    val = whole(problem.request.val)
    descent = Descent(lr=LR, epochs=12, batch_size=10_000)

    def suffering(model):
        return F.cross_entropy(model(val.x), val.y).item()

    lengths = range(13)
    settings = [dataclasses.replace(descent, epochs=n) for n in lengths]
    by_length = [GradientAscent(descent=d)(original, problem.request, seed=0) for d in settings]
    rises = [suffering(out.model) - suffering(original) for out in by_length]
    tolerance = (rises[5] + rises[6]) / 2
    assert all(a < b for a, b in itertools.pairwise(rises[3:]))
    done = GradientAscent(descent=descent, tolerance=tolerance)(original, problem.request, seed=0)
    assert done.notes["epochs"] == 5
    for a, b in zip(done.model.parameters(), by_length[5].model.parameters(), strict=True):
        assert torch.equal(a, b)
    most = GradientAscent(descent=descent, tolerance=tolerance).work(Sizes.of(problem.request))
    assert done.cost.backward < most.backward
    assert done.cost.forward < most.forward


def test_gradient_ascent_undoes_what_is_not_a_number(two):
    problem, original = two
    forget = problem.request.forget
    method = GradientAscent(descent=Descent(lr=1e39, epochs=1), tolerance=1.0)
    request = dataclasses.replace(problem.request, forget=forget.select(torch.arange(2)))
    done = method(original, request, seed=0)
    assert done.notes["epochs"] == 0
    for a, b in zip(done.model.parameters(), original.parameters(), strict=True):
        assert torch.equal(a, b)


def test_batch_statistics_move_only_where_they_may(digits):
    request, original = digits
    still = [RandomLabel(retain=False, descent=ONE_EPOCH), GradientAscent(descent=ONE_EPOCH)]
    moved = [
        RandomLabel(retain=False, forget_norms="update", descent=ONE_EPOCH),
        GradientAscent(norms="update", descent=ONE_EPOCH),
    ]
    for methods, same in ((still, True), (moved, False)):
        for method in methods:
            out = method(original, request, seed=0).model
            after = dict(out.named_buffers())
            kept = [torch.equal(after[k], v) for k, v in original.named_buffers() if "running" in k]
            assert kept
            assert all(kept) if same else not any(kept)


def test_random_label_is_one_step_to_the_other_class(two):
    problem, original = two
    out = one_step(RandomLabel, retain=False)(original, problem.request, seed=0).model
    x, y, _ = whole(problem.request.forget)
    assert_moved(out, original, {k: -LR * g for k, g in gradient(original, x, 1 - y).items()})


def test_random_label_then_teaches_the_right_answers(two):
    problem, original = two
    only = one_step(RandomLabel, retain=False)(original, problem.request, seed=0).model
    both = RandomLabel(descent=Descent(lr=LR, epochs=1, batch_size=10_000, momentum=0.0))
    out = both(original, problem.request, seed=0).model
    x, y, _ = whole(problem.request.retain)
    assert_moved(out, only, {k: -LR * g for k, g in gradient(only, x, y).items()})


def taught(request, how, epochs=1, seed=0):
    """Return the passes, and a list that fills with the answers of every batch taught."""
    answers, task = [], request.task

    class Spy(type(task)):
        def loss(self, model, batch):
            answers.append(batch)
            return super().loss(model, batch)

    recipe = dataclasses.replace(request.recipe, task=Spy(classes=task.classes))
    spied = dataclasses.replace(request, recipe=recipe)
    model = recipe.fresh()
    return mislead_then_teach(model, spied, how, epochs, generator(seed)), answers


def test_mixed_batches_are_one_shuffled_step_over_both(two):
    problem, original = two
    out = one_step(RandomLabel, mixed=True)(original, problem.request, seed=0).model
    x, y, _ = whole(problem.request.forget)
    right = whole(problem.request.retain)
    both = torch.cat([x, right.x]), torch.cat([1 - y, right.y])
    assert_moved(out, original, {k: -LR * g for k, g in gradient(original, *both).items()})


@pytest.mark.parametrize("redraw", ["once", "epoch", "batch"])
def test_mixed_batches_mislead_the_forgotten_alone_and_draw_as_often_as_said(blobs, redraw):
    forget, retain = blobs.request.forget, blobs.request.retain
    how = Misleading(redraw=redraw, mixed=True)
    rounds, seen = taught(blobs.request, how, epochs=4)
    found = []
    for (current,) in rounds:
        current.before()
        for size in (7, 10_000):  # two batchings of the same epoch
            seen.clear()
            for batch in current.data.batches(size, generator(size)):
                current.objective(batch)
            places, given = (torch.cat([b[i] for b in seen]) for i in (2, 1))
            answers = given[places.argsort()]
            assert torch.equal(answers[len(forget) :], retain.y)
            assert not (answers[: len(forget)] == forget.y).any()
            found.append(answers[: len(forget)])
    same_epoch, same_always = torch.equal(found[0], found[1]), torch.equal(found[0], found[2])
    assert (same_epoch, same_always) == (redraw != "batch", redraw == "once")


def test_a_balanced_epoch_has_as_many_retained_records_drawn_anew(blobs):
    count = len(blobs.request.forget)
    for mixed in (False, True):
        rounds, seen = taught(blobs.request, Misleading(mixed=mixed, balanced=True), epochs=3)
        drawn = []
        for passes in rounds:
            seen.clear()
            for current in passes:
                current.before()
                for batch in current.data.batches(16, generator(0)):
                    current.objective(batch)
            # Joined, retained records are numbered after the forgotten; alone, as they were.
            kept = [b.index for b in seen] if mixed else [b.index for b in seen[-2:]]
            rows = torch.cat(kept)
            rows = rows[rows >= count] if mixed else rows
            assert len(rows) == len(rows.unique()) == count
            drawn.append(rows.sort().values.tolist())
        assert drawn[0] != drawn[1]


def test_a_sample_is_drawn_evenly_and_reads_what_it_says(blobs):
    data, counts = blobs.request.retain, torch.zeros(len(blobs.request.retain))
    sample = Sample(data, 10, 30, generator(1))
    assert len(sample) == 40
    for _ in range(300):
        sample.draw()
        rows = (sample.index[:, None] == data.index).nonzero()[:, 1]
        assert torch.equal(rows[:10], torch.arange(10))
        counts[rows] += 1
    assert (counts[:10] == 300).all()
    expected = 300 * 30 / (len(data) - 10)
    assert ((counts[10:] - expected).abs() < 5 * expected**0.5).all()
    rows = torch.tensor([3, 25])
    x, y, index = sample.take(rows)
    assert torch.equal(index, sample.index[rows])
    assert torch.equal(sample.y[rows], y)
    assert torch.equal(sample.select(rows).y, y)
    there = (data.index[:, None] == index).nonzero()
    expected = data.take(there[there[:, 1].argsort(), 0])
    assert torch.equal(x, expected.x)
    assert torch.equal(y, expected.y)


def test_classes_to_draw_from():
    task, y = Classification(classes=12), torch.tensor([0, 11, 11, 5])
    assert allowed(task, y, "true") is None
    assert allowed(task, y, "none").tolist() == list(range(12))
    assert allowed(task, y, "forgotten").tolist() == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    with pytest.raises(Refused, match="leaves no class"):
        allowed(task, torch.arange(12), "forgotten")
    with pytest.raises(Refused, match="next_token has none"):
        allowed(NextToken(classes=5), y, "none")


def test_labels_that_may_be_right_are_uniform_over_all_classes(blobs):
    rounds, seen = taught(blobs.request, Misleading(avoid="none", retain=False), epochs=150)
    for (mislead,) in rounds:
        mislead.objective(whole(blobs.request.forget))
    counts = torch.bincount(torch.cat([b.y for b in seen]), minlength=6)
    expected = counts.sum() / 6
    assert ((counts - expected) ** 2 / expected).sum() < 20.5  # 99.9 %, 5 degrees of freedom


@pytest.mark.parametrize("settings", [{"mixed": True}, {"balanced": True}])
def test_settings_about_retained_records_need_them(settings):
    with pytest.raises(ValueError, match="drop them or retain=False"):
        RandomLabel(retain=False, **settings)
    with pytest.raises(ValueError, match="drop them or retain=False"):
        SalUn(retain=False, norms="recalibrate")


@pytest.mark.parametrize(
    "method",
    [
        RandomLabel(mixed=True, norms="recalibrate"),
        RandomLabel(balanced=True, redraw="epoch", avoid="none"),
        RandomLabel(mixed=True, balanced=True),
        SalUn(mask_from="train", retain=False, forget_norms="update"),
        GradientAscent(tolerance=1e9),
    ],
    ids=repr,
)
def test_the_work_of_other_settings_is_foreseen_too(blobs, method):
    foreseen = method.work(Sizes.of(blobs.request))
    counted = method(blobs.original, blobs.request, seed=0).cost
    assert (foreseen.forward, foreseen.backward) == (counted.forward, counted.backward)


@pytest.mark.parametrize("redraw", ["once", "batch"])
def test_wrong_answers_are_wrong_uniform_and_drawn_as_often_as_said(blobs, redraw):
    request, seen = blobs.request, []
    task = request.task

    class Spy(type(task)):
        def losses(self, outputs, y):
            seen.append(y)
            return super().losses(outputs, y)

    spied = dataclasses.replace(
        request, recipe=dataclasses.replace(request.recipe, task=Spy(classes=task.classes))
    )
    how = Misleading(redraw=redraw, retain=False)
    rounds = mislead_then_teach(blobs.original, spied, how, 200, generator(0))
    for (mislead,) in rounds:
        mislead.objective(whole(request.forget))
    answers = torch.stack(seen)
    assert not (answers == request.forget.y).any()
    assert answers.min() >= 0
    assert answers.max() < task.classes
    changes = (answers != answers[0]).any().item()
    assert changes == (redraw == "batch")
    if redraw == "batch":
        counts = torch.bincount((answers - request.forget.y).flatten() % task.classes)[1:]
        expected = answers.numel() / (task.classes - 1)
        chi_square = ((counts - expected) ** 2 / expected).sum()
        assert chi_square < 18.5  # 99.9 % of chi-square with 4 degrees of freedom


def test_salun_masks_by_the_forget_gradient_and_freezes_the_rest():
    problem, original = linear(4)
    method = SalUn(
        descent=Descent(lr=LR, epochs=3, batch_size=10_000, weight_decay=0.1),
        fraction=0.5,
        retain=True,
    )
    out = dict(method(original, problem.request, seed=0).model.named_parameters())
    x, y, _ = whole(problem.request.forget)
    sizes = {k: g.abs() for k, g in gradient(original, x, y).items()}
    kept = torch.cat([s.flatten() for s in sizes.values()]).sort(descending=True).values
    threshold = kept[len(kept) // 2 - 1]
    for name, old in original.named_parameters():
        moved = out[name] != old
        assert torch.equal(moved, sizes[name] >= threshold)


def test_salun_with_the_whole_network_is_random_label(two):
    problem, original = two
    settings = {"descent": Descent(lr=LR, epochs=1, batch_size=10_000), "retain": False}
    salun = SalUn(**settings, fraction=1.0)(original, problem.request, seed=0).model
    plain = RandomLabel(**settings)(original, problem.request, seed=0).model
    for a, b in zip(salun.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_salun_may_take_its_mask_from_all_training_records(two):
    problem, original = two
    forget, retain = whole(problem.request.forget), whole(problem.request.retain)
    x, y = torch.cat([forget.x, retain.x]), torch.cat([forget.y, retain.y])
    sizes = gradient(original, x, y)
    mask = salient({k: g.abs() for k, g in sizes.items()}, 0.5)
    done = one_step(SalUn, mask_from="train", retain=False)(original, problem.request, seed=0)
    step = gradient(original, forget.x, 1 - forget.y)
    assert_moved(done.model, original, {k: -LR * g * mask[k] for k, g in step.items()})
    others = salient({k: g.abs() for k, g in gradient(original, forget.x, forget.y).items()}, 0.5)
    assert any((others[k] != mask[k]).any() for k in mask)


@pytest.mark.parametrize("count", [0, 1, 7, 150, 299, 300])
def test_the_largest_are_those_of_a_stable_sort(count):
    draws = torch.Generator().manual_seed(count)
    numbers = torch.randint(0, 9, (300,), generator=draws).float()
    expected = torch.zeros(300, dtype=torch.bool)
    expected[numbers.argsort(descending=True, stable=True)[:count]] = True
    assert torch.equal(largest(numbers, count), expected)


def test_numbers_that_cannot_be_compared_are_refused():
    with pytest.raises(Refused, match="NaN among them"):
        largest(torch.tensor([1.0, torch.nan]), 1)


def test_salient_keeps_exactly_the_fraction_even_among_ties():
    gradient = {"a": torch.tensor([[3.0, -4.0], [0.0, 0.0]]), "b": torch.zeros(4)}
    mask = salient(gradient, 0.5)
    assert sum(m.sum() for m in mask.values()) == 4
    assert mask["a"][0].all()


def test_retrain_is_the_recipe_on_the_retain_set_in_a_plain_loop(two):
    problem, original = two
    out = Retrain()(original, problem.request, seed=5).model
    descent, retain = problem.recipe.descent, problem.request.retain
    with torch.random.fork_rng():
        torch.manual_seed(derive(5, "weights"))
        model = problem.recipe.fresh()
    draws = generator(5, "order")
    velocity = {k: torch.zeros_like(p) for k, p in model.named_parameters()}
    x, y = whole(retain)[:2]
    steps = math.ceil(len(retain) / descent.batch_size)
    for _ in range(descent.epochs):
        order = torch.randperm(len(retain), generator=draws)
        for rows in order.split(descent.batch_size)[:steps]:
            for k, g in gradient(model, x[rows], y[rows]).items():
                velocity[k] = descent.momentum * velocity[k] + g
                dict(model.named_parameters())[k].data -= descent.lr * velocity[k]
    for a, b in zip(out.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_retrain_never_reads_the_original(two):
    problem, original = two
    ruined = train(problem.recipe, problem.request.retain, 9)
    for p in ruined.parameters():
        nn.init.constant_(p, 3.0)
    first = Retrain()(original, problem.request, seed=1).model
    second = Retrain()(ruined, problem.request, seed=1).model
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
