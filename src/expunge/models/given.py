"""A network that the caller already holds."""

import copy
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from expunge.types import Architecture, Card


@dataclass(frozen=True, kw_only=True)
class Given(Architecture):
    """The architecture of a network object, for use from Python.

    Attributes:
        module: The network; only its shape is used.
        fresh: Makes an untrained one. Left out, a copy of `module` is drawn anew by its
            layers' own `reset_parameters`, which gives PyTorch's initialisation, not
            necessarily the network's own.
        structure: Hash of the network's layers and of the names and shapes of its state, which
            tells its keys from those of another network; it is worked out, not given.
    """

    card = Card(name="given")

    module: nn.Module = field(compare=False)
    fresh: Callable[[], nn.Module] | None = field(default=None, compare=False)
    structure: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "structure", structure(self.module))

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


def structure(network: nn.Module) -> str:
    """Return a hash of what a network is made of, whatever its weights."""
    layers = re.sub(r"0x[0-9a-fA-F]+", "", repr(network))  # addresses differ by process
    state = network.state_dict().items()
    shapes = [(name, tuple(part.shape)) for name, part in state if isinstance(part, Tensor)]
    return hashlib.sha256(repr((layers, shapes)).encode()).hexdigest()
