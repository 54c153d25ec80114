"""Curvature products and equations, against matrices that are formed and solved."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import hessian

from expunge.core.cost import Meter, counting
from expunge.core.curvature import (
    BACKWARD,
    FORWARD,
    conjugate_gradient,
    curvature,
    flat,
    shaped,
)
from expunge.models.denoiser import Denoiser
from expunge.models.lstm import LSTM
from expunge.models.mlp import MLP
from expunge.models.resnet import ResNet
from expunge.tasks.categorical import Classification, NextToken
from expunge.tasks.denoising import Denoising
from expunge.types import Batch, Refused, Task, each

RECORDS, CLASSES = 6, 4


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features() -> Batch:
    x = torch.randn(RECORDS, 5, generator=draw())
    return Batch(x, torch.arange(RECORDS) % CLASSES, torch.arange(RECORDS))


def pictures() -> Batch:
    return features()._replace(x=torch.rand(RECORDS, 1, 4, 4, generator=draw()))


def tokens() -> Batch:
    y = torch.randint(0, CLASSES, (RECORDS, 3), generator=draw(1))
    y[0, 2:] = -100
    x = torch.randint(0, CLASSES, (RECORDS, 3), generator=draw())
    return Batch(x, y, torch.arange(RECORDS))


def noisy() -> Batch:
    return Denoising().pose(features(), draw())


Case = tuple[Callable[[], nn.Module], Task, Callable[[], Batch]]
CLASSIFY = Classification(classes=CLASSES)
WEIGHTED = Classification(classes=CLASSES, weights=(1.0, 2.0, 0.5, 3.0))
CASES: dict[str, Case] = {
    "mlp": (lambda: MLP(hidden=(4,)).build((5,), CLASSES), CLASSIFY, features),
    "class weights": (lambda: MLP(hidden=(4,)).build((5,), CLASSES), WEIGHTED, features),
    "resnet": (lambda: ResNet(width=1).build((1, 4, 4), CLASSES), CLASSIFY, pictures),
    "lstm": (lambda: LSTM(hidden=2).build((3,), CLASSES), NextToken(classes=CLASSES), tokens),
    "denoiser": (lambda: Denoiser(conditions=4, hidden=3).build((5,), 0), Denoising(), noisy),
}


def built(name: str) -> tuple[nn.Module, Task, Batch]:
    make, task, batch = CASES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2, generator=draw(2))
    return model.double(), task, doubled(batch())


def doubled(batch: Batch) -> Batch:
    def double(part: Tensor) -> Tensor:
        return part.double() if part.is_floating_point() else part

    return Batch(each(batch.x, double), double(batch.y), batch.index)


def rows_of(batch: Batch, rows: Tensor) -> Batch:
    return Batch(each(batch.x, lambda part: part[rows]), batch.y[rows], batch.index[rows])


def formed(model: nn.Module, task: Task, batch: Batch, matrix: str) -> Tensor:
    """The matrix itself: record by record, one backward for each row of the Jacobian."""
    model.eval()
    parameters = list(model.parameters())
    weights = task.weigh(batch.y)
    weights = torch.ones(RECORDS) if weights is None else weights
    total = torch.zeros(())
    for i in range(RECORDS):
        one = rows_of(batch, torch.tensor([i]))
        outputs = model(one.x)
        rows = [
            torch.cat(
                [
                    part.flatten()
                    for part in torch.autograd.grad(
                        output, parameters, retain_graph=True, materialize_grads=True
                    )
                ]
            )
            for output in outputs.flatten()
        ]
        jacobian, said = torch.stack(rows), outputs.detach()

        def loss(row: Tensor, said: Tensor = said, one: Batch = one) -> Tensor:
            return task.losses(row.view_as(said), one.y)[0]

        if matrix == "ggn":
            inner = hessian(loss)(said.flatten())
        else:
            slope = torch.func.grad(loss)(said.flatten())
            inner = slope[:, None] * slope[None]
        total = total + weights[i] * jacobian.T @ inner @ jacobian
    return total / weights.sum()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("matrix", ["ggn", "empirical_fisher"])
def test_a_product_is_the_formed_matrix_times_the_vector(name: str, matrix: str) -> None:
    model, task, batch = built(name)
    expected = formed(model, task, batch, matrix)
    vector = torch.randn(len(expected), generator=draw(3)).double()
    parts = [rows_of(batch, rows) for rows in torch.arange(RECORDS).split(4)]
    model.train()
    with counting(meter := Meter()):
        found = curvature(model, task, parts, matrix)(vector)
    torch.testing.assert_close(found, expected @ vector, rtol=1e-9, atol=1e-12)
    assert float(found.abs().sum()) > 0
    assert (meter.forward, meter.backward) == (FORWARD * RECORDS, BACKWARD * RECORDS)
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_the_empirical_fisher_is_the_mean_of_outer_products_of_gradients() -> None:
    model, task, batch = built("mlp")
    rows = []
    for i in range(RECORDS):
        one = rows_of(batch, torch.tensor([i]))
        model.zero_grad()
        task.losses(model.eval()(one.x), one.y).sum().backward()
        rows.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    gradients = torch.stack(rows)
    vector = torch.randn(gradients.shape[1], generator=draw(3)).double()
    found = curvature(model, task, [batch], "empirical_fisher")(vector)
    torch.testing.assert_close(found, gradients.T @ (gradients @ vector) / RECORDS)


def test_the_ggn_of_logistic_regression_is_its_hessian() -> None:
    model, batch = nn.Linear(5, CLASSES).double(), doubled(features())
    shapes = dict(model.named_parameters())

    def loss(row: Tensor) -> Tensor:
        named = shaped(row, shapes)
        return CLASSIFY.losses(batch.x @ named["weight"].T + named["bias"], batch.y).mean()

    expected = hessian(loss)(flat(shapes).detach())
    product = curvature(model, CLASSIFY, [batch], "ggn")
    found = torch.stack([product(row) for row in torch.eye(len(expected)).double()])
    torch.testing.assert_close(found, expected)


def test_no_records_have_no_curvature() -> None:
    with pytest.raises(Refused, match="got none"):
        curvature(nn.Linear(5, CLASSES), CLASSIFY, [], "ggn")


def test_flat_and_shaped_undo_each_other() -> None:
    named = {"b": torch.randn(2, 3, generator=draw()), "a": torch.randn(4, generator=draw())}
    again = shaped(flat(named), named)
    assert list(again) == ["b", "a"]
    assert all(torch.equal(named[k], again[k]) for k in named)


def spread_matrix(size: int = 30) -> Tensor:
    """A matrix with eigenvalues over six decades, a third of them zero."""
    basis = torch.linalg.qr(torch.randn(size, size, generator=draw()).double()).Q
    values = torch.logspace(-4, 2, size).double()
    values[: size // 3] = 0
    return basis * values @ basis.T


def test_conjugate_gradient_is_a_dense_solve() -> None:
    matrix = spread_matrix()
    b = torch.randn(30, generator=draw(1)).double()
    damped = matrix + 0.1 * torch.eye(30).double()
    found = conjugate_gradient(lambda v: matrix @ v, b, iterations=60, damping=0.1)
    torch.testing.assert_close(found.x, torch.linalg.solve(damped, b), rtol=1e-8, atol=1e-10)
    assert found.residual < 1e-8


@pytest.mark.parametrize("iterations", [1, 2, 4])
def test_few_iterations_are_the_best_of_the_krylov_space(iterations: int) -> None:
    matrix = spread_matrix() + 0.1 * torch.eye(30).double()
    b = torch.randn(30, generator=draw(1)).double()
    powers = [b]
    for _ in range(iterations - 1):
        powers.append(matrix @ powers[-1])
    space = torch.linalg.qr(torch.stack(powers, 1)).Q
    best = space @ torch.linalg.solve(space.T @ matrix @ space, space.T @ b)
    found = conjugate_gradient(lambda v: matrix @ v, b, iterations=iterations)
    torch.testing.assert_close(found.x, best, rtol=1e-8, atol=1e-10)
    left = (b - matrix @ best).norm() / b.norm()
    torch.testing.assert_close(found.residual, float(left), rtol=1e-6, atol=0)


def test_nothing_to_solve_asks_for_no_product() -> None:
    def never(_: Tensor) -> Tensor:
        raise AssertionError

    found = conjugate_gradient(never, torch.zeros(3), iterations=5)
    assert torch.equal(found.x, torch.zeros(3))
    assert found.residual == 0
