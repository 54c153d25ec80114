"""What layers inside a network give: which of them are deep, and their outputs per record."""

import difflib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from expunge.core.state import mode
from expunge.types import Inputs, Refused

LISTS = nn.Sequential | nn.ModuleList


def check_named(model: nn.Module, names: Iterable[str]) -> None:
    """Refuse names that no layer of the model has, before any work is done.

    Raises:
        Refused: Naming the first of them, with a suggestion.
    """
    known = [name for name, _ in model.named_modules() if name]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1) or known[-1:]
            hint = f"did you mean '{near[0]}'?" if near else "it has none."
            raise Refused(
                f"unknown layer '{name}' of a {type(model).__name__}; {hint} `named_modules()` "
                f"lists all {len(known)}"
            )


def read(
    model: nn.Module, x: Inputs, names: Iterable[str]
) -> tuple[Tensor, dict[str, Float[Tensor, "n _"]]]:
    """Return the model's outputs, and what each named layer gave on the way, a row per record.

    Gradients go through both. Of a layer that gives several tensors the first is taken. What
    was given is kept as it was, also where an operation after it changes it in place.

    Args:
        model: Called once, in whatever mode it is; left as found.
        x: Of n records.
        names: Of its modules.

    Raises:
        Refused: Where a layer does not run exactly once, or its output has no row for
            each record.
    """
    given: dict[str, list[Tensor | None]] = {name: [] for name in names}
    hooks = [
        model.get_submodule(name).register_forward_hook(partial(_note, calls))
        for name, calls in given.items()
    ]
    try:
        outputs = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs, {name: _rows(name, its, len(outputs)) for name, its in given.items()}


def deep_layers(model: nn.Module, x: Inputs) -> tuple[str, ...]:
    """Return the last block of each of the last three stages, by name, in the order of running.

    A block is a layer with a matrix of weights, or a member of a list of blocks, and what
    follows it without such weights as long as the output keeps its shape: a norm, an
    activation. A stage is a run of blocks with outputs of one shape. Where there are fewer
    than three stages, as in a transformer, all blocks in three parts, as even as can be, are the
    stages. The network's own output is no block's. In a residual network these are its stages
    3, 4 and 5, of which 1 is the stem; networks of fewer blocks have fewer layers.

    Args:
        model: Called once, in eval mode; left as found.
        x: Of one record or more; of two, what has no row per record shows.

    Raises:
        Refused: Where no block has an output with a row for each record.
    """
    pieces = _pieces(model)
    given: list[tuple[str, Tensor | None]] = []
    hooks = [
        module.register_forward_hook(partial(_note_named, name, given))
        for name, module in pieces.items()
    ]
    try:
        with mode(model, training=False), torch.no_grad():
            outputs = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    ends = _ends(pieces, given, outputs)
    if not ends:
        raise Refused(
            f"expected a {type(model).__name__} to run a block with a row of features for each "
            "record before its last layer, but it has none; name a layer of it yourself, or take a "
            "deeper network"
        )
    stages = [[*its] for _, its in itertools.groupby(ends, ends.__getitem__)]
    if len(stages) < 3:
        stages = _thirds([*ends])
    return tuple(stage[-1] for stage in stages[-3:])


def _ends(
    pieces: Mapping[str, nn.Module], given: Sequence[tuple[str, Tensor | None]], outputs: Tensor
) -> dict[str, torch.Size]:
    """Return the last piece of each block, and its output's shape."""
    names = [name for name, _ in given]
    blocks: list[dict[str, Tensor]] = []
    for name, its in given:
        starts = any(p.dim() > 1 for p in pieces[name].parameters())
        if starts:
            blocks.append({})
        if not blocks or names.count(name) > 1 or not _per_record(its, len(outputs)):
            continue
        assert its is not None
        block = blocks[-1]
        if starts or any(its.shape == before.shape for before in block.values()):
            block[name] = its
    ends = [[*block.items()][-1] for block in blocks if block]
    return {name: its.shape for name, its in ends if not _same(its, outputs)}


def _pieces(model: nn.Module) -> dict[str, nn.Module]:
    """Return what a network is made of, by name: layers, and the members of lists of blocks."""
    found: dict[str, nn.Module] = {}
    whole = _numbers(model)

    def open_up(name: str, module: nn.Module, *, listed: bool) -> None:
        holds = 0 if listed else 2 * _in_lists(module)
        wraps = isinstance(module, LISTS) or _numbers(module) == whole
        if not (wraps or holds > _numbers(module)) or not [*module.children()]:
            found[name] = module
            return
        for key, child in module.named_children():
            open_up(f"{name}.{key}".lstrip("."), child, listed=isinstance(module, LISTS))

    open_up("", model, listed=False)
    return found


def _numbers(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _in_lists(module: nn.Module) -> int:
    """Return how many of a module's weights are in lists of blocks."""
    children = module.children()
    return sum(_numbers(m) if isinstance(m, LISTS) else _in_lists(m) for m in children)


def _thirds(names: Sequence[str]) -> list[Sequence[str]]:
    """Return three parts as even as can be, without those that are empty."""
    cuts = [math.ceil(part * len(names) / 3) for part in range(4)]
    return [names[a:b] for a, b in itertools.pairwise(cuts) if a < b]


def _note(calls: list[Tensor | None], _: nn.Module, __: object, output: object) -> None:
    first = _first(output)
    calls.append(None if first is None else first.clone())


def _note_named(
    name: str,
    given: list[tuple[str, Tensor | None]],
    _: nn.Module,
    __: object,
    output: object,
) -> None:
    given.append((name, _first(output)))


def _first(output: object) -> Tensor | None:
    """Return the first tensor of what a module gave."""
    if isinstance(output, Mapping):
        output = next(iter(output.values()), None)
    elif isinstance(output, tuple | list):
        output = next(iter(output), None)
    return output if isinstance(output, Tensor) else None


def _per_record(its: Tensor | None, records: int) -> bool:
    shaped = its is not None and its.dim() > 1 and len(its) == records
    return shaped and its is not None and its.is_floating_point()


def _same(its: Tensor, outputs: Tensor) -> bool:
    return its.shape == outputs.shape and torch.equal(its, outputs)


def _rows(name: str, calls: Sequence[Tensor | None], records: int) -> Tensor:
    if len(calls) != 1:
        raise Refused(
            f"expected layer '{name}' to run once when the network is called, but it ran "
            f"{len(calls)} times; name one that is used once, or leave it out"
        )
    its = calls[0]
    if its is None or not _per_record(its, records):
        what = "no tensor" if its is None else f"{its.dtype} of shape {tuple(its.shape)}"
        raise Refused(
            f"expected layer '{name}' to give a row of features for each of {records} records, "
            f"got {what}; name one around it, or leave it out"
        )
    return its.flatten(1)
