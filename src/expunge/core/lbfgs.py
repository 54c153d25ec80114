"""Minimise a smooth function plus a weighted sum of absolute values by L-BFGS, kinks and all.

Zhu, Byrd, Lu and Nocedal, "Algorithm 778: L-BFGS-B", ACM Transactions on Mathematical Software
23(4), 1997, https://doi.org/10.1145/279232.279236, stands for the family; this is PyTorch's own,
with a strong Wolfe search, on an objective that is not smooth. The derivative of |x| at 0 is
taken to be 0, as automatic differentiation has it. So the first step is as long as if there were
no penalty, and where the penalty outweighs most of the gradient no point along it is lower: the
minimisation stays at 0. `core.owlqn` does not.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from expunge.core.owlqn import FAILURES, After, Iterate, Limits, Smooth, penalty

SCALE = 100.0  # of the objective: the tolerances are absolute, and meant for larger numbers
SEARCH = 25  # evaluations along one line, after the first
STEP = SEARCH + 2  # most evaluations that one step takes, that at its end included


def minimise(
    smooth: Smooth,
    x: Float[Tensor, " p"],
    weights: Float[Tensor, " p"],
    limits: Limits,
    *,
    history: int = 10,
    after: After | None = None,
) -> str:
    """Minimise as `core.owlqn.minimise` does, but without regard for the kinks.

    Where the objective stops being finite the last finite point is taken up again, without
    history and at half the step; the third time in a row ends the run.

    Returns:
        `stuck` where a step changed nothing, else as `core.owlqn.minimise`.
    """
    run = _Run(smooth, x, weights)
    optimizer, failures, lr = run.optimizer(history, 1.0), 0, 1.0
    kept = x.clone()
    before = run.look()
    for _ in range(limits.iterations):
        if run.evaluations + STEP > limits.evaluations:
            return "evaluations"
        optimizer.step(run.closure)
        value = run.look()
        if not math.isfinite(value) or not bool(x.isfinite().all()):
            x.copy_(kept)
            failures, lr = failures + 1, lr / 2
            if failures == FAILURES:
                return "line search"
            optimizer = run.optimizer(history, lr)
            run.look()
            continue
        if torch.equal(x, kept):
            return "stuck"
        failures = 0
        kept.copy_(x)
        here = Iterate(x, run.smooth, value - run.smooth, run.evaluations)
        if after is not None and after(here):
            return "stopped"
        if abs(before - value) <= limits.change * abs(before):
            return "converged"
        before = value
    return "iterations"


class _Run:
    """A point as the optimiser sees it, and the objective with its gradient there."""

    def __init__(self, smooth: Smooth, x: Tensor, weights: Tensor) -> None:
        self._ask, self._x, self._weights = smooth, x, weights
        self._point = nn.Parameter(x)  # the same storage
        self._point.grad = torch.zeros_like(x)
        self._current = False
        self._value = math.nan
        self.evaluations = 0
        self.smooth = math.nan

    def optimizer(self, history: int, lr: float) -> torch.optim.LBFGS:
        """Return a new optimiser that takes one iteration at a step."""
        return torch.optim.LBFGS(
            [self._point],
            lr,
            max_iter=1,
            max_eval=SEARCH + 1,  # left out, it would be 1, and the search would have none
            history_size=history,
            line_search_fn="strong_wolfe",
        )

    def look(self) -> float:
        """Evaluate here, so that the next step need not, and return the objective."""
        self._current = False
        self.closure()
        self._current = True
        return self._value

    @torch.no_grad()
    def closure(self) -> float:
        """Set the gradient of the scaled objective and return it."""
        if self._current:
            self._current = False
            return SCALE * self._value
        gradient = self._point.grad
        assert gradient is not None
        self.evaluations += 1
        self.smooth = self._ask(self._x, gradient)
        gradient.addcmul_(self._weights, self._x.sign()).mul_(SCALE)
        self._value = self.smooth + penalty(self._x, self._weights)
        return SCALE * self._value
