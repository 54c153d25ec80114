"""Audits by shadow models on models whose truth is known."""

from dataclasses import replace

import pytest
import torch

from expunge import api
from expunge.audit import Case
from expunge.audits.lira import LiRA
from expunge.audits.population import Population
from expunge.audits.rmia import RMIA
from expunge.bench.problem import Problem, Training
from expunge.stats import auc_by_chance
from expunge.subject import WhiteBox
from expunge.types import Descent

SHADOWS, MODELS = 32, 20
AUDITS = [LiRA(shadows=SHADOWS), LiRA(shadows=SHADOWS, mode="offline"), RMIA(shadows=SHADOWS)]
AUDITS = [*AUDITS, Population()]


@pytest.fixture(scope="module")
def problem() -> Problem:
    """Mislabelled digits, which a network can only know by heart, are to be forgotten."""
    return api.problem(
        {"name": "planted", "of": {"name": "digits"}, "canaries": 80},
        {"name": "mlp", "hidden": [128]},
        "canaries",
        training=Training(descent=Descent(lr=0.1, epochs=60, schedule="onecycle")),
    )


@pytest.fixture(scope="module")
def case(problem: Problem) -> Case:
    original = WhiteBox(problem.train())
    return Case(
        original=original,
        unlearned=original,
        request=problem.request,
        test=problem.test,
        alike=problem.alike,
        lab=problem.lab(0),
    )


@pytest.mark.slow
@pytest.mark.parametrize("audit", AUDITS, ids=lambda a: f"{a.card.name} {getattr(a, 'mode', '')}")
def test_what_was_memorised_is_found_and_what_was_never_seen_is_not(audit, case, problem):
    assert audit(case, seed=0).original.headline > 0.95
    found = []
    for seed in range(MODELS):
        never = problem.retrained(seed)
        found.append(audit(replace(case, unlearned=never), seed=0).unlearned.headline)
    sizes = len(case.request.forget), len(case.nonmembers)
    chance = auc_by_chance([sizes])
    mean = float(torch.tensor(found).mean())
    # One draw of records serves all models, so that their mean varies as one model's does.
    assert not chance.excludes(mean)
    assert sum(chance.excludes(value) for value in found) <= MODELS / 2
