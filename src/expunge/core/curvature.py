"""Products with a curvature matrix that is never formed, and equations solved by them.

Schraudolph, "Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent",
Neural Computation 14(7), 2002, https://doi.org/10.1162/08997660260028683; Hestenes and
Stiefel, "Methods of Conjugate Gradients for Solving Linear Systems", 1952,
https://doi.org/10.6028/jres.049.044
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp

from expunge.core.cost import priced
from expunge.core.state import mode
from expunge.types import Batch, Refused, Task

Matrix = Literal["ggn", "empirical_fisher"]
Product = Callable[[Float[Tensor, " p"]], Float[Tensor, " p"]]

FORWARD, BACKWARD = 3, 1  # per record of a product: outputs twice, their derivative, its pull


def flat(named: Mapping[str, Float[Tensor, "..."]]) -> Float[Tensor, " p"]:
    """Return all entries in one row, in the order of the names."""
    return torch.cat([part.reshape(-1) for part in named.values()])


def shaped(row: Float[Tensor, " p"], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the row's entries by name, in the shapes of `like`: what `flat` undoes."""
    parts = row.split([part.numel() for part in like.values()])
    return {name: part.view(like[name].shape) for name, part in zip(like, parts, strict=True)}


def curvature(model: nn.Module, task: Task, batches: Sequence[Batch], matrix: Matrix) -> Product:
    """Return what multiplies a vector of all parameters by a matrix of mean curvature.

    With J a record's derivative of outputs by parameters, its loss's gradient g and Hessian
    H by outputs, the generalised Gauss-Newton matrix is the mean over records of Jᵀ H J: the
    loss's Hessian without what bends the network itself, and so never negative. The empirical
    Fisher is the mean of Jᵀ g gᵀ J. The network is read in eval mode. Records count as
    in the training loss, by a task's class weights.

    A product takes one pass of forward derivatives and one of backward ones over each
    record, and memory as for a step of training.

    Args:
        model: Left as found; parameters that are frozen are included.
        task: Whose losses are meant; questions are posed already, so that every product is
            of one matrix.
        batches: Records in any grouping.
        matrix: Which.

    Raises:
        Refused: Where there are no records.
    """
    at = {name: p.detach() for name, p in model.named_parameters()}
    weights = [_weights(task, batch) for batch in batches]
    mass = float(sum(w.sum() for w in weights))
    if not mass:
        raise Refused("expected records to measure curvature on, got none; check the split")

    def product(row: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        direction, total = shaped(row, at), torch.zeros_like(row)
        with mode(model, training=False), _plain_recurrence(model):
            for batch, weight in zip(batches, weights, strict=True):
                n = len(batch.y)
                with priced(forward=FORWARD * n, backward=BACKWARD * n):
                    share = weight.to(row) / mass
                    total += _on_batch(model, task, batch, share, matrix, at, direction)
        return total

    return product


class Solution(NamedTuple):
    """What solves an equation, and how well.

    Attributes:
        x: The solution.
        residual: Length of what is left of the right-hand side, as a share of its own. It
            may rise above 1 on the way: what falls steadily is the error, not this.
    """

    x: Float[Tensor, " p"]
    residual: float


def conjugate_gradient(
    product: Product, b: Float[Tensor, " p"], iterations: int, damping: float = 0.0
) -> Solution:
    """Solve (A + damping · I) x = b from x = 0 by conjugate gradient.

    Exact after as many iterations as the matrix has different eigenvalues; before that, each
    leaves the error smaller in the norm of the matrix.

    Args:
        product: Multiplies by A, symmetric and nowhere negative.
        b: The right-hand side.
        iterations: Products taken; fewer only where nothing is left to solve.
        damping: Added to every eigenvalue; where A may be singular, positive.
    """
    x, residual, direction = torch.zeros_like(b), b.clone(), b.clone()
    left = start = _dot(b, b)
    for _ in range(iterations):
        if left == 0:
            break
        image = product(direction) + damping * direction
        length = left / _dot(direction, image)
        x += length * direction
        residual -= length * image
        before, left = left, _dot(residual, residual)
        direction = residual + left / before * direction
    return Solution(x, (left / start) ** 0.5 if start else 0.0)


def _dot(a: Tensor, b: Tensor) -> float:
    """Return the inner product, summed in double precision: rows are millions long."""
    return float((a.double() * b.double()).sum())


def _weights(task: Task, batch: Batch) -> Tensor:
    weights = task.weigh(batch.y)
    return torch.ones(len(batch.y), device=batch.y.device) if weights is None else weights


@contextmanager
def _plain_recurrence(model: nn.Module) -> Iterator[None]:
    """Run recurrent layers step by step: the fused kernels have no forward derivative."""
    if not any(isinstance(module, nn.RNNBase) for module in model.modules()):
        yield
        return
    fused: tuple[Any, Any] = torch.backends.mkldnn, torch.backends.cudnn
    were = [kernels.enabled for kernels in fused]
    for kernels in fused:
        kernels.enabled = False
    try:
        yield
    finally:
        for kernels, was in zip(fused, were, strict=True):
            kernels.enabled = was


def _on_batch(
    model: nn.Module,
    task: Task,
    batch: Batch,
    weights: Tensor,
    matrix: Matrix,
    at: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
) -> Tensor:
    """Return the batch's part of a product, records counted by `weights`."""

    def outputs(parameters: Mapping[str, Tensor]) -> Tensor:
        return functional_call(model, dict(parameters), (batch.x,))

    def losses(outputs: Tensor) -> Tensor:
        return task.training_losses(outputs, batch.y)

    with torch.no_grad():
        said, moved = jvp(outputs, (at,), (direction,))[:2]
        if matrix == "ggn":
            slope = grad(lambda out: (weights * losses(out)).sum())
            pulled = jvp(slope, (said,), (moved,))[1]
        else:
            slope = grad(lambda out: losses(out).sum())(said)
            each = (slope * moved).reshape(len(said), -1).sum(1)
            pulled = slope * (weights * each).reshape(-1, *[1] * (said.dim() - 1))
    leaves = {name: part.detach().requires_grad_() for name, part in at.items()}
    with torch.enable_grad():
        found = torch.autograd.grad(
            outputs(leaves), list(leaves.values()), pulled, materialize_grads=True
        )
    return flat(dict(zip(leaves, found, strict=True)))
