"""The linear support vector machine against scikit-learn's, a loop, and autograd."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from torch import Tensor
from torch.autograd.functional import hessian
from torch.func import functional_call

from expunge import api
from expunge.config import key, plain
from expunge.core import losses
from expunge.core.curvature import curvature, flat
from expunge.core.descent import train
from expunge.core.grads import mean_gradient
from expunge.core.packed import train_together
from expunge.data.tensors import TensorData
from expunge.models.sklearn_models import from_sklearn
from expunge.models.svm import SVM, calibrate
from expunge.tasks.categorical import Classification, NextToken
from expunge.types import Batch, Descent, Recipe
from tests.models.passing import obeys

C = 0.3


def records(classes: int = 3, n: int = 60) -> TensorData:
    x, y = make_blobs(n, 4, centers=classes, cluster_std=3.0, random_state=0)
    return TensorData(torch.tensor(x / 5, dtype=torch.float32), torch.tensor(y))


def recipe(architecture: SVM, classes: int = 3, n: int = 60, epochs: int = 400) -> Recipe:
    """Return how it is trained as LinearSVC of C: by whole batches, to the end."""
    task = architecture.adapt(Classification(classes=classes))
    decay = 1 / (C * n)
    descent = Descent(lr=0.05, epochs=epochs, batch_size=n, weight_decay=decay)
    return Recipe(model=architecture, inputs=(4,), task=task, descent=descent)


def test_the_hinge_is_that_of_a_loop() -> None:
    draws = torch.Generator().manual_seed(0)
    margins = 2 * torch.randn(5, 4, generator=draws)
    y = torch.tensor([0, 3, 1, 1, 2])
    expected = []
    for row, answer in zip(margins.tolist(), y.tolist(), strict=True):
        lacking = [1 - m if k == answer else 1 + m for k, m in enumerate(row)]
        expected.append(sum(max(0.0, one) ** 2 for one in lacking))
    found = losses.squared_hinge(margins, y)
    torch.testing.assert_close(found, torch.tensor(expected))


def test_training_ends_where_linear_svc_does() -> None:
    data = records()
    model = train(recipe(SVM()), data, 0)
    x, y = data.take(torch.arange(60)).x.numpy(), data.y.numpy()
    known = LinearSVC(C=C, tol=1e-10, max_iter=100_000).fit(x, y)
    layer = model.get_submodule("2")
    np.testing.assert_allclose(layer.weight.detach(), known.coef_, atol=1e-4)
    np.testing.assert_allclose(layer.bias.detach(), known.intercept_, atol=1e-4)


@pytest.mark.parametrize("classes", [2, 3])
def test_training_by_the_plain_hinge_ends_where_linear_svc_does(classes: int) -> None:
    data = records(classes)
    x, y = data.take(torch.arange(60)).x.numpy(), data.y.numpy()
    known = LinearSVC(C=C, loss="hinge", tol=1e-9, max_iter=1_000_000).fit(x, y)
    network, architecture = from_sklearn(known)
    assert architecture == SVM(mean=0.0, std=1.0, squared=False)
    descent = replace(recipe(architecture, classes).descent, epochs=800, schedule="cosine")
    model = train(replace(recipe(architecture, classes), descent=descent), data, 0)
    # The hinge has kinks, about which descent swings.
    for found, expected in zip(model.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=5e-3)


def test_the_temperature_changes_no_step_of_training() -> None:
    data = records()
    x = data.take(torch.arange(60)).x
    cold, warm = (train(recipe(SVM(temperature=t), epochs=30), data, 0)(x) for t in (1.0, 2.5))
    torch.testing.assert_close(2.5 * warm, cold, rtol=1e-4, atol=1e-5)


def test_audits_see_posteriors_and_training_the_hinge() -> None:
    task = SVM(temperature=2.0).adapt(Classification(classes=3, weights=(1.0, 2.0, 3.0)))
    outputs, y = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
    torch.testing.assert_close(task.losses(outputs, y), losses.cross_entropy(outputs, y))
    torch.testing.assert_close(
        task.training_losses(outputs, y), losses.squared_hinge(2 * outputs, y)
    )
    weights = torch.tensor([1.0, 2.0, 3.0])[y]
    expected = (weights * losses.squared_hinge(2 * outputs, y)).sum() / weights.sum()
    torch.testing.assert_close(task.loss(lambda _: outputs, Batch(outputs, y, y)), expected)


def test_the_gradient_at_the_optimum_of_linear_svc_is_that_of_the_penalty() -> None:
    data = records()
    x, y = data.take(torch.arange(60)).x.numpy(), data.y.numpy()
    known = LinearSVC(C=C, tol=1e-10, max_iter=100_000).fit(x, y)
    model, architecture = from_sklearn(known)
    assert architecture == SVM(mean=0.0, std=1.0)
    task = architecture.adapt(Classification(classes=3))
    found = mean_gradient(model, task, data.batches(16))
    for name, p in model.named_parameters():
        torch.testing.assert_close(found[name], -p.detach() / (C * 60), rtol=1e-3, atol=1e-5)


def test_curvature_is_the_hessian_of_the_hinge() -> None:
    data = records(n=20)
    model = train(recipe(SVM(temperature=1.5), n=20, epochs=20), data, 0)
    task = SVM(temperature=1.5).adapt(Classification(classes=3))
    batch = data.take(torch.arange(20))
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    shapes = {name: p.shape for name, p in parameters.items()}

    def loss(row: Tensor) -> Tensor:
        parts = row.split([shape.numel() for shape in shapes.values()])
        state = {k: part.view(shapes[k]) for k, part in zip(shapes, parts, strict=True)}
        return task.training_losses(functional_call(model, state, (batch.x,)), batch.y).mean()

    whole = hessian(loss, flat(parameters))
    assert isinstance(whole, Tensor)
    direction = torch.randn(len(whole), generator=torch.Generator().manual_seed(0))
    found = curvature(model, task, [batch], "ggn")(direction)
    torch.testing.assert_close(found, whole @ direction, rtol=1e-4, atol=1e-5)


def test_several_train_side_by_side_as_one_by_one() -> None:
    data, rule = records(), recipe(SVM(temperature=2.0), epochs=10)
    x = data.take(torch.arange(60)).x
    for seed, model in enumerate(train_together(rule, [data, data], [0, 1])):
        torch.testing.assert_close(model(x), train(rule, data, seed)(x), rtol=1e-4, atol=1e-5)


def test_calibration_of_two_classes_is_a_logistic_regression_on_the_margin() -> None:
    draws = np.random.default_rng(0)
    y = np.arange(400) % 2
    decision = (2 * y - 1) + 1.5 * draws.standard_normal(400)
    plain_fit = LogisticRegression(C=1e12, fit_intercept=False, tol=1e-10)
    slope = plain_fit.fit(decision[:, None], y).coef_.item()
    margins = torch.tensor(np.stack([-decision, decision], 1))
    # Two margins are 2 d apart, so that the logit is 2 d / temperature.
    assert calibrate(margins, torch.tensor(y)) == pytest.approx(2 / slope, rel=1e-4)


def test_calibration_of_many_classes_finds_the_likeliest_of_a_grid() -> None:
    draws = torch.Generator().manual_seed(0)
    y = torch.arange(300) % 4
    margins = 3 * torch.randn(300, 4, generator=draws)
    margins[torch.arange(300), y] += 2
    found = calibrate(margins, y)
    grid = torch.linspace(0.5, 2.0, 1501).double() * found
    likelihoods = [-losses.cross_entropy(margins.double() / t, y).mean() for t in grid]
    assert float(grid[int(torch.stack(likelihoods).argmax())]) == pytest.approx(found, rel=2e-3)


def test_calibration_stands_for_every_model_of_the_recipe() -> None:
    data = records(n=120)
    whole = torch.arange(120)
    held = data.select(whole[60:])
    rule = recipe(SVM(), epochs=30)
    model = train(rule, data.select(whole[:60]), 0)
    architecture = SVM().calibrated(model, held)
    assert architecture.temperature != 1
    tripled = SVM(temperature=3.0)
    again = tripled.calibrated(train(recipe(tripled, epochs=30), data.select(whole[:60]), 0), held)
    assert again.temperature == pytest.approx(architecture.temperature, rel=1e-3)
    warm = architecture.build((4,), 3)
    warm.load_state_dict(model.state_dict())
    x = held.take(torch.arange(60)).x
    torch.testing.assert_close(warm(x) * architecture.temperature, model(x))


@pytest.mark.parametrize(
    "margins", [[[5.0, -5.0], [-5.0, 5.0]], [[-1.0, 1.0], [1.0, -1.0]], [[0.0, 0.0], [0.0, 0.0]]]
)
def test_margins_that_no_temperature_fits_are_refused(margins: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="right class of most of 2 records but not of all"):
        calibrate(torch.tensor(margins), torch.tensor([0, 1]))


def test_an_svm_is_trained_unlearned_from_and_audited() -> None:
    problem = obeys(SVM(temperature=2.0), records())
    assert plain(problem.recipe.task) == {
        "name": "classification", "version": 1, "classes": 3, "weights": None,
        "objective": "hinge", "temperature": 2.0,
    }  # fmt: skip
    assert key(problem.recipe) != key(recipe(SVM()))


def test_the_plain_hinge_is_a_setting_that_older_keys_do_not_have() -> None:
    assert plain(SVM()) == {
        "name": "svm", "version": 1, "temperature": 1.0, "mean": None, "std": None,
    }  # fmt: skip
    problem = obeys(SVM(squared=False, temperature=2.0), records())
    assert problem.recipe.task == Classification(
        classes=3, objective="plain_hinge", temperature=2.0
    )


def test_what_is_no_task_of_an_svm_is_refused() -> None:
    with pytest.raises(ValueError, match="'svm' names classes, but the task is next_token"):
        SVM().adapt(NextToken(classes=5))
    with pytest.raises(ValueError, match="next_token is trained by cross-entropy"):
        NextToken(classes=5, objective="hinge")
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="expected temperature > 0"):
            SVM(temperature=wrong)
        with pytest.raises(ValueError, match="expected temperature > 0"):
            Classification(classes=3, temperature=wrong)


def test_a_spec_needs_the_name_alone() -> None:
    problem = api.problem("blobs", "svm", {"name": "random", "count": 10})
    assert problem.recipe.task == Classification(classes=6, objective="hinge")
