"""One small trained problem per task, and one of images, made once."""

import copy
import dataclasses
from typing import NamedTuple

import pytest
import torch
from torch import nn

from expunge import registry
from expunge.bench.problem import Problem, Training, pose
from expunge.core.rng import generator
from expunge.data.tensors import TensorData
from expunge.types import Data, Descent, Request, Sets

# Tests run two at a time on two cores, and their models are tiny.
torch.set_num_threads(1)


class Made(NamedTuple):
    """A problem and its original."""

    problem: Problem
    original: nn.Module

    @property
    def request(self) -> Request:
        return self.problem.request

    @property
    def test(self) -> Data:
        return self.problem.test


SPECS = {
    "classification": ({"name": "blobs", "train": 120}, {"name": "mlp", "hidden": [32]}),
    "next_token": ({"name": "chains", "train": 60}, {"name": "lstm"}),
    "denoising": ({"name": "blobs", "train": 120}, {"name": "denoiser", "conditions": 6}),
    "images": (None, {"name": "convnet", "width": 4}),
}


CLASSES = ("classification", "denoising")  # tasks with a problem of whole classes

WITHHELD = {
    "name": "withheld",
    "of": {"name": "blobs", "classes": 10, "train": 200},
    "classes": [6, 7, 8, 9],
}


def images(classes: int = 6, train: int = 120) -> Sets:
    """Make noisy 8 x 8 images of one pattern per class; half as many are held out."""
    n, rng = train * 3 // 2, generator(0, "images")
    y = torch.arange(n) % classes
    patterns = torch.rand(classes, 1, 8, 8, generator=rng)
    x = (patterns[y] + 0.3 * torch.randn(n, 1, 8, 8, generator=rng)).clamp(0, 1)
    return Sets(TensorData(x[:train], y[:train]), TensorData(x[train:], y[train:]))


def make(name: str) -> Made:
    table, model = SPECS[name]
    source = registry.data.build(table) if table else None
    problem = pose(
        source.load() if source else images(),
        registry.forget.build({"name": "random", "count": 20}),
        registry.models.build(model),
        Training(descent=Descent(lr=0.05, epochs=30, batch_size=32)),
        source=source,
    )
    if name == "denoising":
        recipe = dataclasses.replace(
            problem.recipe, task=registry.tasks.build({"name": "denoising"})
        )
        request = dataclasses.replace(problem.request, recipe=recipe)
        problem = dataclasses.replace(problem, recipe=recipe, request=request)
    return Made(problem, problem.train(0))


def withheld(model: dict) -> Made:
    """Make a problem of forgetting one class, with four that no model is trained on."""
    source = registry.data.build(WITHHELD)
    problem = pose(
        source.load(),
        registry.forget.build({"name": "class", "classes": [0]}),
        registry.models.build(model),
        Training(descent=Descent(lr=0.05, epochs=30, batch_size=32)),
        source=source,
    )
    return Made(problem, problem.train(0))


@pytest.fixture(scope="session")
def made() -> dict[str, Made]:
    of_classes = {f"withheld_{task}": withheld(SPECS[task][1]) for task in CLASSES}
    return {name: make(name) for name in SPECS} | of_classes


@pytest.fixture(params=list(SPECS))
def posed(request: pytest.FixtureRequest, made: dict[str, Made]) -> Made:
    found = made[request.param]
    return found._replace(original=copy.deepcopy(found.original))


@pytest.fixture
def blobs(made: dict[str, Made]) -> Made:
    found = made["classification"]
    return found._replace(original=copy.deepcopy(found.original))
