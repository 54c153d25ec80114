"""Relearning trials: how fast a network learns records in a given slot, many trials at a time.

The reminiscence attack: Xiao, Ye, Hu, Zheng, Hu, Liang, Li and Jiao, "Reminiscence Attack on
Residuals", ICCV 2025, https://arxiv.org/abs/2507.20573

A trial copies the network, weights and buffers, takes a new optimiser, and shows it one candidate
a step beside some retained records. After each step it asks in eval mode how many candidates are
told. Trials start alike and never meet, so that small networks are stacked and learn together.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from expunge.core import rng
from expunge.core.descent import Pass, descend, half_precision
from expunge.core.packed import Stack, pays, refusal
from expunge.core.sample import joined
from expunge.core.state import convolves, device_of, lay_out, mode
from expunge.types import Augment, Batch, Data, Descent, Inputs, Recipe, each

PACK = 16  # trials that run at the same time, where that is faster
BLOCK = 16  # steps whose records are read at the same time; memory only, not the result


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """How every trial of a comparison goes: by SGD with momentum 0.9, without decay.

    Attributes:
        lr: Learning rate, the same throughout.
        steps: How many; each shows one candidate, the next one of its trial.
        retained: Retained records beside each candidate.
        asked: Candidates asked about after each step, evenly in their order, so that as many of
            them are shown as of all; None asks about all.
        precision: Of the forward pass, as in training.
    """

    lr: float
    steps: int
    retained: int
    asked: int | None = None
    precision: Literal["auto", "bf16", "fp32"] = "auto"

    @property
    def descent(self) -> Descent:
        """The settings of each trial's own optimiser."""
        return Descent(lr=self.lr, momentum=0.9, batch_size=1, precision=self.precision)


class Trial(NamedTuple):
    """One attempt of a network to learn some records.

    Attributes:
        candidates: Answered with the slot, in the order in which they are shown.
        retained: In the order in which they are shown.
        seed: Of what the network itself draws, such as dropout.
    """

    candidates: Data
    retained: Data
    seed: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Lessons(Recipe):
    """A recipe whose batches are what trials are shown in a step, one trial after another.

    Attributes:
        lesson: How many of what a step shows.
        trials: Whose records.
    """

    lesson: Lesson
    trials: Sequence[Trial]

    def shuffled(self, data: Data, size: int, rng: torch.Generator) -> Iterator[Batch]:
        """Yield each step's records in the trials' own order, whatever the arguments are."""
        del data, size, rng
        beside, count = self.lesson.retained, len(self.trials)
        for start in range(0, self.lesson.steps, BLOCK):
            size = min(BLOCK, self.lesson.steps - start)
            mine = torch.arange(start, start + size)
            theirs = torch.arange(start * beside, (start + size) * beside)
            parts = [(t.candidates.take(mine), t.retained.take(theirs)) for t in self.trials]
            block = joined([part for pair in parts for part in pair])
            firsts = size * (1 + beside) * torch.arange(count)[:, None]
            for step in range(size):
                retained = size + step * beside + torch.arange(beside)
                shown = torch.cat([torch.tensor([step]), retained])
                yield chosen(block, (firsts + shown).flatten())


def chosen(batch: Batch, rows: Int[Tensor, " k"]) -> Batch:
    """Return some records of a batch."""
    here = rows.to(batch.y.device)
    return Batch(each(batch.x, lambda part: part[here]), batch.y[here], batch.index[rows])


def relearn(
    network: nn.Module, trials: Sequence[Trial], recipe: Recipe, lesson: Lesson
) -> Float[Tensor, "trials steps"]:
    """Return the share of its candidates that each trial's network tells after each step.

    Where the weights of a trial are no longer finite, it tells none.

    Args:
        network: Left as found.
        trials: All with equally many candidates.
        recipe: Has the task; records are shown as they are, without augmentation.
        lesson: How all of them learn.

    Raises:
        ValueError: For trials that differ in size, or have too few records for the lesson.
    """
    sizes = {len(trial.candidates) for trial in trials}
    beside = min((len(trial.retained) for trial in trials), default=0)
    if len(sizes) != 1 or min(sizes) < lesson.steps or beside < lesson.steps * lesson.retained:
        raise ValueError(
            f"expected trials with equally many candidates, at least {lesson.steps}, and "
            f"{lesson.steps * lesson.retained} retained records each; got {sorted(sizes)} and "
            f"{beside}: take fewer steps, or give more records"
        )
    size = at_once(network)
    packs = [trials[start : start + size] for start in range(0, len(trials), size)]
    return torch.cat([together(network, pack, recipe, lesson) for pack in packs])


def at_once(network: nn.Module) -> int:
    """Return how many trials of the network are run at the same time: several where that pays.

    An accelerator waits for small batches whatever the layers are; on a CPU only chains of
    layers gain for sure. ResNets gain where their maps are tiny, and lose where they are not.
    """
    accelerated = device_of(network).type != "cpu" and refusal(network) is None
    return PACK if pays(network) or accelerated else 1


def together(
    network: nn.Module, trials: Sequence[Trial], recipe: Recipe, lesson: Lesson
) -> Float[Tensor, "trials steps"]:
    """Return the trajectories of trials that run at the same time; see `relearn`."""
    learner = copy.deepcopy(network).requires_grad_(True)
    if len(trials) > 1:
        learner = Stack([learner] * len(trials))
    count, task, device = len(trials), recipe.task, device_of(learner).type
    half = half_precision(learner, lesson.descent, device)
    candidates = len(trials[0].candidates)
    asked = min(candidates, lesson.asked or candidates)
    among = torch.arange(asked) * candidates // asked
    watched = joined([trial.candidates.take(among) for trial in trials])
    x = _laid_out(learner, watched.x)
    told: list[Tensor] = []

    def objective(batch: Batch) -> Tensor:
        losses = task.losses(learner(batch.x).float(), batch.y)
        # The gradient of the sum is, for each trial, that of its own mean loss. A trial that
        # has diverged is left behind; it must not end the others.
        return losses.unflatten(0, (count, -1)).mean(1).nan_to_num(0, 0, 0).sum()

    def look(rate: float) -> None:
        del rate
        cast = torch.autocast(device, torch.bfloat16, enabled=half)
        with torch.no_grad(), mode(learner, training=False), cast:
            outputs = learner(x).float()
        right = (outputs.argmax(-1) == watched.y) & outputs.isfinite().all(-1)
        told.append(right.unflatten(0, (count, -1)).double().mean(1).cpu())

    settings = {name: getattr(recipe, name) for name in Recipe.__dataclass_fields__}
    settings |= {"augment": Augment(), "lesson": lesson, "trials": trials}
    taught = Pass(trials[0].candidates, objective, "update", after=look, steps=lesson.steps)
    with rng.fenced(rng.derive(trials[0].seed, "relearn")):
        draws = rng.generator(trials[0].seed, "none")  # trials have their order already
        descend(learner, [[taught]], lesson.descent, Lessons(**settings), draws)
    return torch.stack(told, 1)


def _laid_out(model: nn.Module, x: Inputs) -> Inputs:
    """Return the records in the layout that the model runs fastest in."""
    layout = lay_out(model)
    if not convolves(model):
        return x
    return each(x, lambda p: p.contiguous(memory_format=layout) if p.dim() == 4 else p)


def deal(records: int, wanted: int, draws: torch.Generator) -> Int[Tensor, " wanted"]:
    """Return so many positions in random order; all come once before any comes again."""
    passes = max(1, math.ceil(wanted / records))
    orders = [torch.randperm(records, generator=draws) for _ in range(passes)]
    return torch.cat(orders)[:wanted]


def first_at(
    trajectories: Float[Tensor, "*batch steps"], level: float, cap: int | None = None
) -> Int[Tensor, "*batch"]:
    """Return the first step, from 0, after which the level is reached.

    Args:
        trajectories: Share told after each step.
        level: In [0, 1].
        cap: What a trial gets that takes as long or longer; None is the number of steps.
    """
    steps = trajectories.shape[-1]
    reached = trajectories >= level
    first = torch.where(reached.any(-1), reached.double().argmax(-1), steps)
    return first.clamp(max=steps if cap is None else cap)


def speed(
    trajectories: Float[Tensor, "*batch steps"], level: float, cap: int | None = None
) -> Float[Tensor, "*batch"]:
    """Return each trial's score: higher is faster.

    Minus the first step at the level; what ties, or never gets there, is ranked by the mean of
    its trajectory. That mean is below 1 unless the first step reaches the level, so that it
    never outweighs a step.
    """
    return trajectories.double().mean(-1) - first_at(trajectories, level, cap)


def threshold(scores: Float[Tensor, "*batch n"], fpr: float) -> Float[Tensor, "*batch"]:
    """Return the lowest score that one more like these exceeds with probability `fpr` at most.

    The k-th lowest of n, with k = ⌈(1 - fpr) (n + 1)⌉: whatever the scores' distribution, the
    next lies above it in at most n + 1 - k of n + 1 orders. Too few scores, less than 1 / fpr - 1
    of them, give their largest, which the next exceeds more often.
    """
    n = scores.shape[-1]
    rank = min(n, math.ceil((1 - fpr) * (n + 1) - 1e-9))
    return scores.sort(-1).values[..., rank - 1]
