"""What each layer of a network saw in one forward, and where its output is in the graph."""

from collections import Counter
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import functional_call

from expunge.core.squares import known
from expunge.types import Batch

Gradients = dict[str, Tensor]


class Call(NamedTuple):
    """One call of a layer: its input, and the place of its output in the graph."""

    seen: Tensor
    edge: GradientEdge | None


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules that have parameters of their own, by name."""
    return {name: m for name, m in model.named_modules() if [*m.parameters(recurse=False)]}


def forward(
    model: nn.Module, leaves: Gradients, batch: Batch
) -> tuple[Tensor, dict[str, Call]] | None:
    """Return the outputs and each layer's call, or None where calls do not tell all.

    They do where every parameter belongs to a known layer, which is called once on
    inputs whose first dimension is the records, and is used nowhere else.
    """
    layers = layers_of(model)
    if not all(known(layer) for layer in layers.values()):
        return None
    calls: dict[str, list[Call]] = {name: [] for name in layers}
    hooks = [
        layer.register_forward_hook(partial(_note, calls[name]), prepend=True, with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        outputs = functional_call(model, leaves, (batch.x,))
    finally:
        for hook in hooks:
            hook.remove()
    once = {name: noted[0] for name, noted in calls.items() if len(noted) == 1}
    if any(call.edge is None or len(call.seen) != len(batch.y) for call in once.values()):
        return None
    uses = _uses(outputs, leaves)
    if any(count > (name.rpartition(".")[0] in once) for name, count in uses.items()):
        return None
    return outputs, once


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


def _uses(outputs: Tensor, leaves: Gradients) -> Counter[str]:
    """Count how often each parameter enters the graph of the outputs."""
    names = {id(leaf): name for name, leaf in leaves.items()}
    counts: Counter[str] = Counter()
    waiting, met = [outputs.grad_fn], {outputs.grad_fn}
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
