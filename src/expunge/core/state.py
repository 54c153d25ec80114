"""Model state: modes, BatchNorm statistics, finiteness."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from expunge.types import Batch, Refused

Norms = Literal["update", "freeze", "recalibrate"]
"""What becomes of BatchNorm's running statistics: moved by every training batch, left
alone, or left alone and then re-estimated once on the retained records."""

SPREADLESS = "Expected more than 1 value per channel"  # how PyTorch's refusal begins


def norms_of(model: nn.Module) -> list[_BatchNorm]:
    """Return the model's BatchNorm layers, of any dimension."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm)]


@contextmanager
def mode(
    model: nn.Module,
    *,
    training: bool,
    norms: Norms = "freeze",
    still: Iterable[nn.Module] = (),
) -> Iterator[None]:
    """Set the mode inside the block and restore every module's own afterwards.

    Args:
        model: Whose mode is set.
        training: Whether dropout drops and BatchNorm may use the batch.
        norms: Unless it is `update`, BatchNorm layers stay in eval mode.
        still: Modules of it that stay in eval mode, whatever they are; their children may not.

    Raises:
        Refused: Where inside the block a norm is to train on a batch that shows no spread.
    """
    was = [(module, module.training) for module in model.modules()]
    model.train(training)
    for module in still:
        module.training = False
    if norms != "update":
        for norm in norms_of(model):
            norm.eval()
    try:
        yield
    except ValueError as error:
        if SPREADLESS not in str(error):
            raise
        raise Refused(
            f"expected at least 2 values of each channel in a batch that a {type(model).__name__} "
            "with BatchNorm trains on, got 1, which has no spread: the batch is a single record; "
            "give more records or a larger batch_size, or take a network without BatchNorm"
        ) from error
    finally:
        for module, training_was in was:
            module.training = training_was


@contextmanager
def without_cudnn(model: nn.Module) -> Iterator[None]:
    """Leave cuDNN out where the model recurs: its kernels have no backward in eval mode."""
    kernels: Any = torch.backends.cudnn
    was = kernels.enabled
    kernels.enabled = was and not any(isinstance(m, nn.RNNBase) for m in model.modules())
    try:
        yield
    finally:
        kernels.enabled = was


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Batch]) -> None:
    """Set every BatchNorm's statistics to their average over `batches`, in place.

    Every batch counts alike: leave the last one out where it is much smaller.
    """
    norms = norms_of(model)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # None asks PyTorch for a cumulative average
    try:
        with mode(model, training=False):
            for norm in norms:
                norm.train()
            for batch in batches:
                model(batch.x)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def finite(model: nn.Module) -> bool:
    """Return whether every floating-point entry of the state is finite."""
    return all(
        bool(t.isfinite().all())
        for t in model.state_dict().values()
        if isinstance(t, Tensor) and t.is_floating_point()
    )


def convolves(model: nn.Module) -> bool:
    """Return whether the model has two-dimensional convolutions."""
    return any(isinstance(m, nn.Conv2d) for m in model.modules())


def lay_out(model: nn.Module) -> torch.memory_format:
    """Put the model, in place, in the layout it runs fastest in, and return that layout.

    Convolutions want channels last; other models stay as they are.
    """
    layout = torch.channels_last if convolves(model) else torch.preserve_format
    model.to(memory_format=layout)  # pyright: ignore[reportCallIssue] not in its stubs
    return layout


def device_of(model: nn.Module) -> torch.device:
    """Return where the model is; the CPU for one without parameters."""
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device
