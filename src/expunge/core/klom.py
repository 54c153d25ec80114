"""KLoM: how far are unlearned models' margins on a record from retrained models'?

Georgiev, Rinberg, Park, Garg, Ilyas, Madry and Neel, "Attribute-to-Delete: Machine Unlearning via
Datamodel Matching", ICLR 2025, https://arxiv.org/abs/2410.23232

Of each record there are two samples of margins log p - log(1 - p), of models that unlearned and
of models that were retrained. Both are put into 20 bins of equal width that together span them;
the record's number is KL(unlearned ‖ retrained) of the two histograms, in nats.

Departures from the paper:
    1. The last bin holds its upper end. The published code leaves the largest margin out.
    2. The two samples may differ in size.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

BINS, EMPTY, CLIP = 20, 1e-5, 100.0
ROUNDING = 1e-9  # by which a deal of the same models in another order may fall short


def klom(
    unlearned: Float[Tensor, "n s"],
    retrained: Float[Tensor, "m s"],
    *,
    bins: int = BINS,
    empty: float = EMPTY,
    clip: float = CLIP,
) -> Float[Tensor, " s"]:
    """Return each record's divergence in nats, from 0 to about -log(empty).

    Few models fill few bins: of models that are all retrained it is far from 0. So compare it
    with the number of retrained against further retrained models.

    Args:
        unlearned: Margin of each model (row) on each record (column).
        retrained: The same of models that never saw the records.
        bins: Of equal width, from the smallest margin of both samples to the largest.
        empty: The least share of retrained models that a bin with unlearned ones counts as.
        clip: Margins beyond it count as it.

    Raises:
        ValueError: For fewer than two models on a side, no records, fewer than two bins, or
            numbers that are not finite.
    """
    _check(unlearned, retrained, bins)
    first, second = (part.double().clamp(-clip, clip) for part in (unlearned, retrained))
    low = torch.minimum(first.amin(0), second.amin(0))
    width = torch.maximum(first.amax(0), second.amax(0)) - low
    # Where all margins are equal, they share a bin whatever its width.
    width = width.where(width > 0, torch.ones_like(width)) / bins
    p, q = (_shares(((part - low) / width).long(), bins) for part in (first, second))
    q = q.clamp(min=empty).where(p > 0, q)
    q = q / q.sum(0)
    return torch.special.xlogy(p, p / q.where(p > 0, torch.ones_like(q))).sum(0)


def by_chance(
    unlearned: Float[Tensor, "n s"],
    retrained: Float[Tensor, "m s"],
    *,
    draws: int,
    rng: torch.Generator,
    bins: int = BINS,
) -> float:
    """Return how often models dealt out anew are as far apart, on average over the records.

    A permutation test: were the unlearned models like the retrained ones, which of all is called
    what would not matter. The p-value is exact for any number of models; it counts the deal as
    it is, and so is at least 1 / (draws + 1).

    Args:
        unlearned: Margin of each model (row) on each record (column).
        retrained: The same of models that never saw the records.
        draws: Deals to try.
        rng: Deals them.
        bins: As `klom` has it.
    """
    found = klom(unlearned, retrained, bins=bins).mean()
    every, n = torch.cat([unlearned, retrained]), len(unlearned)
    reached = 1
    for _ in range(draws):
        order = torch.randperm(len(every), generator=rng).to(every.device)
        other = klom(every[order[:n]], every[order[n:]], bins=bins).mean()
        reached += bool(other >= found - ROUNDING)
    return reached / (draws + 1)


def _shares(places: Int[Tensor, "n s"], bins: int) -> Float[Tensor, "bins s"]:
    """Return the share of each column's places that fall into each bin."""
    counts = torch.zeros(bins, places.shape[1], dtype=torch.double, device=places.device)
    places = places.clamp(max=bins - 1)
    counts.scatter_add_(0, places, torch.ones_like(places, dtype=torch.double))
    return counts / len(places)


def _check(unlearned: Tensor, retrained: Tensor, bins: int) -> None:
    if bins < 2:
        raise ValueError(f"expected at least 2 bins, got {bins}")
    for name, part in (("unlearned", unlearned), ("retrained", retrained)):
        if len(part) < 2 or part.shape[1] < 1:
            raise ValueError(
                f"expected margins of at least 2 {name} models on at least 1 record, got "
                f"{len(part)} on {part.shape[1]}; one model shows no distribution"
            )
        if not bool(part.isfinite().all()):
            raise ValueError(
                f"{int((~part.isfinite()).sum())} margins of {name} models are not finite; leave "
                "such models out, or lower the learning rate they were made with"
            )
