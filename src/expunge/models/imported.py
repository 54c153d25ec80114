"""Any network of your own, by import path."""

import difflib
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from expunge.models.normalize import Level, first
from expunge.types import Architecture, Card, Json


def find(target: str) -> Callable[..., object]:
    """Return what `package.module:name` points to.

    Raises:
        ValueError: Where the form is wrong, or there is no such module or name in it.
    """
    path, _, name = target.partition(":")
    if not path or not name:
        raise ValueError(
            f"expected target as 'package.module:callable', got '{target}'; "
            "'torchvision.models:resnet18' is one"
        )
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"no module '{error.name}' for target '{target}'; install it, or put its folder "
            "on PYTHONPATH"
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        near = difflib.get_close_matches(name, [k for k in vars(module) if k[0] != "_"], n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"module '{path}' has nothing callable named '{name}'{hint}")
    return found


@dataclass(frozen=True, kw_only=True)
class Imported(Architecture):
    """What a class or function of yours returns, fed with pixels in [0, 1].

    Attributes:
        target: Where it is, as `package.module:callable`.
        arguments: What it is called with, by name. The number of answers is among them:
            it is not filled in.
        normalize: Whether a layer that subtracts `mean` and divides by `std` comes first;
            leave it off where your network does so itself.
        mean: Subtracted from inputs; None is 0.5 for images and 0 for features.
        std: Divides inputs; None is 0.25 for images and 1 for features.
    """

    card = Card(name="imported")

    target: str
    arguments: dict[str, Json] = field(default_factory=dict)
    normalize: bool = False
    mean: Level | None = None
    std: Level | None = None

    def build(self, inputs: tuple[int, ...], outputs: int) -> nn.Module:
        del outputs
        make = find(self.target)
        try:
            inspect.signature(make).bind(**self.arguments)
        except TypeError as error:
            raise ValueError(
                f"'{self.target}' cannot be called with {self.arguments}: {error}; "
                "change `arguments`"
            ) from error
        network = make(**self.arguments)
        if not isinstance(network, nn.Module):
            raise ValueError(
                f"expected '{self.target}' to return a torch.nn.Module, got "
                f"{type(network).__name__}; name a class or a function that builds one"
            )
        if not self.normalize:
            return network
        return nn.Sequential(first(inputs, self.mean, self.std), network)
