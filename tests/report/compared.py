"""Made-up records of a comparative study; the truth behind them is known."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from expunge.study.comparative import EPOCHS, NAMES
from tests.report import made

# Means by method: ratio, validation and retain accuracy, AUC, share of training's time.
Truth = dict[str, dict[str, float]]
MECHANISMS = {
    "finetune": ["train on retain"],
    "distillation": ["re-initialise weights", "distil", "train on validation", "train on retain"],
    "rotate": ["permute weights", "train on retain"],
    "pseudo_label": ["re-initialise weights", "relabel", "train on forget", "train on retain"],
    "pruning": ["prune weights", "re-initialise weights", "train on retain"],
    "deviation": ["add noise", "train on retain"],
    "gradient_reset": ["choose by gradients", "re-initialise weights", "train on retain"],
    "divergence": ["train on forget", "train on retain"],
}
PAPER: Truth = {  # a world in which all that the paper claims is so
    "original": {"ratio": 1.14, "val": 0.85, "retain": 0.99, "auc": 0.60},
    "retrained": {"ratio": 1.00, "val": 0.84, "retain": 0.99, "auc": 0.50},
    "finetune": {"ratio": 1.12, "val": 0.85, "retain": 0.99, "auc": 0.56, "share": 0.20},
    "distillation": {"ratio": 1.11, "val": 0.84, "retain": 0.98, "auc": 0.56, "share": 0.36},
    "rotate": {"ratio": 1.00, "val": 0.80, "retain": 0.93, "auc": 0.503, "share": 0.26},
    "pseudo_label": {"ratio": 1.10, "val": 0.84, "retain": 0.98, "auc": 0.55, "share": 0.44},
    "pruning": {"ratio": 1.00, "val": 0.76, "retain": 0.90, "auc": 0.500, "share": 0.30},
    "deviation": {"ratio": 1.12, "val": 0.85, "retain": 0.99, "auc": 0.56, "share": 0.19},
    "gradient_reset": {"ratio": 1.00, "val": 0.50, "retain": 0.55, "auc": 0.505, "share": 0.28},
    "divergence": {"ratio": 1.02, "val": 0.87, "retain": 0.98, "auc": 0.503, "share": 0.18},
}
SPREAD = {"ratio": 0.001, "val": 0.0005, "retain": 0.001, "auc": 0.0004, "share": 0.004}


def truth(method: str, epochs: int, target: str) -> tuple[dict[str, float], dict[str, float]]:
    """Return the means and standard deviations of the world in which the claims are true."""
    mean, spread = dict(PAPER[method]), dict(SPREAD)
    if method == "retrained":
        spread |= {"ratio": 0.01, "auc": 0.004, "val": 0.004}
    if "share" in mean:
        mean["share"] *= epochs / 9
    if method == "divergence":
        mean["ratio"] = {5: 1.001, 9: 1.02, 20: 0.99}[epochs]
        mean["val"] = {5: 0.85, 9: 0.87, 20: 0.83}[epochs]
        spread |= {"ratio": 0.009, "val": {5: 0.001, 9: 0.0005, 20: 0.01}[epochs]}
    if epochs == 20 and method in ("rotate", "pruning"):
        mean["val"] += 0.03
        spread["val"] = 0.00005
    if epochs == 20 and method == "gradient_reset":
        mean["retain"] = 0.7
    if epochs == 5 and method == "gradient_reset":
        mean["val"], mean["retain"] = 0.4, 0.4
    if target == "red":
        spread |= {"ratio": 4 * spread["ratio"], "auc": 5 * spread["auc"]}
        if method == "retrained":
            spread |= {"ratio": 0.02, "auc": 0.006}
        if method == "divergence" and epochs == 5:
            spread["ratio"] = 0.003
    return mean, spread


@dataclass
class Draw:
    """Draws models of one repetition."""

    rng: np.random.Generator
    target: str
    change: Mapping[str, Mapping[str, float]]

    def __call__(self, method: str, epochs: int = 9) -> dict[str, float]:
        mean, spread = truth(method, epochs, self.target)
        mean |= self.change.get(method, {})
        return {k: v + spread[k] * float(self.rng.normal()) for k, v in mean.items()}


def answer(values: Mapping[str, float], audit: str) -> dict[str, Any]:
    if audit == "accuracy":
        forget = values["ratio"] * values["val"]
        told = {"forget": forget, "retain": values["retain"], "val": values["val"]}
        told |= {"test": values["val"], "forget/val": values["ratio"]}
    else:
        told = {"auc": values["auc"]}
    return {"values": told, "intervals": {}, "null": None, "arrays": {}}


def finding(audit: str, unlearned: Any, original: Any, retrained: Any) -> dict[str, Any]:
    told = [answer(unlearned, audit), answer(original, audit)]
    return {
        "audit": audit, "version": 1, "settings": {}, "question": "How?", "ideal": "retrained",
        "source": "https://example.org/paper", "unit": "", "decides": True,
        "headline": next(iter(told[0]["values"])), "unlearned": told[0], "original": told[1],
        "retrained": [answer(one, audit) for one in retrained],
        "moved": {"value": 0.1, "low": None, "high": None}, "gap": None, "floor": None,
        "verdict": "cannot tell", "statement": f"{audit}: made up.",
    }  # fmt: skip


def curve(end: Mapping[str, float], start: Mapping[str, float], epochs: int) -> dict[str, Any]:
    share = [0.0, *(1 - 0.5 ** (k + 1) for k in range(epochs - 1)), 1.0]
    ends = {"retain": "retain", "val": "val", "test": "val"}
    out: dict[str, Any] = {"epoch": list(range(epochs + 1)), "records": {}}
    for name in ("retain", "forget", "val", "test"):
        metric = ends.get(name)
        first, last = (v[metric] if metric else v["ratio"] * v["val"] for v in (start, end))
        accuracy = [first + (last - first) * s - 0.3 * s * (1 - s) for s in share]
        out[name] = {"accuracy": accuracy, "loss": [1 - a for a in accuracy]}
        out["records"][name] = 1000
    return out


def record(
    method: str,
    epochs: int,
    target: str,
    repeat: int,
    models: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return one made-up record of a repetition whose controls are given."""
    base = made.record("finetune", repeat, audits=())
    values = models["unlearned"]
    whole = {"descent": {"epochs": epochs, "lr": 0.001}} | dict(settings or {})
    if method in EPOCHS:
        whole = {"descent": {"epochs": epochs - 1}, "uniform": {"epochs": 1}}
    forget = {"name": "random", "settings": {"fraction": 0.1, "seed": repeat}}
    if target == "red":
        forget = {"name": "colour", "settings": {"colour": "red"}}
    controls = (models["original"], models["retrained"])
    return base | {
        "key": made.digest(method, epochs, target, repeat, sorted((settings or {}).items())),
        "run": "compared",
        "forget": base["forget"] | forget | {"digest": made.digest(target, repeat)},
        "method": base["method"] | {
            "name": method, "settings": whole, "summary": f"{NAMES[method][0]}.",
            "mechanisms": MECHANISMS[method],
        },
        "verdict": {"kind": "cannot tell", "sentence": "Made up."},
        "findings": [finding(a, values, *controls) for a in ("accuracy", "loss_attack")],
        "measured": base["measured"] | {
            "seconds": 100 * values["share"], "training_seconds": 100.0,
        },
        "curve": curve(values, models["original"], epochs),
    }  # fmt: skip


def records(
    repeats: int = 10,
    lengths: Iterable[int] = (5, 9, 20),
    targets: Iterable[str] = ("random", "red"),
    retrained: int = 3,
    change: Mapping[str, Mapping[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Return a study of every method in a world where the claims are true, but for `change`."""
    out = []
    for target in targets:
        for repeat in range(repeats):
            draw = Draw(np.random.default_rng([repeat, len(target)]), target, change or {})
            models = {"original": draw("original")}
            models |= {"retrained": [draw("retrained") for _ in range(retrained)]}
            for method in NAMES:
                for epochs in lengths:
                    models |= {"unlearned": draw(method, epochs)}
                    out.append(record(method, epochs, target, repeat, models))
    return out
