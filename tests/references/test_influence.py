"""Influence: against retraining where that has a solution, and each part by hand."""

import dataclasses
import itertools
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expunge.api import problem as pose
from expunge.bench.problem import Training
from expunge.core.curvature import flat
from expunge.data.tensors import TensorData
from expunge.method import Sizes
from expunge.methods.influence import Influence
from expunge.models.linear import Linear
from expunge.tasks.categorical import Classification
from expunge.types import Descent, Recipe, Refused, Request

CLASSES, WIDTH, DECAY = 3, 4, 0.05
EXACT = Influence(fraction=1.0, iterations=40, damping=DECAY, step="fixed")


class Regression(NamedTuple):
    """Logistic regression with an l2 penalty, solved to the end in double precision."""

    request: Request
    model: nn.Module

    @classmethod
    def of(cls, count: int, weights: tuple[float, ...] | None = None) -> "Regression":
        draws = torch.Generator().manual_seed(0)
        # The same few records over and over but for one: curvature does not change with n.
        x = torch.randn(20, WIDTH, generator=draws).double().repeat(count // 20, 1)
        y = (x[:, 0] + torch.randn(20, generator=draws).repeat(count // 20) > 0).long()
        y = y + (x[:, 1] > 0.7)
        data = TensorData(x=x, y=y)
        recipe = Recipe(
            model=Linear(),
            inputs=(WIDTH,),
            task=Classification(classes=CLASSES, weights=weights),
            descent=Descent(batch_size=32),
        )
        request = Request(
            retain=data.select(torch.arange(1, count)),
            forget=data.select(torch.arange(1)),
            val=data,
            nonmembers=data,
            recipe=recipe,
        )
        return cls(request, cls.solved(recipe, data))

    @staticmethod
    def solved(recipe: Recipe, data: TensorData) -> nn.Module:
        """Train by Newton's method until nothing moves."""
        with torch.random.fork_rng():
            model = recipe.fresh().double()
        parameters = list(model.parameters())
        optimizer = torch.optim.LBFGS(
            parameters,
            max_iter=500,
            tolerance_grad=1e-13,
            tolerance_change=1e-15,
            line_search_fn="strong_wolfe",
        )
        weights = recipe.task.weigh(data.y)
        weights = None if weights is None else weights.double()

        def closure() -> Tensor:
            optimizer.zero_grad()
            losses = F.cross_entropy(model(data.x), data.y, reduction="none")
            mean = losses.mean() if weights is None else (weights * losses).sum() / weights.sum()
            loss = mean + DECAY / 2 * sum(p.square().sum() for p in parameters)
            loss.backward()
            return loss

        optimizer.step(closure)
        model.zero_grad()
        return model


def distance(a: nn.Module, b: nn.Module) -> float:
    return float((row(a) - row(b)).norm())


def row(model: nn.Module) -> Tensor:
    return flat(dict(model.named_parameters())).detach()


@pytest.mark.parametrize("weights", [None, (1.0, 3.0, 0.5)])
def test_a_step_is_leaving_a_record_out_but_for_the_square_of_its_share(weights) -> None:
    errors, moves = [], []
    for count in (100, 200, 400):
        request, original = Regression.of(count, weights)
        gone = Regression.solved(request.recipe, request.retain)
        out = EXACT(original, request, seed=0).model
        errors.append(distance(out, gone))
        moves.append(distance(original, gone))
    assert errors[0] < 0.05 * moves[0]
    for slow, fast in itertools.pairwise(errors):
        assert 3.3 < slow / fast < 5


@pytest.fixture(scope="module")
def two():
    posed = pose(
        {"name": "blobs", "classes": 3, "train": 60},
        "linear",
        range(8),
        training=Training(descent=Descent(lr=0.1, epochs=3, batch_size=16)),
    )
    return posed, posed.train(0)


def losses_of(model: nn.Module, data, named: dict[str, Tensor] | None = None) -> Tensor:
    x, y, _ = data.take(torch.arange(len(data)))
    return F.cross_entropy(torch.func.functional_call(model, named or {}, (x,)), y)


def gradient(model: nn.Module, data) -> Tensor:
    return torch.cat(
        [
            part.flatten()
            for part in torch.autograd.grad(losses_of(model, data), list(model.parameters()))
        ]
    )


def published(problem, original: nn.Module) -> Tensor:
    """The difference of mean gradients, by the share of the forget set."""
    request = problem.request
    share = len(request.forget) / (len(request.forget) + len(request.retain))
    return share * (gradient(original, request.forget) - gradient(original, request.retain))


def test_identity_is_a_multiple_of_the_gradient(two) -> None:
    problem, original = two
    preset = Influence.card.presets["authors_code"].settings
    outcome = Influence(**preset)(original, problem.request, seed=0)
    moved = row(outcome.model) - row(original)
    torch.testing.assert_close(moved, 0.3 * published(problem, original), rtol=1e-4, atol=1e-7)
    assert "residual" not in outcome.notes


def test_without_the_retain_set_the_gradient_is_that_of_the_forget_set(two) -> None:
    problem, original = two
    request = problem.request
    method = Influence(curvature="identity", retain=False, step="fixed", scale=2.0)
    moved = row(method(original, request, seed=0).model) - row(original)
    share = len(request.forget) / len(request.retain)
    expected = 2 * share * gradient(original, request.forget)
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("matrix", ["ggn", "empirical_fisher"])
def test_the_step_solves_the_equation_of_the_formed_matrix(two, matrix) -> None:
    problem, original = two
    retain, shapes = problem.request.retain, dict(original.named_parameters())
    if matrix == "ggn":
        # Of a linear model the Gauss-Newton matrix is the Hessian.
        def loss(moved: Tensor) -> Tensor:
            parts = moved.split([p.numel() for p in shapes.values()])
            named = {k: v.view_as(shapes[k]) for k, v in zip(shapes, parts, strict=True)}
            return losses_of(original, retain, named)

        formed = torch.func.hessian(loss)(row(original))
    else:
        rows = [gradient(original, retain.select(torch.tensor([i]))) for i in range(len(retain))]
        formed = torch.stack(rows).T @ torch.stack(rows) / len(rows)
    damped = formed.double() + 0.1 * torch.eye(len(formed)).double()
    expected = torch.linalg.solve(damped, published(problem, original).double()).float()
    method = Influence(
        curvature=matrix, fraction=1.0, iterations=30, damping=0.1, step="fixed", scale=0.5
    )
    outcome = method(original, problem.request, seed=0)
    moved = row(outcome.model) - row(original)
    torch.testing.assert_close(moved, 0.5 * expected, rtol=1e-3, atol=1e-6)
    assert outcome.notes["residual"] < 1e-4
    assert outcome.notes["step_length"] == pytest.approx(float(moved.norm()), rel=1e-3)


@pytest.mark.parametrize("tolerance", [0.0, 0.02, 0.3, 100.0])
def test_the_line_search_takes_the_longest_step_that_validation_puts_up_with(
    two, tolerance
) -> None:
    problem, original = two
    scales = (1.0, 3.0, 10.0, 30.0, 100.0)
    fixed = Influence(step="fixed", fraction=0.5)
    models = [original] + [
        dataclasses.replace(fixed, scale=scale)(original, problem.request, seed=0).model
        for scale in scales
    ]
    losses = [float(losses_of(model, problem.request.val).detach()) for model in models]
    expected = 0.0
    for scale, loss in zip(scales, losses[1:], strict=True):
        if loss > (1 + tolerance) * losses[0]:
            break
        expected = scale
    method = Influence(fraction=0.5, scales=scales, tolerance=tolerance)
    outcome = method(original, problem.request, seed=0)
    assert outcome.notes["scale"] == expected
    assert outcome.notes["validation_losses"] == pytest.approx(losses, rel=1e-5)
    chosen = models[(0.0, *scales).index(expected)]
    assert distance(outcome.model, chosen) == 0
    assert (expected == scales[-1]) == (tolerance == 100.0)


@pytest.mark.parametrize(
    "settings",
    [
        {"retain": False},
        {"curvature": "identity"},
        {"step": "fixed"},
        {"curvature": "empirical_fisher", "fraction": 0.3, "iterations": 2},
    ],
)
def test_the_foreseen_work_of_other_settings(two, settings) -> None:
    problem, original = two
    method = Influence(**settings)
    foreseen = method.work(Sizes.of(problem.request))
    counted = method(original, problem.request, seed=0).cost
    assert (foreseen.forward, foreseen.backward) == (counted.forward, counted.backward)


def test_a_search_without_validation_records_is_refused(two) -> None:
    problem, original = two
    request = dataclasses.replace(problem.request, val=problem.request.val.select(torch.arange(0)))
    with pytest.raises(Refused, match="needs validation records"):
        Influence()(original, request, seed=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"fraction": 0.0},
        {"iterations": 0},
        {"damping": 0.0},
        {"scales": (2.0, 1.0)},
        {"scales": ()},
    ],
)
def test_settings_out_of_range_are_refused(settings) -> None:
    with pytest.raises(ValueError, match="expected"):
        Influence(**settings)
