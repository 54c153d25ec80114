"""A network's layers: which run first and last, how wide they are, how one is drawn anew."""

import copy
from collections.abc import Iterable, Mapping
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from expunge.core import rng
from expunge.core.order import largest
from expunge.core.state import mode
from expunge.types import Inputs, Refused

Weighted = nn.Conv1d | nn.Conv2d | nn.Linear


def convolutions(model: nn.Module) -> dict[str, _ConvNd]:
    """Return the convolutions of any dimension, by name, in the order they were defined.

    Raises:
        Refused: Where there are none.
    """
    found = {name: m for name, m in model.named_modules() if isinstance(m, _ConvNd)}
    if not found:
        raise Refused(
            f"expected a network with convolutions, got a {type(model).__name__} without any; "
            "take a method that changes other layers too, or a network such as 'convnet'"
        )
    return found


def weighted(model: nn.Module) -> dict[str, Weighted]:
    """Return the convolutions and linear layers, by name, in the order they were defined.

    Raises:
        Refused: Where there are none.
    """
    found = {name: m for name, m in model.named_modules() if isinstance(m, Weighted)}
    if not found:
        raise Refused(
            f"expected a network with convolutions or linear layers, got a {type(model).__name__} "
            "without any; take a method that changes other layers too"
        )
    return found


def fan_in(layer: Weighted) -> int:
    """Return how many products each of the layer's outputs is a sum of."""
    return layer.weight[0].numel()


def first_called(model: nn.Module, x: Inputs, names: Iterable[str]) -> str:
    """Return which of the named layers runs first; that need not be the first defined.

    It takes one forward in eval mode, which counts as work.

    Args:
        model: Left as found.
        x: What the network can be fed with; one record suffices.
        names: Of modules.

    Raises:
        Refused: Where none of them runs.
    """
    called = _calls(model, x, names)
    if not called:
        raise Refused(
            f"expected a {type(model).__name__} to run one of its layers when it is called, but it "
            "ran none; it probably reads their weights without calling them"
        )
    return called[0]


def _calls(model: nn.Module, x: Inputs, names: Iterable[str]) -> list[str]:
    """Return the named modules as they are called in one forward in eval mode, one per call."""
    called: list[str] = []

    def note(name: str, *_: object) -> None:
        called.append(name)

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(partial(note, name)) for name in names
    ]
    try:
        with mode(model, training=False), torch.no_grad():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return called


def first_convolution(model: nn.Module, x: Inputs) -> dict[str, _ConvNd]:
    """Return the convolution that runs first, by name; see `first_called`."""
    found = convolutions(model)
    name = first_called(model, x, found)
    return {name: found[name]}


def first_layer(model: nn.Module, x: Inputs) -> str:
    """Return the name of the layer with a matrix of weights that runs first.

    In a network for images it is a convolution; elsewhere it may be linear or an
    embedding. See `first_called`.
    """
    return first_called(model, x, _matrices(model))


def _matrices(model: nn.Module) -> list[str]:
    """Return the names of the modules with a matrix of weights of their own."""
    layers = model.named_modules()
    return [k for k, m in layers if any(p.dim() > 1 for p in m.parameters(recurse=False))]


def last_layers(model: nn.Module, x: Inputs, k: int) -> list[str]:
    """Return the names of the last `k` layers, and of all that runs between and after them.

    A layer has a matrix of weights: it is a convolution, linear, recurrent or an embedding.
    Modules stand in the order of their first call, whatever the order they were defined in.
    One that is never called, since its weights are read by another, stands with the module
    around it. Finding out takes one forward in eval mode, which counts as work.

    Args:
        model: Left as found.
        x: What the network can be fed with; one record suffices.
        k: At least 1.

    Raises:
        Refused: Where there are fewer layers.
    """
    every = [name for name, _ in model.named_modules()]
    places = {name: place for place, name in enumerate(dict.fromkeys(_calls(model, x, every)))}

    def place(name: str) -> int:
        while name not in places:
            name = name.rpartition(".")[0]
        return places[name]

    ran = sorted(every, key=place)
    matrices = set(_matrices(model))
    layers = [name for name in ran if name in matrices]
    if k > len(layers):
        raise Refused(
            f"expected k to be at most {len(layers)}, got {k}: the {type(model).__name__} has no "
            "more layers with a matrix of weights; lower k"
        )
    return ran[ran.index(layers[-k]) :]


def redraw(model: nn.Module, name: str, seed: int) -> None:
    """Draw the layer of this name anew, in place, by its own `reset_parameters`.

    It is drawn on the CPU, so that the same seed gives the same weights on every device.

    Raises:
        Refused: Where the layer cannot draw itself anew.
    """
    layer = model.get_submodule(name)
    fresh = copy.deepcopy(layer).cpu()
    reset = getattr(fresh, "reset_parameters", None)
    if not callable(reset):
        raise Refused(
            f"expected layer '{name}' ({type(layer).__name__}) to have `reset_parameters`, which "
            "draws its weights anew; it has none: give it one"
        )
    with rng.fenced(rng.derive(seed, "redraw", name)):
        reset()
    layer.load_state_dict(fresh.state_dict())


def smallest(
    numbers: Mapping[str, Float[Tensor, "..."]], fraction: float
) -> dict[str, Bool[Tensor, "..."]]:
    """Return True for the `fraction` of numbers nearest 0, over all tensors together.

    Exactly that many are chosen, to the nearest integer; of equal ones the first.
    """
    sizes = torch.cat([part.detach().abs().flatten() for part in numbers.values()])
    chosen = largest(-sizes, round(fraction * len(sizes)))
    parts = chosen.split([part.numel() for part in numbers.values()])
    return {k: part.view_as(numbers[k]) for k, part in zip(numbers, parts, strict=True)}
