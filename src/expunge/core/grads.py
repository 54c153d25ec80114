"""Gradients of the loss, and their squares per sample: the diagonal of the Fisher."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from expunge.core.calls import Gradients, forward, layers_of
from expunge.core.cost import priced
from expunge.core.squares import squares
from expunge.core.state import mode
from expunge.types import Batch, Inputs, Task, each

Fisher = Literal["empirical", "monte_carlo", "exact"]
"""Of which answers: the records' own, one drawn from the model for each, all by chance."""

Ask = Callable[[Tensor, Tensor], Iterator[Tensor]]

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
        ValueError: Where there are no records, where answers cannot be drawn, or where they
            are too many to go through.
    """
    leaves = _leaves(model)
    total = {name: torch.zeros_like(p, requires_grad=False) for name, p in model.named_parameters()}
    count, size = 0, None
    with mode(model, training=False), torch.enable_grad():
        for batch in batches:
            if size is None:
                with priced():
                    size = _fitting(model, leaves, batch)
            chance = _chances(fisher, batch.y, draws)
            held = size or len(batch.y)
            for part, its in zip(_split(batch, held), chance.split(held), strict=True):
                ask = partial(_losses, task, fisher, its)
                found = _by_layer(model, leaves, ask, part) if size else None
                if found is None:
                    found = _by_record(model, leaves, task, fisher, part, its)
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


def _chances(fisher: Fisher, y: Tensor, draws: torch.Generator | None) -> Tensor:
    """Return what decides which answers are drawn, the same for every device and grouping."""
    if fisher != "monte_carlo":
        return torch.zeros(len(y), device=y.device)
    return torch.rand(y.shape, generator=draws).to(y.device)


def _losses(
    task: Task, fisher: Fisher, chance: Tensor, outputs: Tensor, y: Tensor
) -> Iterator[Tensor]:
    """Yield losses per record whose squared gradients add up to the Fisher's diagonal."""
    if fisher == "empirical":
        yield task.losses(outputs, y)
    elif fisher == "monte_carlo":
        yield task.losses(outputs, task.draw(outputs.detach(), y, chance))
    else:
        for p, answer in task.every(outputs.detach(), y):
            yield p.sqrt() * task.losses(outputs, answer)


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


def _by_layer(model: nn.Module, leaves: Gradients, ask: Ask, batch: Batch) -> Gradients | None:
    """Return the sums of squares by a backward per answer, or None where that is not exact."""
    told = forward(model, leaves, batch)
    if told is None:
        return None
    outputs, calls = told
    edges = [call.edge for call in calls.values() if call.edge is not None]
    layers = layers_of(model)
    total: Gradients = {}
    every = [*ask(outputs, batch.y)] if edges else []
    for number, losses in enumerate(every, 1):
        more = number < len(every)
        backs = torch.autograd.grad(losses.sum(), edges, allow_unused=True, retain_graph=more)
        for (name, call), back in zip(calls.items(), backs, strict=True):
            if back is None:
                continue
            for kind, part in squares(layers[name], call.seen, back).items():
                whole = f"{name}.{kind}".lstrip(".")
                total[whole] = total[whole] + part if whole in total else part
    return total


def _by_record(
    model: nn.Module, leaves: Gradients, task: Task, fisher: Fisher, part: Batch, chance: Tensor
) -> Gradients:
    """Return the sums of squares by one gradient per record, vectorised where that pays."""
    numbers = sum(leaf.numel() for leaf in leaves.values())
    # PyTorch has no vectorised recurrence on a CPU: it loops, ten times slower than we do.
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    size = 1 if recurrent or fisher != "empirical" else max(1, VMAP_NUMBERS // max(1, numbers))
    total = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    for few, its in zip(_split(part, size), chance.split(size), strict=True):
        if size == 1:
            ask = partial(_losses, task, fisher, its)
            found = _one_by_one(model, leaves, ask, few)
        else:
            with priced(forward=len(few.y), backward=len(few.y)):
                found = _vectorised(model, leaves, task, few)
        for name, squared in found.items():
            total[name] += squared
    return total


def _one_by_one(model: nn.Module, leaves: Gradients, ask: Ask, batch: Batch) -> Gradients:
    """Return one record's squares, summed over its answers."""
    every = [*ask(functional_call(model, leaves, (batch.x,)), batch.y)]
    total = {name: torch.zeros_like(leaf, requires_grad=False) for name, leaf in leaves.items()}
    for number, losses in enumerate(every, 1):
        parts = torch.autograd.grad(
            losses.sum(),
            list(leaves.values()),
            materialize_grads=True,
            retain_graph=number < len(every),
        )
        for name, part in zip(leaves, parts, strict=True):
            total[name] += part.square()  # not in place: two may be one tensor
    return total


def _vectorised(model: nn.Module, leaves: Gradients, task: Task, batch: Batch) -> Gradients:
    def loss(leaves: Gradients, x: Inputs, y: Tensor) -> Tensor:
        one = each(x, lambda part: part[None])
        return task.losses(functional_call(model, leaves, (one,)), y[None])[0]

    plain = {name: leaf.detach() for name, leaf in leaves.items()}
    found = vmap(grad(loss), in_dims=(None, 0, 0))(plain, batch.x, batch.y)
    return {name: part.square().sum(0) for name, part in found.items()}
