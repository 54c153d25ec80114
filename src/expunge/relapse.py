"""How soon a network knows records again when it is trained on.

Golatkar, Achille and Soatto, "Eternal Sunshine of the Spotless Net: Selective Forgetting in Deep
Networks", CVPR 2020, https://arxiv.org/abs/1911.04933
"""

import copy
import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from expunge.core import rng
from expunge.core.descent import Diverged, Pass, descend
from expunge.core.view import View
from expunge.subject import WhiteBox
from expunge.types import Batch, Data, Descent, Recipe, Task

UNLABELLED = ("denoising",)  # tasks without a right answer to tell


class Goal(NamedTuple):
    """When records count as known again: as soon as one of both is reached.

    Attributes:
        loss: At most so large a mean; None does not look at it.
        accuracy: At least so large a share told; None does not look at it.
    """

    loss: float | None = None
    accuracy: float | None = None

    def reached(self, loss: float, accuracy: float) -> bool:
        """Return whether it is."""
        known = self.loss is not None and loss <= self.loss
        return known or (self.accuracy is not None and accuracy >= self.accuracy)


class Relapse(NamedTuple):
    """What a network knew of some records, at first and after each epoch until the goal.

    Attributes:
        loss: Mean over them.
        accuracy: Share of them told; NaN where the task has no right answer.
        reached: Whether the goal was.
        limit: The most epochs there are.
    """

    loss: Float[Tensor, " looks"]
    accuracy: Float[Tensor, " looks"]
    reached: bool
    limit: int

    @property
    def epochs(self) -> int:
        """How many it took; the most there are where it never got there, or diverged."""
        return len(self.loss) - 1 if self.reached else self.limit

    @property
    def diverged(self) -> bool:
        """Whether it came to nothing before the goal."""
        return not self.reached and not math.isfinite(float(self.loss[-1]))

    @property
    def missed(self) -> str:
        """Why one that never got there counts as it does, as a warning says it."""
        if not self.diverged:
            return f"not known again after {self.limit} epochs"
        return (
            f"relearning diverged in epoch {len(self.loss) - 1}, which counts as not known again "
            f"after {self.limit} epochs; lower its learning rate"
        )


def look(network: nn.Module, data: Data, task: Task, seed: int) -> tuple[float, float]:
    """Return a network's mean loss and accuracy on some records; NaN where there is none."""
    subject = WhiteBox(network)
    loss = float(subject.score(data, task, task.losses, seed).double().mean())
    if task.card.name in UNLABELLED:
        return loss, float("nan")
    return loss, float(subject.right(data, task).mean())


def relapse(
    network: nn.Module,
    asked: Data,
    taught: Data,
    recipe: Recipe,
    descent: Descent,
    goal: Goal,
    *,
    records: int | None = None,
    seed: int = 0,
) -> Relapse:
    """Train a copy of the network until it reaches the goal.

    Args:
        network: Left as found.
        asked: The records that it is to know again.
        taught: What it is shown, without augmentation.
        recipe: Has the task.
        descent: The optimiser, and for how many epochs at most.
        goal: When to stop.
        records: How many of `taught` an epoch has, drawn anew for each; None: all of them.
        seed: Of the draws, which are the same for every network.
    """
    learner = copy.deepcopy(network).requires_grad_(True)
    seen: list[tuple[float, float]] = []
    done = False

    def enough() -> bool:
        nonlocal done
        if not done:
            with torch.no_grad():
                seen.append(look(learner, asked, recipe.task, seed))
            done = goal.reached(*seen[-1])
        return done

    def objective(batch: Batch) -> Tensor:
        return recipe.task.loss(learner, batch)

    def epoch() -> Pass:
        order = torch.randperm(len(taught), generator=draws)[:records]
        return Pass(View(taught, order), objective, "update", skip=enough, augment=False)

    draws = rng.generator(seed, "relapse")
    rounds = [[epoch()] for _ in range(descent.epochs)]
    with rng.fenced(rng.derive(seed, "relapse")):
        try:
            descend(learner, rounds, descent, recipe, draws)
            enough()
        except Diverged:
            seen.append((float("inf"), 0.0))  # it knows nothing any more
    loss, accuracy = torch.tensor(seen, dtype=torch.double).unbind(1)
    return Relapse(loss, accuracy, done, descent.epochs)
