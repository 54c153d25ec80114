"""What each method's default settings cost, in epochs of training on the retain set."""

import dataclasses
from collections.abc import Callable
from statistics import median

import torch

from benchmarks.timing import Claim, interleaved, ratios
from expunge import api, registry
from expunge.bench.problem import Problem, Training
from expunge.core.descent import train
from expunge.data.tensors import TensorData
from expunge.method import Method
from expunge.types import Augment, Descent, Sets

RECORDS, FORGET, REPEATS, SIZE = 768, 64, 2, 128
ASKED = {"fisher_forgetting": 3.0, "influence": 3.0}


def pictures(count: int, seed: int) -> TensorData:
    """Return pictures of ten classes: each its own pattern, under noise."""
    patterns = torch.rand(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    draws = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 10, (count,), generator=draws)
    noise = torch.rand(count, 3, 32, 32, generator=draws)
    return TensorData(x=(0.3 * patterns[y] + 0.7 * noise).mul(255).byte(), y=y)


def problem() -> Problem:
    """Pose the problem on which everything is timed; its training is short on purpose."""
    return api.problem(
        Sets(train=pictures(RECORDS, 1), test=pictures(RECORDS // 4, 2)),
        {"name": "resnet", "width": 16},
        {"name": "random", "count": FORGET},
        training=Training(
            descent=Descent(lr=0.05, epochs=2, batch_size=SIZE, weight_decay=5e-4),
            augment=Augment(crop=4, flip=True),
        ),
    )


def by_default(name: str, cls: type[Method]) -> Method:
    """Return the method as its defaults have it; what has no default, as its card's toy."""
    lacking = {
        f.name
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    toy = cls.card.toy
    return registry.methods.build({"name": name} | {k: toy[k] for k in lacking if k in toy})


def runs(posed: Problem) -> dict[str, Callable[[], object]]:
    """Return what is timed: one epoch of training, and each method on an original of its own."""
    request, recipe = posed.request, posed.recipe
    once = dataclasses.replace(recipe, descent=dataclasses.replace(recipe.descent, epochs=1))
    original = posed.train(0)
    found: dict[str, Callable[[], object]] = {"epoch": lambda: train(once, request.retain, 0)}
    for name, cls in registry.methods.known().items():
        if recipe.task.card.name not in cls.card.tasks:
            continue
        method, start, asked = by_default(name, cls), original, request
        if cls.train is not Method.train:
            start, trace = method.train(recipe, posed.sets.train, 0)
            asked = dataclasses.replace(request, trace=trace)

        def unlearn(method: Method = method, start=start, asked=asked) -> object:
            return method(start, asked, seed=0)

        found[name] = unlearn
    return found


def claims() -> list[Claim]:
    """Time the asked-for methods as often as is usual, the others once."""
    posed = problem()
    every = runs(posed)
    for name in ("epoch", *ASKED):  # first calls load kernels and derivatives
        every[name]()
    repeated = {name: every[name] for name in ("epoch", *ASKED)}
    others = {name: run for name, run in every.items() if name not in ASKED}
    seconds, rest = interleaved(repeated, REPEATS), interleaved(others, 1)
    found = {name: ratios(seconds[name], seconds["epoch"]) for name in ASKED}
    found |= {name: ratios(rest[name], rest["epoch"]) for name in others if name != "epoch"}
    return [
        Claim(
            what=f"{name} / one epoch of training on the retain set",
            ratios=found[name],
            target=ASKED.get(name),
            at_least=False,
            note=f"default settings; resnet18 width 16, {RECORDS - FORGET:,} records to keep and "
            f"{FORGET} to forget, batch {SIZE}, training in `auto` precision",
        )
        for name in sorted(found, key=lambda name: (name not in ASKED, median(found[name])))
    ]
