"""Several networks that answer as one: what SISA trains and returns."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from expunge.types import Inputs, Refused

Vote = Literal["majority", "mean"]
"""Whose posteriors are averaged: those of the networks that named the winner, or all."""


def majority(
    outputs: Float[Tensor, "members *n classes"],
) -> Float[Tensor, "*n classes"]:
    """Return the log of the mean posterior of the members that voted for the winner.

    Each member votes for its likeliest class. Of classes with equally many votes the one
    with the larger summed posterior wins; the winner is the likeliest class of the result.

    Args:
        outputs: Each member's logits.
    """
    log_p = outputs.log_softmax(-1)
    choice = log_p.argmax(-1)
    votes = F.one_hot(choice, log_p.shape[-1]).sum(0)
    leading = votes == votes.amax(-1, keepdim=True)
    winner = torch.where(leading, log_p.exp().sum(0), -1.0).argmax(-1)
    won = choice == winner
    chosen = log_p.masked_fill(~won[..., None], -torch.inf)
    return chosen.logsumexp(0) - won.sum(0).log()[..., None]


def mean(outputs: Float[Tensor, "members *n classes"]) -> Float[Tensor, "*n classes"]:
    """Return the log of the mean posterior of all members."""
    return outputs.log_softmax(-1).logsumexp(0) - math.log(len(outputs))


class Voting(nn.Module):
    """Members that answer together.

    Where answers are classes, the output is log-probabilities: their softmax is the posterior
    of the whole, and what takes logits takes them. Other answers, such as noise, are averaged.

    Attributes:
        members: The networks.
        counted: Whether each member's answer counts; one without records does not.
    """

    counted: Tensor

    def __init__(self, members: Sequence[nn.Module], *, vote: Vote, classes: bool) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.register_buffer("counted", torch.ones(len(members), dtype=torch.bool))
        self.vote: Vote = vote
        self.classes = classes

    def forward(self, x: Inputs) -> Tensor:
        pairs = zip(self.members, self.counted.tolist(), strict=True)
        outputs = torch.stack([member(x).float() for member, counts in pairs if counts])
        if not self.classes:
            return outputs.mean(0)
        return majority(outputs) if self.vote == "majority" else mean(outputs)

    def dismiss(self, number: int) -> None:
        """Count this member's answers no longer.

        Raises:
            Refused: Where no other is left.
        """
        self.counted[number] = False
        if not self.counted.any():
            raise Refused(
                "no shard is left with records that a run trains on, so that nobody votes; keep "
                "more records, or train with fewer shards"
            )
