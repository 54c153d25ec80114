"""What a method's own training leaves behind for its unlearning: how much, and of which records."""

from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor, nn

from expunge.types import Refused, Trace

State = Mapping[str, Tensor]


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the model's state, on the CPU."""
    return {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}


def size_of(model: nn.Module) -> int:
    """Return the bytes of the model's state."""
    return sum(v.numel() * v.element_size() for v in model.state_dict().values())


def affordable(size: int, limit: float, what: str, remedy: str) -> None:
    """Refuse to keep more than was allowed, before anything is trained.

    Args:
        size: Bytes that would be kept.
        limit: GiB that may be.
        what: Would be kept.
        remedy: What else there is to do.

    Raises:
        Refused: Where it is more.
    """
    if size > limit * 2**30:
        raise Refused(
            f"{what} would take {size / 2**30:.3g} GiB, and limit={limit:g} GiB; {remedy}, or "
            "raise `limit`"
        )


def given(trace: Trace | None, name: str) -> Trace:
    """Return what training left behind for the method of this name.

    Raises:
        Refused: Where it left nothing.
    """
    if not trace:
        raise Refused(
            f"{name} unlearns from what its own training kept, and this original was trained "
            f"without; train it with `{name}`'s `train`, as runs of a spec do, and give the trace "
            "with the request"
        )
    return trace


def part_of(trace: Trace, prefix: str) -> dict[str, Tensor]:
    """Return what is kept under a name, by the rest of its names."""
    named = trace.items()
    return {k.removeprefix(f"{prefix}/"): v for k, v in named if k.startswith(f"{prefix}/")}


def located(index: Int[Tensor, " n"], wanted: Int[Tensor, " k"]) -> Int[Tensor, " k"]:
    """Return where records are among those that were trained on.

    Args:
        index: `Data.index` of the records trained on.
        wanted: That of others.

    Raises:
        Refused: Where some were not trained on.
    """
    index, wanted = index.cpu(), wanted.cpu()
    order = index.argsort()
    place = torch.searchsorted(index[order], wanted).clamp(max=len(index) - 1)
    found = order[place]
    missing = int((index[found] != wanted).sum())
    if missing:
        raise Refused(
            f"{missing} of {len(wanted)} records are not among the {len(index)} that the original "
            "was trained on; its trace is probably that of another split"
        )
    return found
