"""Minimise a smooth function plus a weighted sum of absolute values, by OWL-QN.

Andrew and Gao, "Scalable Training of L1-Regularized Log-Linear Models", ICML 2007,
https://doi.org/10.1145/1273496.1273501

A quasi-Newton method cannot cross the kink at 0 of an absolute value. OWL-QN stays within one
orthant at a step, where the absolute values are linear: the pseudo-gradient says which one, and
whatever would leave it becomes exactly 0.

Departures from the paper:
    1. Curvature comes from pairs with s . y > 1e-8 |s| |y| alone.
    2. A search that finds nothing lower clears the history and begins anew with a step half as
       long; the third in a row ends the run. What is not finite counts as not lower, so that a
       point once accepted is always finite.

Rows are as long as a network has weights, so every row counts: six are held beside the history,
which is allocated once. Elementwise work goes by pieces, whose temporaries are short, and sums
are taken in double precision.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from expunge.types import Refused

Smooth = Callable[[Float[Tensor, " p"], Float[Tensor, " p"]], float]
"""Returns the smooth part's value at the first row and writes its gradient to the second."""

CPU_PIECE, GPU_PIECE = 2**18, 2**24  # numbers worked on at once: 1 MB stay in a CPU's cache
DESCENT = 1e-4  # share of the promised decrease that a step must keep
CURVED = 1e-8  # least cosine between a step and the gradient's change
FIRST = 0.1  # length of a step taken without any history
HALVINGS, FAILURES = 25, 3


class Iterate(NamedTuple):
    """Where a minimisation is.

    Attributes:
        x: The point itself; a callback must copy what it wants to keep.
        smooth: Value of the smooth part.
        penalty: Value of the weighted sum of absolute values.
        evaluations: Of the smooth part so far.
    """

    x: Float[Tensor, " p"]
    smooth: float
    penalty: float
    evaluations: int


class Limits(NamedTuple):
    """When a minimisation ends at the latest.

    Attributes:
        iterations: Steps taken, and searches that found none.
        evaluations: Of the smooth part; no search begins, or goes on, beyond.
        gradient: Largest entry of the pseudo-gradient, as a share of that at the start.
        change: Relative decrease of the objective in one step.
    """

    iterations: int
    evaluations: int
    gradient: float = 1e-9
    change: float = 1e-12


After = Callable[[Iterate], bool]
"""Called after every step; True ends the run."""


def minimise(
    smooth: Smooth,
    x: Float[Tensor, " p"],
    weights: Float[Tensor, " p"],
    limits: Limits,
    *,
    history: int = 10,
    after: After | None = None,
) -> str:
    """Minimise smooth(x) + sum of weights * |x|, in place, and return why it ended.

    The objective never rises from one step to the next.

    Args:
        smooth: The differentiable part.
        x: The start; the result afterwards.
        weights: Of the absolute values, none below 0.
        limits: When to end.
        history: Pairs of steps and gradient changes that curvature is taken from.
        after: Shown each step.

    Returns:
        `converged`, `iterations`, `evaluations`, `line search` or `stopped`.

    Raises:
        Refused: Where the objective is not finite at the start.
    """
    return _Run(smooth, x, weights, limits, history).go(after)


def pseudo_gradient(
    x: Float[Tensor, " p"], gradient: Float[Tensor, " p"], weights: Float[Tensor, " p"]
) -> Float[Tensor, " p"]:
    """Return the slope of the objective, and at a kink the one nearest to 0 that it has."""
    inside = gradient + weights * x.sign()
    # At 0 a slope within the weight of either side is none: the point stays there.
    kink = gradient - gradient.clamp(-weights, weights)
    return torch.where(x == 0, kink, inside)


def largest_weight(gradient: Float[Tensor, " p"], omega: Float[Tensor, " p"]) -> float:
    """Return the least lambda for which x = 0 minimises f(x) + lambda * sum of omega * |x|.

    At least locally, and everywhere where f is convex; infinite where an omega of 0 has a slope.

    Args:
        gradient: Of f at 0.
        omega: None below 0.
    """
    return max(
        (float((g.abs() / o).where(g != 0, 0.0).max()) for g, o in pieces(gradient, omega)),
        default=0.0,
    )


def penalty(x: Float[Tensor, " p"], weights: Float[Tensor, " p"]) -> float:
    """Return the weighted sum of absolute values."""
    return dot_of((a.abs(), b) for a, b in pieces(x, weights))


def dot(a: Float[Tensor, " p"], b: Float[Tensor, " p"]) -> float:
    """Return the inner product, summed in double precision."""
    return dot_of(pieces(a, b))


def dot_of(parts: Iterable[tuple[Tensor, ...]]) -> float:
    """Return the inner product of rows that come in pieces."""
    sums = [torch.dot(a.double(), b.double()) for a, b in parts]
    return float(torch.stack(sums).sum()) if sums else 0.0


def pieces(*rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the rows side by side, in pieces: views, so that writing to one writes to the row."""
    size = CPU_PIECE if rows[0].device.type == "cpu" else GPU_PIECE
    return zip(*(row.split(size) for row in rows), strict=True)


class History:
    """The last pairs of steps and gradient changes: an inverse Hessian, never formed."""

    def __init__(self, pairs: int, like: Float[Tensor, " p"]) -> None:
        self._steps = like.new_empty(pairs, len(like))
        self._changes = like.new_empty(pairs, len(like))
        self._order: list[int] = []  # rows in use, oldest first
        self._products: dict[int, float] = {}
        self._scale = 1.0

    def __len__(self) -> int:
        return len(self._order)

    def clear(self) -> None:
        """Forget all pairs."""
        self._order.clear()

    def add(self, start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor]) -> None:
        """Keep the pair of a step, in the place of the oldest, unless it is not curved upwards.

        Args:
            start: Point and smooth gradient before the step.
            end: Those after it.
        """
        if not len(self._steps):
            return
        sums = torch.zeros(3, dtype=torch.float64, device=start[0].device)
        for x, g, to, slope in pieces(*start, *end):
            step, change = (to - x).double(), (slope - g).double()
            sums += torch.stack([step.dot(change), step.dot(step), change.dot(change)])
        product, length, bend = sums.tolist()
        if not product > CURVED * math.sqrt(length * bend):
            return
        full = len(self._order) == len(self._steps)
        row = self._order.pop(0) if full else len(self._order)
        torch.sub(end[0], start[0], out=self._steps[row])
        torch.sub(end[1], start[1], out=self._changes[row])
        self._order.append(row)
        self._products[row] = product
        self._scale = product / bend

    def apply(self, row: Float[Tensor, " p"]) -> None:
        """Multiply a row by the inverse Hessian, in place: the two-loop recursion."""
        shares: dict[int, float] = {}
        for k in reversed(self._order):
            shares[k] = dot(self._steps[k], row) / self._products[k]
            row.add_(self._changes[k], alpha=-shares[k])
        if self._order:
            row.mul_(self._scale)
        for k in self._order:
            share = dot(self._changes[k], row) / self._products[k]
            row.add_(self._steps[k], alpha=shares[k] - share)


class _Run:
    """The rows of one minimisation."""

    def __init__(
        self, smooth: Smooth, x: Tensor, weights: Tensor, limits: Limits, history: int
    ) -> None:
        self._smooth, self._weights, self._limits = smooth, weights, limits
        self._x, self._gradient = x, torch.zeros_like(x)
        self._trial, self._slope = torch.empty_like(x), torch.zeros_like(x)
        self._direction = torch.empty_like(x)
        self._pairs = History(history, x)
        self._evaluations = 0
        self._value = self._ask(x, self._gradient)
        self._penalty = penalty(x, weights)
        if not math.isfinite(self._objective):
            raise Refused(
                f"expected an objective that is finite at the start, got {self._objective}; the "
                "network's outputs or the weights of the penalty are not"
            )

    @property
    def _objective(self) -> float:
        return self._value + self._penalty

    def _ask(self, x: Tensor, gradient: Tensor) -> float:
        self._evaluations += 1
        return self._smooth(x, gradient)

    def go(self, after: After | None) -> str:
        """Take steps until one of the limits is met."""
        failures, first, steepest = 0, FIRST, None
        for _ in range(self._limits.iterations):
            length, size = self._descend()
            steepest = size if steepest is None else steepest
            if size <= self._limits.gradient * steepest:
                return "converged"
            before = self._objective
            alpha = 1.0 if len(self._pairs) else min(1.0, first / length)
            if not self._search(alpha):
                if self._evaluations >= self._limits.evaluations:
                    return "evaluations"
                failures, first = failures + 1, first / 2
                self._pairs.clear()
                if failures == FAILURES:
                    return "line search"
                continue
            failures = 0
            here = Iterate(self._x, self._value, self._penalty, self._evaluations)
            if after is not None and after(here):
                return "stopped"
            if before - self._objective <= self._limits.change * abs(before):
                return "converged"
        return "iterations"

    def _descend(self) -> tuple[float, float]:
        """Set the direction; return length and largest entry of the pseudo-gradient."""
        direction, rows = self._direction, (self._x, self._gradient, self._weights)
        for into, *parts in pieces(direction, *rows):
            torch.neg(pseudo_gradient(*parts), out=into)
        length = math.sqrt(dot(direction, direction))
        size = float(torch.stack(direction.aminmax()).abs().max())
        self._pairs.apply(direction)
        for part, *parts in pieces(direction, *rows):
            part.masked_fill_(part * pseudo_gradient(*parts) >= 0, 0)
        return length, size

    def _search(self, alpha: float) -> bool:
        """Halve the step until the objective falls enough, and take it; False if it never does."""
        for _ in range(HALVINGS):
            if self._evaluations >= self._limits.evaluations:
                return False
            promised = self._try(alpha)
            if not promised < 0:  # the point does not move, or nothing along it is a number
                return False
            value, size = self._ask(self._trial, self._slope), penalty(self._trial, self._weights)
            low = value + size <= self._objective + DESCENT * promised
            if low and bool(self._slope.sum().isfinite()):
                self._pairs.add((self._x, self._gradient), (self._trial, self._slope))
                self._x.copy_(self._trial)
                self._gradient, self._slope = self._slope, self._gradient
                self._value, self._penalty = value, size
                return True
            alpha /= 2
        return False

    def _try(self, alpha: float) -> float:
        """Set the trial point, and return the decrease that the pseudo-gradient promises for it."""
        promised = []
        rows = (self._x, self._gradient, self._weights)
        for trial, direction, x, gradient, weights in pieces(self._trial, self._direction, *rows):
            torch.add(x, direction, alpha=alpha, out=trial)
            # At 0 the direction's own sign is the orthant: it was made to agree with the slope.
            orthant = torch.where(x == 0, direction, x).sign()
            trial.masked_fill_(trial.sign() != orthant, 0)
            slope = pseudo_gradient(x, gradient, weights)
            promised.append(torch.dot(slope.double(), (trial - x).double()))
        return float(torch.stack(promised).sum())
