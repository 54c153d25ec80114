"""A mask: what unlearning took from each weight, as a value that can be kept, sent and applied.

Applied to the original it gives the unlearned model. Ma et al., "Learn to Forget: Machine
Unlearning via Neuron Masking", 2022, https://arxiv.org/abs/2003.10933, where a user of federated
learning sends it in the place of a gradient.
"""

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as packed
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)
ABOUT = "expunge.mask"  # the entry of a file's metadata that makes it a mask


class Layer(NamedTuple):
    """What a mask does to one parameter.

    Attributes:
        name: Of the parameter.
        entries: How many numbers it has.
        nonzeros: How many of them change.
        largest: Largest change, without its sign.
        total: Sum of the changes without their signs.
    """

    name: str
    entries: int
    nonzeros: int
    largest: float
    total: float

    @property
    def share(self) -> float:
        """Share of the numbers that change."""
        return self.nonzeros / max(1, self.entries)


def digest(state: Mapping[str, Tensor]) -> str:
    """Return the hash of a model's state, the same wherever and in whatever order it is held."""
    whole = hashlib.sha256()
    for name in sorted(state):
        part = state[name].detach().cpu().contiguous()
        whole.update(f"{name} {part.dtype} {tuple(part.shape)}".encode())
        whole.update(part.reshape(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


@dataclass(frozen=True, eq=False, kw_only=True)
class Mask:
    """What is subtracted from each parameter of a model.

    Attributes:
        tensors: By parameter name, each in its parameter's shape. A weight that several layers
            share is there once.
        method: What made it.
        original: Digest of the model that it was made from; empty where that is not known.
        tied: Other names of parameters in a model's state, and which parameter each one is.
    """

    tensors: Mapping[str, Tensor]
    method: str = ""
    original: str = ""
    tied: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def between(cls, original: nn.Module, unlearned: nn.Module, method: str = "") -> "Mask":
        """Return what takes the original to the unlearned model.

        Applied it gives each weight to within one rounding of the original's precision, and bit
        for bit where a weight kept its sign and changed by no more than a factor of two, or did
        not change.

        Args:
            original: The model before.
            unlearned: The model after, of the same shape.
            method: What made the one of the other.

        Raises:
            ValueError: Where shapes differ, or where what is no parameter has changed.
        """
        before, after = dict(original.named_parameters()), dict(unlearned.named_parameters())
        _fits({k: p.shape for k, p in before.items()}, {k: p.shape for k, p in after.items()})
        buffers = dict(unlearned.named_buffers())
        for name, part in original.named_buffers():
            if name not in buffers or not torch.equal(part, buffers[name].to(part.device)):
                raise ValueError(
                    f"expected models that differ in their parameters alone, but '{name}' differs "
                    "too, such as BatchNorm's statistics do after training; keep the model itself"
                )
        names = {id(p): name for name, p in before.items()}
        every = original.named_parameters(remove_duplicate=False)
        with torch.no_grad():
            return cls(
                tensors={k: (p - after[k].to(p.device)).cpu() for k, p in before.items()},
                method=method,
                original=digest(original.state_dict()),
                tied={name: names[id(p)] for name, p in every if names[id(p)] != name},
            )

    def apply(self, model: Network) -> Network:
        """Return a copy of the model with the mask taken from it.

        Raises:
            ValueError: Where the model's parameters are others, or of other shapes.
        """
        shapes = {name: p.shape for name, p in model.named_parameters()}
        _fits({name: part.shape for name, part in self.tensors.items()}, shapes)
        masked = copy.deepcopy(model)
        with torch.no_grad():
            for name, p in masked.named_parameters():
                p.sub_(self.tensors[name].to(p))
        return masked

    def subtract(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a model's state with the mask taken from it.

        Raises:
            ValueError: Where the state lacks a parameter, or has one of another shape.
        """
        mine = {name: part.shape for name, part in self.tensors.items()}
        _fits(mine, {name: part.shape for name, part in state.items() if name in mine})
        found = dict(state)
        for name, part in self.tensors.items():
            found[name] = state[name] - part.to(state[name])
        return found | {name: found[own] for name, own in self.tied.items()}

    def layers(self) -> list[Layer]:
        """Return what it does to each parameter, in the model's order."""
        return [_layer(name, part) for name, part in self.tensors.items()]

    def whole(self) -> Layer:
        """Return what it does to all parameters together."""
        every = self.layers()
        return Layer(
            "all",
            sum(layer.entries for layer in every),
            sum(layer.nonzeros for layer in every),
            max((layer.largest for layer in every), default=0.0),
            sum(layer.total for layer in every),
        )

    def packed(self) -> bytes:
        """Return it as the content of a safetensors file."""
        about = {"method": self.method, "original": self.original, "tied": dict(self.tied)}
        about |= {"order": list(self.tensors)}  # files put their entries in an order of their own
        tensors = {k: part.detach().cpu().contiguous() for k, part in self.tensors.items()}
        return packed(tensors, {ABOUT: json.dumps(about)})

    def save(self, path: str | Path) -> None:
        """Write it as safetensors, whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".draft-{path.name}")
        try:
            draft.write_bytes(self.packed())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> "Mask":
        """Read one that was saved.

        Raises:
            ValueError: Where there is no such file, or it is not a mask.
        """
        if not Path(path).is_file():
            raise ValueError(f"there is no mask at {path}; expected a safetensors file")
        try:
            with safe_open(path, "pt") as opened:
                about = json.loads((opened.metadata() or {})[ABOUT])
            tensors = load_file(path)
        except SafetensorError as error:
            raise ValueError(
                f"{path} is not a safetensors file ({error}); a mask is what `Mask.save` and "
                "`expunge unlearn --mask` write"
            ) from error
        except KeyError:
            raise ValueError(
                f"{path} is a safetensors file, but not a mask: probably a model's weights; make "
                "a mask with `Mask.between` or `expunge unlearn --mask`"
            ) from None
        ordered = {name: tensors[name] for name in about.pop("order")}
        return cls(tensors=ordered, **about)


def _layer(name: str, part: Tensor) -> Layer:
    size = part.detach().abs().double()
    largest = float(size.max()) if size.numel() else 0.0
    return Layer(name, size.numel(), int(size.count_nonzero()), largest, float(size.sum()))


def _fits(mask: Mapping[str, torch.Size], model: Mapping[str, torch.Size]) -> None:
    lacking = sorted(mask.keys() ^ model.keys())
    if lacking:
        raise ValueError(
            f"the mask does not fit the model: '{lacking[0]}' is a parameter of one of them "
            f"alone, as are {len(lacking) - 1} others; check that both are of one architecture"
        )
    for name, shape in mask.items():
        if model[name] != shape:
            raise ValueError(
                f"the mask does not fit the model: '{name}' has shape {tuple(model[name])} there "
                f"and {tuple(shape)} here; check that both are of one architecture"
            )
