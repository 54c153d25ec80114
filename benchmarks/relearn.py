"""Relearning trials of the reminiscence attack: batched, against one after another."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import Claim, interleaved, ratios
from expunge.core.relearn import Lesson, Trial, deal, relearn, together
from expunge.core.rng import generator
from expunge.core.state import lay_out
from expunge.core.view import View
from expunge.data.bundled import Digits
from expunge.data.relabelled import Relabelled
from expunge.data.tensors import TensorData
from expunge.models.convnet import ConvNet
from expunge.models.mlp import MLP
from expunge.models.resnet import ResNet
from expunge.tasks.categorical import Classification
from expunge.types import Architecture, Data, Descent, Recipe

REPEATS, HELD, BESIDE, SLOT = 5, 20, 14, 3


def usual(network: nn.Module, trial: Trial, lesson: Lesson) -> list[float]:
    """Run one trial as everyone does: plain PyTorch, on tensors at hand."""
    network = copy.deepcopy(network)
    lay_out(network)
    optimizer = torch.optim.SGD(network.parameters(), lesson.lr, momentum=0.9)
    x, y, _ = trial.candidates.take(torch.arange(len(trial.candidates)))
    others, theirs, _ = trial.retained.take(torch.arange(len(trial.retained)))
    assert isinstance(x, Tensor)
    assert isinstance(others, Tensor)
    told = []
    for step in range(lesson.steps):
        rows = slice(step * lesson.retained, (step + 1) * lesson.retained)
        network.train()
        optimizer.zero_grad()
        outputs = network(torch.cat([x[step : step + 1], others[rows]]))
        F.cross_entropy(outputs, torch.cat([y[step : step + 1], theirs[rows]])).backward()
        optimizer.step()
        network.eval()
        with torch.no_grad():
            told.append(float((network(x).argmax(1) == y).double().mean()))
    return told


def trials_on(data: Data, count: int) -> list[Trial]:
    """Return trials on random records."""
    made = []
    for number in range(count):
        draws = generator(number, "benchmark")
        mine, theirs = deal(len(data), HELD, draws), deal(len(data), HELD * BESIDE, draws)
        candidates = Relabelled(View(data, mine), torch.full((HELD,), SLOT))
        made.append(Trial(candidates, View(data, theirs), number))
    return made


def larger() -> Data:
    """Return noise in the shape of CIFAR's pictures."""
    draws = torch.Generator().manual_seed(0)
    x = torch.rand(400, 3, 32, 32, generator=draws)
    return TensorData(x, torch.randint(0, 10, (len(x),), generator=draws))


def compared(
    name: str, model: Architecture, data: Data, count: int, target: float | None
) -> list[Claim]:
    """Measure both ways of running trials one after another against all at the same time."""
    recipe = Recipe(
        model=model, inputs=data.shape, task=Classification(classes=10), descent=Descent()
    )
    network, trials = recipe.drawn(), trials_on(data, count)
    plain = Lesson(lr=0.01, steps=HELD, retained=BESIDE, precision="fp32")
    lesson = Lesson(lr=0.01, steps=HELD, retained=BESIDE)
    relearn(network, trials[:2], recipe, lesson)  # what is only paid once is paid here
    usual(network, trials[0], plain)
    seconds = interleaved(
        {
            "batched": lambda: relearn(network, trials, recipe, lesson),
            "usual": lambda: [usual(network, trial, plain) for trial in trials],
            "ours": lambda: [together(network, [t], recipe, lesson) for t in trials],
        },
        REPEATS,
    )
    side = data.shape[-1]
    note = (
        f"pictures of {side} x {side}, {HELD} steps of 1 + {BESIDE} records, {HELD} candidates "
        "asked about after each"
    )
    return [
        Claim(
            what=f"{count} relearning trials, {name}, the usual loop one after another / batched",
            ratios=ratios(seconds["usual"], seconds["batched"]),
            target=target,
            note=f"{note}; the usual: plain PyTorch in fp32, ours in bf16 where that pays",
        ),
        Claim(
            what=f"{count} relearning trials, {name}, our loop one after another / batched",
            ratios=ratios(seconds["ours"], seconds["batched"]),
            target=None,
            note=note,
        ),
    ]


def claims() -> list[Claim]:
    """Measure small networks, and one whose arithmetic takes most of the time."""
    digits = Digits().load().train
    return [
        *compared("mlp 64-128-10", MLP(), digits, 32, 3.0),
        *compared("convnet width 8", ConvNet(width=8), digits, 32, 3.0),
        *compared("resnet18 width 16", ResNet(width=16), larger(), 2, None),
    ]
