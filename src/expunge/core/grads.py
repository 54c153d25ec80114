"""Gradients of the loss, and their squares per sample: the diagonal of the Fisher."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from expunge.core.calls import Gradients, forward, layers_of
from expunge.core.squares import squares
from expunge.core.state import mode
from expunge.types import Batch, Inputs, Task, each

# Numbers that the layers' inputs hold in one backward: bounds memory, and on a CPU, where
# 64 MB was fastest by a tenth, keeps more of them in its cache until they are wanted again.
CPU_HELD, GPU_HELD = 2**24, 2**28
VMAP_NUMBERS = 2**26  # of per-sample gradients held at once: 256 MB


def squared_gradients(model: nn.Module, task: Task, batches: Iterable[Batch]) -> Gradients:
    """Return, per parameter, the mean over records of the squared loss gradient.

    This is the diagonal of the empirical Fisher information. The model is read in eval
    mode: with batch statistics a per-sample gradient is not defined. Losses count alike:
    a task's class weights play no part. One backward per batch suffices for networks of
    common layers; any other takes the slower way of a gradient per record, with the same
    result.

    Args:
        model: Left as found; parameters that are frozen are included.
        task: Whose losses are differentiated.
        batches: Records in any order and grouping; neither changes the result.

    Raises:
        ValueError: Where there are no records.
    """
    leaves = _leaves(model)
    total = {name: torch.zeros_like(p, requires_grad=False) for name, p in model.named_parameters()}
    count, size = 0, None
    with mode(model, training=False), torch.enable_grad():
        for batch in batches:
            if size is None:
                size = _fitting(model, leaves, task, batch)
            for part in _split(batch, size or len(batch.y)):
                found = _by_layer(model, leaves, task, part) if size else None
                if found is None:
                    found = _by_record(model, leaves, task, part)
                for name, squared in found.items():
                    total[name] += squared
            count += len(batch.y)
    return _mean(total, count)


def mean_gradient(model: nn.Module, task: Task, batches: Iterable[Batch]) -> Gradients:
    """Return, per parameter, the gradient of the mean training loss, read in eval mode.

    Losses are summed and divided once, so a short last batch counts no more than its
    records; a task's class weights count as in training.

    Args:
        model: Left as found; parameters that are frozen are included.
        task: Whose losses are differentiated.
        batches: Records in any order and grouping; neither changes the result.

    Raises:
        ValueError: Where there are no records.
    """
    leaves = _leaves(model)
    total = {name: torch.zeros_like(p, requires_grad=False) for name, p in model.named_parameters()}
    weight = 0.0
    with mode(model, training=False), torch.enable_grad():
        for x, y, _ in batches:
            losses = task.losses(functional_call(model, leaves, (x,)), y)
            weights = task.weigh(y)
            weights = torch.ones_like(losses) if weights is None else weights
            summed = (weights * losses).sum()
            found = torch.autograd.grad(summed, list(leaves.values()), materialize_grads=True)
            for name, part in zip(leaves, found, strict=True):
                total[name] += part
            weight += float(weights.sum())
    return _mean(total, weight)


def _mean(total: Gradients, count: int | float) -> Gradients:
    if not count:
        raise ValueError("expected records to average gradients over, got none; check the split")
    return {name: part / count for name, part in total.items()}


def _leaves(model: nn.Module) -> Gradients:
    """Return the parameters as leaves of our own, so that the model's are not touched."""

    def leaf(p: Tensor) -> Tensor:
        # Channels last: convolutions are a third faster so.
        alone = p.detach()
        alone = alone.contiguous(memory_format=torch.channels_last) if p.dim() == 4 else alone
        return alone.requires_grad_()

    return {name: leaf(p) for name, p in model.named_parameters()}


def _split(batch: Batch, size: int) -> Iterator[Batch]:
    for rows in torch.arange(len(batch.y), device=batch.y.device).split(size):
        x = each(batch.x, lambda part, rows=rows: part[rows])
        yield Batch(x, batch.y[rows], batch.index[rows.to(batch.index.device)])


def _fitting(model: nn.Module, leaves: Gradients, task: Task, batch: Batch) -> int:
    """Return how many records one backward should take, 0 where it would not be exact.

    One record alone shows both: which dimension is the records', and how much it holds.
    """
    told = forward(model, leaves, task, next(_split(batch, 1)))
    if told is None:
        return 0
    _, calls = told
    held = sum(call.seen.numel() for call in calls.values())
    whole = CPU_HELD if batch.y.device.type == "cpu" else GPU_HELD
    return max(1, whole // max(1, held))


def _by_layer(model: nn.Module, leaves: Gradients, task: Task, batch: Batch) -> Gradients | None:
    """Return the sums of squares by one backward, or None where that would not be exact."""
    told = forward(model, leaves, task, batch)
    if told is None:
        return None
    losses, calls = told
    edges = [call.edge for call in calls.values() if call.edge is not None]
    backs = torch.autograd.grad(losses.sum(), edges, allow_unused=True) if edges else ()
    layers = layers_of(model)
    return {
        f"{name}.{kind}".lstrip("."): part
        for (name, call), back in zip(calls.items(), backs, strict=True)
        if back is not None
        for kind, part in squares(layers[name], call.seen, back).items()
    }


def _by_record(model: nn.Module, leaves: Gradients, task: Task, batch: Batch) -> Gradients:
    """Return the sums of squares by one gradient per record, vectorised where that pays."""

    def loss(leaves: Gradients, x: Inputs, y: Tensor) -> Tensor:
        one = each(x, lambda part: part[None])
        return task.losses(functional_call(model, leaves, (one,)), y[None])[0]

    numbers = sum(leaf.numel() for leaf in leaves.values())
    # PyTorch has no vectorised recurrence on a CPU: it loops, ten times slower than we do.
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    size = 1 if recurrent else max(1, VMAP_NUMBERS // max(1, numbers))
    plain = {name: leaf.detach() for name, leaf in leaves.items()}
    total = {name: torch.zeros_like(leaf) for name, leaf in plain.items()}
    for x, y, _ in _split(batch, size):
        if size == 1:
            alone = loss(leaves, each(x, lambda part: part[0]), y[0])
            parts = torch.autograd.grad(alone, list(leaves.values()), materialize_grads=True)
            found = {name: part[None] for name, part in zip(leaves, parts, strict=True)}
        else:
            found = vmap(grad(loss), in_dims=(None, 0, 0))(plain, x, y)
        for name, part in found.items():
            total[name] += part.square().sum(0)  # not in place: two may be one tensor
    return total
