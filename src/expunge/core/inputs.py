"""What every linear and convolutional map is fed, whichever module calls it.

A hook on a module misses the weights that its owner hands to a function itself, as Swin and
attention layers do. Here the functions are watched, and a weight is known by being that very
parameter.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

PIECE = 2**23  # numbers of unfolded input held at once: 64 MB in double precision

Sides = int | tuple[int, ...]
Rows = Float[Tensor, "rows width"]


class InputCovariances(TorchFunctionMode):
    """While it is entered, adds up A^T A of the inputs A of every linear map of a model.

    A convolution is a linear map of the windows that it sees: one row of A per output pixel,
    with true stride, padding and dilation, in the order of `weight.flatten(1)`. Transposed and
    three-dimensional convolutions are left out, and so are grouped ones, where each group would
    need a sum of its own over as few numbers as a kernel has, which retained records fill.

    Attributes:
        sums: A^T A in double precision by the parameter's name, over all calls of it.
        opaque: Names of parameters with another use, whose inputs are not all known.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._names = {id(p): name for name, p in model.named_parameters()}
        self.sums: dict[str, Float[Tensor, "width width"]] = {}
        self.opaque: set[str] = set()

    def known(self) -> dict[str, Float[Tensor, "width width"]]:
        """Return the sums of the parameters that are linear maps and nothing else."""
        return {name: total for name, total in self.sums.items() if name not in self.opaque}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Note what a call says of the parameters, and let it go through."""
        del types
        named = kwargs or {}
        if func is F.multi_head_attention_forward:
            return self._attention(*args, **named)
        out = func(*args, **named)
        weight = None
        if func in ROWS:
            weight = args[1] if len(args) > 1 else named["weight"]
            self._add(weight, ROWS[func](*args, **named))
        if any(isinstance(part, Tensor) for part in tree_leaves(out)):  # else it asked for a shape
            others = (part for part in tree_leaves((args, named)) if part is not weight)
            self._bar(others)
        return out

    def _bar(self, parts: Iterable[object]) -> None:
        self.opaque.update(self._names[id(part)] for part in parts if id(part) in self._names)

    def _add(self, weight: Tensor, pieces: Iterator[Rows]) -> None:
        """Add pieces of a map's inputs to its sum; a map without any is opaque."""
        name = self._names.get(id(weight))
        if name is None:
            return
        for piece in pieces:
            rows = piece.detach().double()
            if name not in self.sums:
                self.sums[name] = rows.new_zeros(rows.shape[1], rows.shape[1])
            self.sums[name].addmm_(rows.T, rows)
        if name not in self.sums:
            self.opaque.add(name)

    def _attention(self, *args: Any, **named: Any) -> tuple[Tensor, Tensor | None]:
        """Take PyTorch's attention apart: a function of its own hides the maps inside it."""
        given = dict(zip(ATTENTION, args, strict=False)) | named
        seen = [given[name] for name in ("query", "key", "value")]
        if given.get("use_separate_proj_weight"):
            weights = [given[f"{letter}_proj_weight"] for letter in "qkv"]
            pairs = list(zip(weights, seen, strict=True))
        else:
            different = {id(part): part for part in seen}.values()
            pairs = [(given["in_proj_weight"], part) for part in different]
        for weight, part in pairs:
            self._add(weight, _linear(part, weight))
        out, bias = given["out_proj_weight"], given["out_proj_bias"]
        projections = [out, *(weight for weight, _ in pairs)]
        self._bar(p for p in given.values() if all(p is not q for q in projections))
        # With the identity in its place, the last map's input comes out.
        one = torch.eye(len(out), dtype=out.dtype, device=out.device)
        inner, shares = F.multi_head_attention_forward(
            **given | {"out_proj_weight": one, "out_proj_bias": None}
        )
        self._add(out, _linear(inner, out))
        return F.linear(inner, out, bias), shares


ATTENTION = tuple(inspect.signature(F.multi_head_attention_forward).parameters)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Iterator[Rows]:
    del weight, bias
    rows = input.reshape(-1, input.shape[-1])
    yield from rows.split(max(1, PIECE // max(1, rows.shape[1])))


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sides = 1,
    padding: Sides | str = 0,
    dilation: Sides = 1,
    groups: int = 1,
) -> Iterator[Rows]:
    """Yield the windows of a convolution on a line or in a plane; none of a grouped one."""
    del bias
    if groups > 1:
        return
    if input.dim() < weight.dim():  # one image without a dimension for the batch
        input = input[None]
    lines = weight.dim() == 3
    kernel, steps, gaps = (
        _plane(sides, 1, lines=lines) for sides in (tuple(weight.shape[2:]), stride, dilation)
    )
    image = input[:, :, None] if lines else input
    if isinstance(padding, str):
        high, wide = ((padding == "same") * g * (k - 1) for g, k in zip(gaps, kernel, strict=True))
    else:
        high, wide = (2 * side for side in _plane(padding, 0, lines=lines))
    image = F.pad(image, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
    each = weight[0].numel() * image[0, 0].numel() // (steps[0] * steps[1])
    for part in image.split(max(1, PIECE // max(1, each))):
        windows = F.unfold(part, kernel, dilation=gaps, stride=steps)
        yield windows.transpose(1, 2).flatten(0, 1)


def _plane(sides: Sides, flat: int, *, lines: bool) -> tuple[int, int]:
    """Return both sides of a plane; a line is a plane that is `flat` across."""
    every = (sides,) * (1 if lines else 2) if isinstance(sides, int) else tuple(sides)
    every = every * 2 if len(every) == 1 and not lines else every
    high, wide = (flat, *every)[-2:]
    return high, wide


ROWS: dict[object, Callable[..., Iterator[Rows]]] = {
    F.linear: _linear,
    F.conv1d: _convolution,
    F.conv2d: _convolution,
}
