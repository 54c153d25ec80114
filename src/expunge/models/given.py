"""A network that the caller already holds."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from expunge.types import Architecture, Card


@dataclass(frozen=True, kw_only=True)
class Given(Architecture):
    """The architecture of a network object, for use from Python.

    Attributes:
        module: The network; only its shape is used.
        fresh: Makes an untrained one. Left out, a copy of `module` is drawn anew by its
            layers' own `reset_parameters`, which gives PyTorch's initialisation, not
            necessarily the network's own.
    """

    card = Card(name="given")

    module: nn.Module = field(compare=False)
    fresh: Callable[[], nn.Module] | None = field(default=None, compare=False)

    def build(self, inputs: tuple[int, ...], outputs: int) -> nn.Module:
        del inputs, outputs
        if self.fresh is not None:
            return self.fresh()
        network = copy.deepcopy(self.module)
        for name, layer in network.named_modules():
            reset = getattr(layer, "reset_parameters", None)
            if callable(reset):
                reset()
            elif any(True for _ in layer.parameters(recurse=False)):
                raise ValueError(
                    f"layer '{name}' ({type(layer).__name__}) has weights of its own but no "
                    "`reset_parameters`, so an untrained network cannot be made from this "
                    "one; pass `fresh`, a function that returns an untrained network"
                )
        return network
