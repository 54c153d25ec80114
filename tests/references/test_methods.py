"""One step of every method, worked out by hand."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from expunge.api import problem as pose
from expunge.bench.problem import Training
from expunge.core.descent import train
from expunge.core.rng import derive, generator
from expunge.methods.finetune import Finetune
from expunge.methods.gradient_ascent import GradientAscent
from expunge.methods.random_label import RandomLabel
from expunge.methods.retrain import Retrain
from expunge.methods.salun import SalUn, salient
from expunge.types import Descent

LR = 0.3


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


@pytest.mark.parametrize("redraw", ["once", "batch"])
def test_wrong_answers_are_wrong_uniform_and_drawn_as_often_as_said(blobs, redraw):
    from expunge.core.relabel import mislead_then_teach

    request, seen = blobs.request, []
    task = request.task

    class Spy(type(task)):
        def losses(self, outputs, y):
            seen.append(y)
            return super().losses(outputs, y)

    spied = dataclasses.replace(
        request, recipe=dataclasses.replace(request.recipe, task=Spy(classes=task.classes))
    )
    rounds = mislead_then_teach(
        blobs.original, spied, 200, generator(0), redraw=redraw, retain=False
    )
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
