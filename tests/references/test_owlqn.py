"""OWL-QN against proximal gradient, and both optimisers against each other."""

import gc
import math

import pytest
import torch
from torch import Tensor

from expunge.core import lbfgs, owlqn
from expunge.core.owlqn import Iterate, Limits, largest_weight, minimise, pseudo_gradient
from expunge.types import Refused

ROWS, WIDTH = 30, 12
LIMITS = Limits(500, 5000)


class LeastSquares:
    """The mean squared residual of a linear model, over two."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        draws = torch.Generator().manual_seed(seed)
        self.a = torch.randn(ROWS, WIDTH, generator=draws, dtype=dtype)
        sparse = torch.randn(WIDTH, generator=draws, dtype=dtype)
        sparse[::2] = 0
        self.b = self.a @ sparse + 0.1 * torch.randn(ROWS, generator=draws, dtype=dtype)
        self.weights = torch.rand(WIDTH, generator=draws, dtype=dtype) + 0.1
        self.calls = 0

    def __call__(self, x: Tensor, gradient: Tensor) -> float:
        self.calls += 1
        residual = self.a @ x - self.b
        gradient.copy_(self.a.T @ residual / ROWS)
        return float(residual.square().mean() / 2)

    def start(self) -> Tensor:
        return torch.zeros(WIDTH, dtype=self.a.dtype)

    def objective(self, x: Tensor, weights: Tensor) -> float:
        return self(x, torch.empty_like(x)) + float((weights * x.abs()).sum())


def by_proximal_gradient(problem: LeastSquares, weights: Tensor) -> Tensor:
    """Minimise by steps along the gradient, each followed by its soft threshold."""
    rate = ROWS / float(torch.linalg.matrix_norm(problem.a, 2) ** 2)
    x, gradient = problem.start(), problem.start()
    for _ in range(3_000):
        problem(x, gradient)
        moved = x - rate * gradient
        x = moved.sign() * (moved.abs() - rate * weights).clamp(min=0)
    return x


@pytest.mark.parametrize("penalty", [0.0, 0.01, 0.1, 0.5])
@pytest.mark.parametrize("history", [1, 10])
def test_the_weighted_lasso_is_that_of_proximal_gradient(penalty: float, history: int) -> None:
    problem = LeastSquares()
    weights = penalty * problem.weights
    expected, x = by_proximal_gradient(problem, weights), problem.start()
    minimise(problem, x, weights, LIMITS, history=history)
    assert float((x - expected).abs().max()) < 1e-6
    assert torch.equal(x == 0, expected == 0)
    assert penalty == 0 or bool((x == 0).any())


def test_from_the_largest_penalty_on_nothing_moves_and_just_below_it_one_weight_does() -> None:
    problem, gradient = LeastSquares(), torch.empty(WIDTH, dtype=torch.float64)
    problem(problem.start(), gradient)
    largest = largest_weight(gradient, problem.weights)
    assert largest == float((gradient.abs() / problem.weights).max())
    for factor, moved in ((1.0, 0), (2.0, 0), (0.99, 1)):
        x = problem.start()
        assert minimise(problem, x, factor * largest * problem.weights, LIMITS) == "converged"
        assert int(x.count_nonzero()) == moved


def test_a_weight_that_nothing_holds_has_no_largest_penalty() -> None:
    assert largest_weight(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0])) == math.inf
    assert largest_weight(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.0])) == 2.0


def test_the_pseudo_gradient_is_the_slope_on_the_side_that_falls() -> None:
    x = torch.tensor([2.0, -2.0, 0.0, 0.0, 0.0])
    gradient = torch.tensor([1.0, 1.0, 3.0, -3.0, 0.5])
    found = pseudo_gradient(x, gradient, torch.ones(5))
    assert found.tolist() == [2.0, 0.0, 2.0, -2.0, 0.0]


def test_the_first_step_by_hand() -> None:
    # f = (x - 3)² / 2 + (y - 1)² / 2, weights 1 and 2: y stays, x goes 0.1 along its slope of -2.
    def smooth(x: Tensor, gradient: Tensor) -> float:
        gradient.copy_(x - torch.tensor([3.0, 1.0]))
        return float(gradient.square().sum() / 2)

    x = torch.zeros(2)
    assert minimise(smooth, x, torch.tensor([1.0, 2.0]), Limits(1, 9)) == "iterations"
    torch.testing.assert_close(x, torch.tensor([0.1, 0.0]))


def test_the_objective_never_rises_and_the_callback_is_told_it() -> None:
    problem = LeastSquares()
    weights, values = 0.05 * problem.weights, []

    def after(here: Iterate) -> bool:
        values.append(here.smooth + here.penalty)
        assert math.isclose(values[-1], problem.objective(here.x, weights), rel_tol=1e-12)
        return len(values) == 6

    assert minimise(problem, problem.start(), weights, LIMITS, after=after) == "stopped"
    assert len(values) == 6
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(("run", "atol"), [(owlqn.minimise, 1e-6), (lbfgs.minimise, 1e-5)])
def test_both_optimisers_agree_where_there_is_no_penalty(run, atol: float) -> None:
    problem, x = LeastSquares(), LeastSquares().start()
    run(problem, x, torch.zeros(WIDTH, dtype=x.dtype), LIMITS)
    expected = torch.linalg.lstsq(problem.a, problem.b).solution
    torch.testing.assert_close(x, expected, rtol=0, atol=atol)


def test_the_penalised_gradient_of_lbfgs_is_that_of_automatic_differentiation() -> None:
    problem = LeastSquares()
    x = torch.tensor([0.0, 1.0, -1.0] * 4, dtype=torch.float64)
    run = lbfgs._Run(problem, x, problem.weights)
    value = run.closure()
    leaf = x.clone().requires_grad_()
    smooth = (problem.a @ leaf - problem.b).square().mean() / 2
    whole = lbfgs.SCALE * (smooth + (problem.weights * leaf.abs()).sum())
    whole.backward()
    assert math.isclose(value, whole.item(), rel_tol=1e-12)
    torch.testing.assert_close(run._point.grad, leaf.grad)


def test_lbfgs_is_stuck_where_the_penalty_outweighs_the_gradient_and_owlqn_is_not() -> None:
    problem, gradient = LeastSquares(), LeastSquares().start()
    problem(problem.start(), gradient)
    weights = 0.7 * largest_weight(gradient, problem.weights) * problem.weights
    naive, ours = problem.start(), problem.start()
    lbfgs.minimise(problem, naive, weights, LIMITS)
    minimise(problem, ours, weights, LIMITS)
    assert problem.objective(ours, weights) < problem.objective(naive, weights)
    assert 0 < int(ours.count_nonzero()) < WIDTH


@pytest.mark.parametrize("run", [owlqn.minimise, lbfgs.minimise])
@pytest.mark.parametrize("asked", [0, 1, 7, 40])
def test_no_more_is_evaluated_than_allowed(run, asked: int) -> None:
    problem, x = LeastSquares(), LeastSquares().start()
    ended = run(problem, x, 1e-3 * problem.weights, Limits(10_000, asked, 0.0, 0.0))
    assert problem.calls <= max(1, asked)
    assert ended in ("evaluations", "line search", "converged", "stuck")


@pytest.mark.parametrize("run", [owlqn.minimise, lbfgs.minimise])
def test_what_is_not_finite_is_never_the_result(run) -> None:
    def smooth(x: Tensor, gradient: Tensor) -> float:
        gradient.fill_(-10.0)
        if float(x.max()) > 0.5:
            return math.nan
        return -10.0 * float(x.sum())

    x = torch.zeros(3)
    run(smooth, x, torch.full((3,), 0.1), Limits(50, 500))
    assert bool(x.isfinite().all())
    assert float(x.max()) <= 0.5
    assert float(x.max()) > 0 or run is lbfgs.minimise  # its search runs beyond, and goes back


def test_a_start_that_is_not_finite_is_refused() -> None:
    with pytest.raises(Refused, match="finite at the start, got nan"):
        minimise(lambda x, g: math.nan, torch.zeros(2), torch.ones(2), LIMITS)


@pytest.mark.parametrize("piece", [1, 5])
def test_pieces_of_any_size_give_the_same(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = LeastSquares()
    weights, whole, parted = 0.05 * problem.weights, problem.start(), problem.start()
    minimise(problem, whole, weights, Limits(8, 100))
    monkeypatch.setattr(owlqn, "CPU_PIECE", piece)
    minimise(problem, parted, weights, Limits(8, 100))
    torch.testing.assert_close(parted, whole, rtol=1e-9, atol=1e-12)


def test_the_inverse_hessian_is_that_of_the_textbook_recursion() -> None:
    """By the products of matrices that the recursion stands for."""
    draws = torch.Generator().manual_seed(3)
    curve = torch.randn(5, 5, generator=draws, dtype=torch.float64)
    curve = curve @ curve.T + torch.eye(5, dtype=torch.float64)
    steps = torch.randn(4, 5, generator=draws, dtype=torch.float64)
    history, row = owlqn.History(3, steps[0]), torch.ones(5, dtype=torch.float64)
    for step in steps:
        zero = torch.zeros_like(step)
        history.add((zero, zero), (step, curve @ step))
    history.add((row, row), (row + 1, row - 1))  # curved downwards: left out
    kept = [(s, curve @ s) for s in steps[1:]]
    s, y = kept[-1]
    expected = torch.eye(5, dtype=torch.float64) * (s @ y) / (y @ y)
    for s, y in kept:
        rho = 1 / (s @ y)
        left = torch.eye(5, dtype=torch.float64) - rho * torch.outer(s, y)
        expected = left @ expected @ left.T + rho * torch.outer(s, s)
    found = row.clone()
    history.apply(found)
    torch.testing.assert_close(found, expected @ row)


def test_six_rows_are_held_beside_the_history() -> None:
    """By the storages that are alive while the function is asked."""
    width, pairs, most = 1_003, 3, 0

    def smooth(x: Tensor, gradient: Tensor) -> float:
        nonlocal most
        alive = [o for o in gc.get_objects() if type(o) is Tensor]
        rows = {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() / (4 * width)
            for t in alive
            if t.numel() in (width, pairs * width) and t.dtype == x.dtype
        }
        most = max(most, round(sum(rows.values())))
        gradient.copy_(x - 1)
        return float((x - 1).square().sum() / 2)

    x, weights = torch.zeros(width), torch.full((width,), 0.1)
    gc.collect()
    minimise(smooth, x, weights, Limits(8, 50, 0.0, 0.0), history=pairs)
    assert most == 6 + 2 * pairs
