"""Which numbers are the largest, without sorting them all."""

import torch
from jaxtyping import Bool, Num
from torch import Tensor

from expunge.types import Refused


def largest(numbers: Num[Tensor, " n"], count: int) -> Bool[Tensor, " n"]:
    """Return True for the `count` largest numbers; of equal ones, for the first.

    One selection finds the smallest of them; a sort would put all the others in order too.

    Raises:
        Refused: Where a number is not one (NaN), which has no place in an order.
    """
    if bool(numbers.isnan().any()):
        raise Refused(
            "expected numbers that can be compared, got NaN among them; the gradients or "
            "weights they come from are not finite, so check the original"
        )
    if count <= 0:
        return torch.zeros_like(numbers, dtype=torch.bool)
    least = numbers.kthvalue(len(numbers) - count + 1).values
    chosen = numbers > least
    equal = (numbers == least).nonzero()[:, 0]
    chosen[equal[: count - int(chosen.sum())]] = True
    return chosen
