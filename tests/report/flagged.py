"""Made-up records of audits that flag records; they are nobody's results."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.report import made

AUDITS = ("lira", "rmia", "population")
MANY = (
    *AUDITS, "u_lira", "update_difference", "label_only", "lira_offline", "lira_fixed",
    "rmia_offline", "population_svc", "population_loss", "update_difference_tree",
)  # fmt: skip
WARNING = "400 records never trained on cannot resolve a false positive rate of 0.1 %: hold out"


def answer(rng: np.random.Generator, scores: np.ndarray, index: Sequence[int]) -> dict[str, Any]:
    """Return what an audit tells of these scores against as many Gaussian ones."""
    others = np.sort(rng.normal(0, 1, len(scores)))
    auc = float((scores[:, None] > others).mean())
    low = float((scores > others[int(0.99 * len(others))]).mean())
    values = {"auc": auc, "tpr_at_1%_fpr": low}
    told = made.answer(
        values,
        len(scores),
        scores=scores.round(5).tolist(),
        flagged=(scores > others[int(0.9 * len(others))]).tolist(),
        index=list(index),
    )
    return told | {"warnings": [WARNING]}


def finding(
    audit: str, record: dict[str, Any], verdict: str, *, models: int, index: Sequence[int]
) -> dict[str, Any]:
    """Return what one attack found, with scores that attacks share in part."""
    seed, name = record["seed"], record["method"]["name"]
    like = made.METHODS.get(name, {"d": 0.3})

    def ask(who: str, d: float) -> dict[str, Any]:
        odd = np.random.default_rng(7).normal(0, 1, len(index))  # what all audits see
        rng = np.random.default_rng(random.Random(f"{audit}{who}{seed}").getrandbits(32))
        return answer(rng, d + 0.8 * odd + 0.6 * rng.normal(0, 1, len(index)), index)

    unlearned, original = ask(name, like["d"]), ask("original", 1.0)
    controls = [ask(f"retrained {number}", 0.0) for number in range(models)]
    gap = unlearned["values"]["auc"] - 0.5
    return {
        "audit": audit, "version": 1, "settings": {}, "question": "Is it a member?",
        "source": "https://example.org/paper", "ideal": "retrained", "unit": "", "decides": True,
        "headline": "auc", "unlearned": unlearned, "original": original, "retrained": controls,
        "moved": {"value": gap, "low": gap - 0.02, "high": gap + 0.02},
        "gap": {"value": gap, "low": gap - 0.02, "high": gap + 0.02} if models else None,
        "floor": 0.03 if models > 1 else None, "verdict": verdict, "statement": f"{audit}: …",
    }  # fmt: skip


def records(
    seeds: int = 2,
    *,
    methods: int = 3,
    audits: Sequence[str] = AUDITS,
    size: int = 60,
    models: int = 2,
    apart: bool = False,
) -> list[dict[str, Any]]:
    """Return a run of attacks that flag records.

    Args:
        seeds: Of each method.
        methods: How many; more than there are made up get names of their own.
        audits: Their names.
        size: Of the forget set.
        models: Retrained.
        apart: Whether every seed forgets other records.
    """
    known, out = list(made.METHODS), []
    rng = random.Random(0)
    verdicts = ["leaks", "overshoots", "like retraining", "cannot tell"]
    for number in range(methods):
        for seed in range(seeds):
            one = made.record(
                known[number % len(known)],
                seed,
                retrained=models,
                audits=("loss_attack",),
                forget=size,
            )
            if number >= len(known):
                one["method"]["name"] = f"a_method_with_a_long_name_{number}"
            index = [7 * i + 3 + (1000 * seed if apart else 0) for i in range(size)]
            one["forget"]["settings"]["seed"] = seed if apart else 0
            one["findings"] += [
                finding(a, one, rng.choice(verdicts), models=models, index=index) for a in audits
            ]
            out.append(one)
    return out
