"""Gradients of the loss, and their squares per sample: the diagonal of the Fisher."""

from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import functional_call, grad, vmap

from expunge.core.squares import known, squares
from expunge.core.state import mode
from expunge.types import Batch, Inputs, Task, each

Gradients = dict[str, Tensor]

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
    total = {name: torch.zeros_like(leaf, requires_grad=False) for name, leaf in leaves.items()}
    count, layered = 0, None
    with mode(model, training=False), torch.enable_grad():
        for batch in batches:
            if layered is None:
                layered = _by_layer(model, leaves, task, _first(batch)) is not None
            found = _by_layer(model, leaves, task, batch) if layered else None
            if found is None:
                found = _by_record(model, leaves, task, batch)
            for name, part in found.items():
                total[name] += part
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
    total = {name: torch.zeros_like(leaf, requires_grad=False) for name, leaf in leaves.items()}
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
    return {name: p.detach().requires_grad_() for name, p in model.named_parameters()}


def _first(batch: Batch) -> Batch:
    return Batch(each(batch.x, lambda part: part[:1]), batch.y[:1], batch.index[:1])


class Call(NamedTuple):
    """One call of a layer: its input, and the place of its output in the graph."""

    seen: Tensor
    edge: GradientEdge | None


def _by_layer(model: nn.Module, leaves: Gradients, task: Task, batch: Batch) -> Gradients | None:
    """Return the sums of squares by one backward, or None where that would not be exact.

    It is exact where every parameter belongs to a known layer, which is called once on
    inputs whose first dimension is the records, and is used nowhere else.
    """
    layers = {name: m for name, m in model.named_modules() if [*m.parameters(recurse=False)]}
    if not all(known(layer) for layer in layers.values()):
        return None
    calls: dict[str, list[Call]] = {name: [] for name in layers}
    hooks = [
        layer.register_forward_hook(partial(_note, calls[name]), prepend=True, with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        losses = task.losses(functional_call(model, leaves, (batch.x,)), batch.y)
    finally:
        for hook in hooks:
            hook.remove()
    uses = _uses(losses, leaves)
    once = {name: noted[0] for name, noted in calls.items() if len(noted) == 1}
    edges = [call.edge for call in once.values() if call.edge is not None]
    if len(edges) < len(once) or any(len(call.seen) != len(batch.y) for call in once.values()):
        return None
    if any(count > (name.rpartition(".")[0] in once) for name, count in uses.items()):
        return None
    backs = torch.autograd.grad(losses.sum(), edges, allow_unused=True)
    return {
        f"{name}.{kind}".lstrip("."): part
        for (name, call), back in zip(once.items(), backs, strict=True)
        if back is not None
        for kind, part in squares(layers[name], call.seen, back).items()
    }


def _note(
    calls: list[Call],
    _: nn.Module,
    args: tuple[Tensor, ...],
    named: dict[str, Tensor],
    output: Tensor,
) -> Tensor | None:
    """Keep the input and the output's place before anything changes the output in place."""
    seen = [*args, *named.values()][0]
    edge = get_gradient_edge(output) if output.requires_grad else None
    calls.append(Call(seen.detach(), edge))
    # A view that is changed in place would take its place in the graph with it.
    return output.clone() if output._is_view() else None


def _uses(losses: Tensor, leaves: Gradients) -> Counter[str]:
    """Count how often each parameter enters the graph of the losses."""
    names = {id(leaf): name for name, leaf in leaves.items()}
    counts: Counter[str] = Counter()
    waiting, met = [losses.grad_fn], {losses.grad_fn}
    while waiting:
        node = waiting.pop()
        for source, _ in () if node is None else node.next_functions:
            leaf = getattr(source, "variable", None)
            if id(leaf) in names:
                counts[names[id(leaf)]] += 1
            if source not in met:
                met.add(source)
                waiting.append(source)
    return counts


def _by_record(model: nn.Module, leaves: Gradients, task: Task, batch: Batch) -> Gradients:
    """Return the sums of squares by one gradient per record, vectorised."""

    def loss(leaves: Gradients, x: Inputs, y: Tensor) -> Tensor:
        one = each(x, lambda part: part[None])
        return task.losses(functional_call(model, leaves, (one,)), y[None])[0]

    per_record = vmap(grad(loss), in_dims=(None, 0, 0))
    numbers = sum(leaf.numel() for leaf in leaves.values())
    size = max(1, VMAP_NUMBERS // max(1, numbers))
    plain = {name: leaf.detach() for name, leaf in leaves.items()}
    total = {name: torch.zeros_like(leaf) for name, leaf in plain.items()}
    for rows in torch.arange(len(batch.y), device=batch.y.device).split(size):
        x = each(batch.x, lambda part, rows=rows: part[rows])
        for name, part in per_record(plain, x, batch.y[rows]).items():
            total[name] += part.square().sum(0)  # not in place: two may be one tensor
    return total
