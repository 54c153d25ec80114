"""Squared or absolute per-sample gradients of one layer, from what went in and what came back.

A layer's weight gradient is, for each record, a product of its input and of the loss's
gradient at its output. Both are at hand after one backward of the whole batch, so no
record needs a backward of its own.

Rochette, Manoel and Tramel, "Efficient Per-Example Gradient Computations in Convolutional
Neural Networks", 2019, https://arxiv.org/abs/1912.06015
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Squares = dict[str, Tensor]
Convolution = nn.Conv1d | nn.Conv2d
Power = Callable[[Tensor], Tensor]
"""What is summed over records: `Tensor.square_` or `Tensor.abs_` of each one's gradient."""
Rule = Callable[[nn.Module, Tensor, Tensor, Power], Squares]

# Numbers that one piece of work holds: 4 MB stay in a CPU's cache, where the products
# were fastest by a factor of two to ten; a GPU wants large pieces.
CPU_PIECE, GPU_PIECE = 2**20, 2**26


def _pieces(seen: Tensor, back: Tensor, each: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield both in pieces of so many records that `each` numbers per record fit."""
    piece = CPU_PIECE if seen.device.type == "cpu" else GPU_PIECE
    size = max(1, piece // max(1, each))
    return zip(seen.split(size), back.split(size), strict=True)


def _over_positions(per_position: Tensor, power: Power) -> Tensor:
    """Sum over all dimensions but the first and the last, raise, sum over records."""
    return power(per_position.flatten(1, -2).sum(1)).sum(0)


def _channels(back: Tensor, power: Power) -> Tensor:
    """Sum over all dimensions but the first two, raise, sum over records."""
    return power(back.reshape(*back.shape[:2], -1).sum(2)).sum(0)


def linear(layer: nn.Linear, seen: Tensor, back: Tensor, power: Power) -> Squares:
    """Return the squares of a linear layer on features, or on features per position."""
    if seen.dim() == 2:
        slope = power(back.clone())  # a product's power is the powers' product
        squares = {"weight": slope.T @ power(seen.clone()), "bias": slope.sum(0)}
    else:
        seen, back = seen.flatten(1, -2), back.flatten(1, -2)
        weight = torch.zeros_like(layer.weight)
        for a, d in _pieces(seen, back, weight.numel()):
            weight += power(torch.bmm(d.transpose(1, 2), a)).sum(0)
        squares = {"weight": weight, "bias": _over_positions(back, power)}
    return squares


class Taps(NamedTuple):
    """A convolution's geometry in the plane; a line is a plane one pixel high."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pads: tuple[int, int, int, int]  # left, right, top, bottom


def _taps(layer: Convolution) -> Taps:
    high, wide = (1, *layer.kernel_size)[-2:]
    down, right = (1, *layer.dilation)[-2:]
    if isinstance(layer.padding, str):
        same = layer.padding == "same"
        y, x = same * down * (high - 1), same * right * (wide - 1)
        pads = (x // 2, x - x // 2, y // 2, y - y // 2)
    else:
        y, x = (0, *layer.padding)[-2:]
        pads = (x, x, y, y)
    stride = (1, *layer.stride)
    return Taps((high, wide), (stride[-2], stride[-1]), (down, right), pads)


def _windows(image: Tensor, taps: Taps, groups: int, out: torch.Size) -> Tensor:
    """Return what each output pixel sees: a view "n group y x row column channel".

    Channels come last, so that the copy a product makes of it moves whole runs of
    channels; this is what makes it several times faster than `F.unfold`.
    """
    image = F.pad(image, taps.pads).permute(0, 2, 3, 1).contiguous()
    channels = image.shape[-1] // groups
    record, row, column, _ = image.stride()
    (y, x), (down, right) = taps.stride, taps.dilation
    return image.as_strided(
        (len(image), groups, *out, *taps.kernel, channels),
        (record, channels, y * row, x * column, down * row, right * column, 1),
    )


def convolution(layer: Convolution, seen: Tensor, back: Tensor, power: Power) -> Squares:
    """Return the squares of a convolution: per record and group, one matrix product."""
    if seen.dim() == 3:
        seen, back = seen[:, :, None], back[:, :, None]
    groups, taps = layer.groups, _taps(layer)
    windows = _windows(seen, taps, groups, back.shape[2:])
    out, pixels, width = (
        layer.out_channels // groups,
        back[0, 0].numel(),
        windows[0, 0, 0, 0].numel(),
    )
    weight = seen.new_zeros(groups, out, width)
    for a, d in _pieces(windows, back, groups * width * max(out, pixels)):
        k = len(a) * groups
        products = torch.bmm(d.reshape(k, out, pixels), a.reshape(k, pixels, width))
        weight += power(products).reshape(len(a), groups, out, width).sum(0)
    # Rows are "row column channel" of the kernel; weights are stored channel first.
    weight = weight.reshape(layer.out_channels, *taps.kernel, -1).permute(0, 3, 1, 2)
    return {"weight": weight.reshape(layer.weight.shape), "bias": _channels(back, power)}


def batch_norm(layer: _BatchNorm, seen: Tensor, back: Tensor, power: Power) -> Squares:
    """Return the squares of a BatchNorm that uses its running statistics."""
    mean, variance = layer.running_mean, layer.running_var
    scaled = F.batch_norm(seen, mean, variance, None, None, training=False, eps=layer.eps)
    return {"weight": _channels(scaled.mul_(back), power), "bias": _channels(back, power)}


def layer_norm(layer: nn.LayerNorm, seen: Tensor, back: Tensor, power: Power) -> Squares:
    """Return the squares of a LayerNorm."""
    scaled = F.layer_norm(seen, layer.normalized_shape, eps=layer.eps).mul_(back)

    def total(per_position: Tensor) -> Tensor:
        by_record = per_position.reshape(len(seen), -1, *layer.normalized_shape)
        return power(by_record.sum(1)).sum(0)

    return {"weight": total(scaled), "bias": total(back)}


def group_norm(layer: nn.GroupNorm, seen: Tensor, back: Tensor, power: Power) -> Squares:
    """Return the squares of a GroupNorm."""
    scaled = F.group_norm(seen, layer.num_groups, eps=layer.eps).mul_(back)
    return {"weight": _channels(scaled, power), "bias": _channels(back, power)}


def embedding(layer: nn.Embedding, seen: Tensor, back: Tensor, power: Power) -> Squares:
    """Return the squares of an embedding, adding up a token's uses in one record first."""
    width = back.shape[-1]
    record = torch.arange(len(seen), device=seen.device)
    record = record.reshape(-1, *[1] * (seen.dim() - 1)).expand_as(seen)
    pairs = (record * layer.num_embeddings + seen).flatten()
    distinct, place = pairs.unique(return_inverse=True)
    sums = back.new_zeros(len(distinct), width).index_add_(0, place, back.reshape(-1, width))
    tokens = distinct % layer.num_embeddings
    weight = torch.zeros_like(layer.weight).index_add_(0, tokens, power(sums))
    if layer.padding_idx is not None:
        weight[layer.padding_idx] = 0
    return {"weight": weight}


RULES: dict[type[nn.Module], Rule] = {  # pyright: ignore[reportAssignmentType] each takes its own key
    nn.Linear: linear,
    nn.Conv1d: convolution,
    nn.Conv2d: convolution,
    nn.BatchNorm1d: batch_norm,
    nn.BatchNorm2d: batch_norm,
    nn.LayerNorm: layer_norm,
    nn.GroupNorm: group_norm,
    nn.Embedding: embedding,
}


def known(layer: nn.Module) -> bool:
    """Return whether a rule gives exactly what this layer does, subclasses excluded."""
    names = {name for name, _ in layer.named_parameters(recurse=False)}
    return (
        type(layer) in RULES
        and names <= {"weight", "bias"}
        and "forward" not in vars(layer)
        and getattr(layer, "padding_mode", "zeros") == "zeros"
        and getattr(layer, "track_running_stats", True)
        and getattr(layer, "max_norm", None) is None
        and not getattr(layer, "scale_grad_by_freq", False)
    )


@torch.no_grad()
def squares(layer: nn.Module, seen: Tensor, back: Tensor, power: Power = Tensor.square_) -> Squares:
    """Return, per parameter, the sum over records of its per-sample gradient's square.

    Args:
        layer: One that is `known`.
        seen: Its input; records along the first dimension.
        back: The gradient of the sum of all records' losses at its output.
        power: What is taken of a gradient in place of its square, in place.
    """
    every = RULES[type(layer)](layer, seen, back, power)
    return {name: every[name] for name, _ in layer.named_parameters(recurse=False)}
