"""One small trained problem per task, made once."""

import copy
import dataclasses
from typing import NamedTuple

import pytest
import torch
from torch import nn

from expunge import registry
from expunge.bench.problem import Problem, Training, pose
from expunge.types import Data, Descent, Request

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
}


def make(task: str) -> Made:
    source, model = SPECS[task]
    source = registry.data.build(source)
    problem = pose(
        source.load(),
        registry.forget.build({"name": "random", "count": 20}),
        registry.models.build(model),
        Training(descent=Descent(lr=0.05, epochs=30, batch_size=32)),
        source=source,
    )
    if task == "denoising":
        recipe = dataclasses.replace(
            problem.recipe, task=registry.tasks.build({"name": "denoising"})
        )
        request = dataclasses.replace(problem.request, recipe=recipe)
        problem = dataclasses.replace(problem, recipe=recipe, request=request)
    return Made(problem, problem.train(0))


@pytest.fixture(scope="session")
def made() -> dict[str, Made]:
    return {task: make(task) for task in SPECS}


@pytest.fixture(params=list(SPECS))
def posed(request: pytest.FixtureRequest, made: dict[str, Made]) -> Made:
    found = made[request.param]
    return found._replace(original=copy.deepcopy(found.original))


@pytest.fixture
def blobs(made: dict[str, Made]) -> Made:
    found = made["classification"]
    return found._replace(original=copy.deepcopy(found.original))
