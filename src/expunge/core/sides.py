"""Each record's two sides: shadow models trained with it, and shadow models trained without."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from expunge.types import Refused

Mode = Literal["online", "offline"]
"""Whether an attack takes shadows of both sides, or those that never saw the record."""


def check(
    margin: Float[Tensor, " n"],
    shadows: Float[Tensor, "s n"],
    member: Bool[Tensor, "s n"],
    mode: Mode,
) -> int:
    """Return how many shadows the record with the fewest has on a side that `mode` takes.

    Args:
        margin: The target's margin on each record.
        shadows: Margin of each shadow (row) on each record (column).
        member: Which shadow was trained on which record.
        mode: Which sides are taken.

    Raises:
        Refused: For fewer than two shadows on a side of a record, for numbers that are not
            finite, and where there are no records.
    """
    if not len(margin):
        raise Refused("expected at least 1 record to score, got none")
    for name, part in (("the target's", margin), ("the shadows'", shadows)):
        # The ends tell as much as all numbers do, and sooner.
        if not bool(torch.stack(part.aminmax()).isfinite().all()):
            raise Refused(
                f"{int((~part.isfinite()).sum())} of {name} {part.numel()} margins are not "
                "finite; its logits are not, or its training diverged: train it anew at a lower "
                "learning rate, or leave it out"
            )
    sides = {"without": ~member} if mode == "offline" else {"with": member, "without": ~member}
    counts = {name: side.sum(0, dtype=torch.int32) for name, side in sides.items()}
    for name, count in counts.items():
        if int(count.min()) < 2:
            short = count < 2
            raise Refused(
                f"expected at least 2 shadows trained {name} each record, but "
                f"{int(short.sum())} of {len(margin)} records have fewer, record "
                f"{int(short.nonzero()[0, 0])} has {int(count[short][0])}; train more shadows, or "
                "ask of records that the shadows' halves were drawn from"
            )
    return int(torch.stack(list(counts.values())).min())
