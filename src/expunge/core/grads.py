"""Gradients of the loss, and their squares and sizes per sample.

The mean square is the diagonal of the Fisher information; the mean size, with the absolute value
inside the mean, is how much each weight matters to a single record.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from expunge.core.calls import Gradients, forward, layers_of
from expunge.core.cost import priced
from expunge.core.sample import joined
from expunge.core.squares import Power, squares
from expunge.core.state import mode, norms_of, without_cudnn
from expunge.types import Batch, Inputs, Refused, Task, each

Fisher = Literal["empirical", "monte_carlo", "exact"]
"""Of which answers: the records' own, one drawn from the model for each, all by chance."""

# Numbers that the layers' inputs hold in one backward: bounds memory, and on a CPU, where
# 64 MB was fastest by a tenth, keeps more of them in its cache until they are wanted again.
CPU_HELD, GPU_HELD = 2**24, 2**28
VMAP_NUMBERS = 2**26  # of per-sample gradients held at once: 256 MB


def squared_gradients(
    model: nn.Module,
    task: Task,
    batches: Iterable[Batch],
    fisher: Fisher = "empirical",
    draws: torch.Generator | None = None,
) -> Gradients:
    """Return, per parameter, the mean over records of the squared loss gradient.

    Of the records' own answers this is the diagonal of the empirical Fisher information; of
    answers as the model gives them, that of the Fisher information itself. The model is read
    in eval mode: with batch statistics a per-sample gradient is not defined. Losses count
    alike: a task's class weights play no part. One backward per batch and answer suffices
    for networks of common layers; any other takes the slower way of a gradient per record,
    with the same result.

    Args:
        model: Left as found; parameters that are frozen are included.
        task: Whose losses are differentiated.
        batches: Records in any order and grouping; neither changes the result, but for
            which answers are drawn.
        fisher: `empirical` takes each record's right answer, `monte_carlo` one drawn from
            the model's own distribution, `exact` the mean over all by that distribution.
        draws: Of answers; without it they come from the global generator.

    Raises:
        Refused: Where there are no records, where answers cannot be drawn, or where they
            are too many to go through.
    """
    return _mean_power(model, batches, _Asked(task, task.losses, fisher, Tensor.square_), draws)


def absolute_gradients(model: nn.Module, task: Task, batches: Iterable[Batch]) -> Gradients:
    """Return, per parameter, the mean over records of the training loss gradient's absolute value.

    The absolute value is inside the mean: gradients of opposite signs do not cancel. All else is
    as in `squared_gradients`, the speed included.

    Args:
        model: Left as found; parameters that are frozen are included.
        task: Whose losses are differentiated.
        batches: Records in any order and grouping; neither changes the result.

    Raises:
        Refused: Where there are no records.
    """
    asked = _Asked(task, task.training_losses, "empirical", Tensor.abs_)
    return _mean_power(model, batches, asked, None)


class _Asked(NamedTuple):
    """Whose gradients are taken, for which answers, and what is summed of each."""

    task: Task
    losses: Callable[[Tensor, Tensor], Tensor]
    fisher: Fisher
    power: Power


def _mean_power(
    model: nn.Module, batches: Iterable[Batch], asked: _Asked, draws: torch.Generator | None
) -> Gradients:
    leaves = _leaves(model)
    total = {name: torch.zeros_like(p, requires_grad=False) for name, p in model.named_parameters()}
    count, size = 0, None
    with mode(model, training=False), without_cudnn(model), torch.enable_grad():
        for batch in batches:
            if size is None:
                with priced():
                    size = _fitting(model, leaves, batch)
            chance = _chances(asked.fisher, batch.y, draws)
            held = size or len(batch.y)
            for part, its in zip(_split(batch, held), chance.split(held), strict=True):
                found = _by_layer(model, leaves, asked, part, its) if size else None
                if found is None:
                    found = _by_record(model, leaves, asked, part, its)
                for name, summed in found.items():
                    total[name] += summed
            count += len(batch.y)
    return _mean(total, count)


def mean_gradient(
    model: nn.Module, task: Task, batches: Iterable[Batch], beside: Iterable[Batch] | None = None
) -> Gradients:
    """Return, per parameter, the gradient of the mean training loss, read in eval mode.

    Losses are summed and divided once, so a short last batch counts no more than its
    records; a task's class weights count as in training.

    Args:
        model: Left as found; parameters that are frozen are included.
        task: Whose losses are differentiated.
        batches: Records in any order and grouping; neither changes the result.
        beside: For each batch, records that go through the network with it. Their own losses
            count for nothing, but BatchNorm takes the statistics of both, as in training, so
            that the grouping matters to it.

    Raises:
        Refused: Where there are no records.
    """
    leaves = _leaves(model)
    total = {name: torch.zeros_like(p, requires_grad=False) for name, p in model.named_parameters()}
    weight = 0.0
    with mode(model, training=False), without_cudnn(model), torch.enable_grad():
        if beside is not None:
            for norm in norms_of(model):
                norm.train()
        others = itertools.repeat(None) if beside is None else beside
        for batch, other in zip(batches, others, strict=beside is not None):
            x, y, _ = batch if other is None else joined([batch, other])
            state = leaves | {name: buffer.clone() for name, buffer in model.named_buffers()}
            losses = task.training_losses(functional_call(model, state, (x,)), y)[: len(batch.y)]
            weights = task.weigh(batch.y)
            weights = torch.ones_like(losses) if weights is None else weights
            summed = (weights * losses).sum()
            found = torch.autograd.grad(summed, list(leaves.values()), materialize_grads=True)
            for name, part in zip(leaves, found, strict=True):
                total[name] += part
            weight += float(weights.sum())
    return _mean(total, weight)


def _mean(total: Gradients, count: int | float) -> Gradients:
    if not count:
        raise Refused("expected records to average gradients over, got none; check the split")
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


def _chances(fisher: Fisher, y: Tensor, draws: torch.Generator | None) -> Tensor:
    """Return what decides which answers are drawn, the same for every device and grouping."""
    if fisher != "monte_carlo":
        return torch.zeros(len(y), device=y.device)
    return torch.rand(y.shape, generator=draws).to(y.device)


def _losses(asked: _Asked, chance: Tensor, outputs: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Yield losses per record whose gradients' powers are to be added up."""
    if asked.fisher == "empirical":
        yield asked.losses(outputs, y)
    elif asked.fisher == "monte_carlo":
        yield asked.losses(outputs, asked.task.draw(outputs.detach(), y, chance))
    else:
        for p, answer in asked.task.every(outputs.detach(), y):
            yield p.sqrt() * asked.losses(outputs, answer)


def _fitting(model: nn.Module, leaves: Gradients, batch: Batch) -> int:
    """Return how many records one backward should take, 0 where it would not be exact.

    One record alone shows both: which dimension is the records', and how much it holds.
    """
    told = forward(model, leaves, next(_split(batch, 1)))
    if told is None:
        return 0
    _, calls = told
    held = sum(call.seen.numel() for call in calls.values())
    whole = CPU_HELD if batch.y.device.type == "cpu" else GPU_HELD
    return max(1, whole // max(1, held))


def _by_layer(
    model: nn.Module, leaves: Gradients, asked: _Asked, batch: Batch, chance: Tensor
) -> Gradients | None:
    """Return the sums of powers by a backward per answer, or None where that is not exact."""
    told = forward(model, leaves, batch)
    if told is None:
        return None
    outputs, calls = told
    edges = [call.edge for call in calls.values() if call.edge is not None]
    layers = layers_of(model)
    total: Gradients = {}
    every = [*_losses(asked, chance, outputs, batch.y)] if edges else []
    for number, losses in enumerate(every, 1):
        more = number < len(every)
        backs = torch.autograd.grad(losses.sum(), edges, allow_unused=True, retain_graph=more)
        for (name, call), back in zip(calls.items(), backs, strict=True):
            if back is None:
                continue
            for kind, part in squares(layers[name], call.seen, back, asked.power).items():
                whole = f"{name}.{kind}".lstrip(".")
                total[whole] = total[whole] + part if whole in total else part
    return total


def _by_record(
    model: nn.Module, leaves: Gradients, asked: _Asked, part: Batch, chance: Tensor
) -> Gradients:
    """Return the sums of powers by one gradient per record, vectorised where that pays."""
    numbers = sum(leaf.numel() for leaf in leaves.values())
    # PyTorch has no vectorised recurrence on a CPU: it loops, ten times slower than we do.
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    alone = recurrent or asked.fisher != "empirical"
    size = 1 if alone else max(1, VMAP_NUMBERS // max(1, numbers))
    total = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    for few, its in zip(_split(part, size), chance.split(size), strict=True):
        if size == 1:
            found = _one_by_one(model, leaves, asked, few, its)
        else:
            with priced(forward=len(few.y), backward=len(few.y)):
                found = _vectorised(model, leaves, asked, few)
        for name, summed in found.items():
            total[name] += summed
    return total


def _one_by_one(
    model: nn.Module, leaves: Gradients, asked: _Asked, batch: Batch, chance: Tensor
) -> Gradients:
    """Return one record's powers, summed over its answers."""
    outputs = functional_call(model, leaves, (batch.x,))
    every = [*_losses(asked, chance, outputs, batch.y)]
    total = {name: torch.zeros_like(leaf, requires_grad=False) for name, leaf in leaves.items()}
    for number, losses in enumerate(every, 1):
        parts = torch.autograd.grad(
            losses.sum(),
            list(leaves.values()),
            materialize_grads=True,
            retain_graph=number < len(every),
        )
        for name, part in zip(leaves, parts, strict=True):
            total[name] += asked.power(part.clone())  # two may be one tensor
    return total


def _vectorised(model: nn.Module, leaves: Gradients, asked: _Asked, batch: Batch) -> Gradients:
    def loss(leaves: Gradients, x: Inputs, y: Tensor) -> Tensor:
        one = each(x, lambda part: part[None])
        return asked.losses(functional_call(model, leaves, (one,)), y[None])[0]

    plain = {name: leaf.detach() for name, leaf in leaves.items()}
    found = vmap(grad(loss), in_dims=(None, 0, 0))(plain, batch.x, batch.y)
    return {name: asked.power(part.clone()).sum(0) for name, part in found.items()}
