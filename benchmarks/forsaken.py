"""Forsaken: omega in one backward, time that only the forget set makes longer, memory."""

import dataclasses
import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.fisher import split
from benchmarks.timing import Claim, interleaved, ratios
from benchmarks.unlearning_cost import pictures
from expunge.core import lbfgs, owlqn
from expunge.core.grads import absolute_gradients
from expunge.core.masked import Masked, Target
from expunge.core.owlqn import Limits
from expunge.data.tensors import TensorData
from expunge.methods.forsaken import Forsaken
from expunge.models.mlp import MLP
from expunge.models.resnet import ResNet
from expunge.tasks.categorical import Classification
from expunge.types import Architecture, Batch, Descent, Recipe, Request

TASK, SIZE = Classification(classes=10), 128
PROBE, RECORDS, FORGET, NONMEMBERS = 250, 2_000, 50, 200
HISTORY, WIDTH, DEPTH = 10, 1_000, 7


def by_loop(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Return the mean of the gradients' sizes by the loop of the definition."""
    model.eval()
    assert isinstance(batch.x, Tensor)
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for i in range(len(batch.y)):
        model.zero_grad()
        TASK.losses(model(batch.x[i : i + 1]), batch.y[i : i + 1]).sum().backward()
        for name, p in model.named_parameters():
            if p.grad is not None:
                total[name] += p.grad.abs()
    return {name: part / len(batch.y) for name, part in total.items()}


def omega(name: str, model: Architecture, shape: tuple[int, ...]) -> Claim:
    """Measure omega of one network."""
    draws = torch.Generator().manual_seed(0)
    x, y = torch.rand(PROBE, *shape, generator=draws), torch.arange(PROBE) % 10
    whole, network = Batch(x, y, torch.arange(PROBE)), model.build(shape, 10).double()
    few = split(whole._replace(x=x.double()), 8)[0]
    found, expected = absolute_gradients(network, TASK, [few]), by_loop(network, few)
    far = max(float((found[k] - part).abs().max()) for k, part in expected.items())
    if far > 1e-9:
        raise AssertionError(f"the two ways differ by {far:g} for {name}; expected the same")
    network, batches = network.float(), split(whole, SIZE)
    runs = {
        "ours": lambda: absolute_gradients(network, TASK, batches),
        "loop": lambda: by_loop(network, whole),
    }
    seconds = interleaved(runs, 3)
    return Claim(
        what=f"Forsaken's omega, {name}, one backward per batch / per record",
        ratios=ratios(seconds["loop"], seconds["ours"]),
        target=5.0,
        note=f"{PROBE} records, fp32; the same numbers in fp64",
    )


def asked(records: int, forget: int) -> Request:
    """Pose a request on as many records; nothing has learnt them, and nothing need have."""
    recipe = Recipe(model=ResNet(width=8), inputs=(3, 32, 32), task=TASK, descent=Descent())
    parts = (pictures(n, seed) for seed, n in enumerate((records, forget, 10, NONMEMBERS)))
    retain, forgotten, val, others = parts
    return Request(retain=retain, forget=forgotten, val=val, nonmembers=others, recipe=recipe)


def times() -> list[Claim]:
    """Measure one mask with ten times the training set, and with four times the forget set."""
    how = Forsaken(profile="robust", iterations=8, stop=0.0, budget=1.0, penalty=0.0)
    small = asked(RECORDS, FORGET)
    large = dataclasses.replace(small, retain=asked(10 * RECORDS, 1).retain)
    many = dataclasses.replace(small, forget=asked(1, 4 * FORGET).forget)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = small.recipe.fresh().eval()
    requests = {"small": small, "large": large, "many": many}
    evaluations = {
        name: how(network, request, seed=0).notes["trace"]["evaluations"][-1]
        for name, request in requests.items()
    }
    runs = {
        name: (lambda request=request: how(network, request, seed=0))
        for name, request in requests.items()
    }
    seconds = interleaved(runs, 3)
    each = {name: [s / evaluations[name] for s in seconds[name]] for name in runs}
    note = f"resnet18 width 8, {how.iterations} iterations, seconds per evaluation"
    return [
        Claim(
            what=f"Forsaken, {10 * RECORDS:,} retained records / {RECORDS:,}",
            ratios=ratios(each["large"], each["small"]),
            target=1.5,
            at_least=False,
            note=f"{note}; {FORGET} to forget",
        ),
        Claim(
            what=f"Forsaken, {4 * FORGET} records to forget / {FORGET}",
            ratios=ratios(each["many"], each["small"]),
            target=5.0,
            at_least=False,
            note=f"{note}; {RECORDS:,} retained",
        ),
    ]


def vectors(minimise: Callable[..., str]) -> float:
    """Return the peak memory of one minimisation, in rows of as many numbers as weights.

    The network has several layers alike: the gradient of one is held while it goes back.
    """
    draws = torch.Generator().manual_seed(0)
    x = torch.rand(64, WIDTH, generator=draws)
    data = TensorData(x, torch.arange(64) % 10)
    recipe = Recipe(
        model=MLP(hidden=(WIDTH,) * DEPTH, batch_norm=False),
        inputs=(WIDTH,),
        task=TASK,
        descent=Descent(),
    )
    request = Request(retain=data, forget=data, val=data, nonmembers=data, recipe=recipe)
    network = recipe.fresh().eval()
    numbers = sum(p.numel() for p in network.parameters())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
        masked = Masked(network, request, 64, 0)
        masked.target = Target(torch.full((1, 10), 0.1).log(), None)
        change, weights = masked.nothing(), masked.nothing().add_(1e-6)
        best = change.clone()
        limits = Limits(HISTORY + 4, 1_000, 0.0, 0.0)
        minimise(masked.smooth, change, weights, limits, history=HISTORY)
        best.copy_(change)
    assert told.profiler is not None
    kineto = told.profiler.kineto_results
    assert kineto is not None
    events = sorted(
        (e.start_ns(), e.nbytes())  # pyright: ignore[reportAttributeAccessIssue] not in its stubs
        for e in kineto.events()
        if e.name() == "[memory]"
    )
    return max(itertools.accumulate(size for _, size in events)) / (4 * numbers)


def memory() -> list[Claim]:
    """Measure by what is allocated: what a process holds depends on what was freed before."""
    note = f"history {HISTORY}: two rows for each pair, and 8; the half is a layer's gradient "
    profiles = {"robust": owlqn.minimise, "paper": lbfgs.minimise}
    return [
        Claim(
            what=f"memory of one mask, profile {name}, in rows of as many numbers as weights",
            ratios=[vectors(minimise)],
            target=2 * HISTORY + 8 + 0.5,
            at_least=False,
            note=note + "and what is worked on at once",
        )
        for name, minimise in profiles.items()
    ]


def claims() -> list[Claim]:
    """Measure omega, time and memory."""
    return [
        omega("mlp 784-128-10", MLP(), (784,)),
        omega("resnet18 width 16", ResNet(width=16), (3, 32, 32)),
        *times(),
        *memory(),
    ]
