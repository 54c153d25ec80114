"""Made-up records for the tests of tables and reports; they are nobody's results."""

import hashlib
import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

# How each method does: separation of members from others, accuracy on forget and test
# records, share of retraining's work, distance from the original, verdict.
METHODS: dict[str, dict[str, Any]] = {
    "retrain": {
        "d": 0.02,
        "forget": 0.862,
        "test": 0.861,
        "work": 1.0,
        "l2": 38.0,
        "kind": "forgotten",
        "settings": {},
        "summary": "Train anew, from scratch, on what is kept.",
    },
    "finetune": {
        "d": 0.85,
        "forget": 0.985,
        "test": 0.872,
        "work": 0.10,
        "l2": 2.1,
        "kind": "leaks",
        "settings": {"descent": {"optimizer": "sgd", "lr": 0.01, "epochs": 2, "batch_size": 256}},
        "summary": "Train on for a while on what is kept, and hope.",
    },
    "gradient_ascent": {
        "d": -0.55,
        "forget": 0.38,
        "test": 0.702,
        "work": 0.012,
        "l2": 5.4,
        "kind": "over-unlearned",
        "settings": {"descent": {"optimizer": "sgd", "lr": 0.0001, "epochs": 3}},
        "summary": "Climb the loss on the records to forget.",
    },
    "random_label": {
        "d": 0.22,
        "forget": 0.884,
        "test": 0.846,
        "work": 0.115,
        "l2": 6.3,
        "kind": "leaks",
        "settings": {"descent": {"optimizer": "sgd", "lr": 0.008, "epochs": 2}, "balance": True},
        "summary": "Train on wrong answers for the records to forget.",
    },
    "salun": {
        "d": 0.06,
        "forget": 0.868,
        "test": 0.853,
        "work": 0.13,
        "l2": 5.9,
        "kind": "forgotten",
        "settings": {"descent": {"optimizer": "sgd", "lr": 0.013, "epochs": 2}, "sparsity": 0.5},
        "summary": "Random labels, but only on the weights that matter to the forget set.",
    },
}
SENTENCES = {
    "forgotten": "No sign of the records: accuracy and loss_attack answered like retraining, "
    "and would have found them in the original. Stronger audits may still.",
    "leaks": "The records still show: loss_attack found them as in the original.",
    "over-unlearned": "The records are treated unlike ones never seen: accuracy lies beyond "
    "retraining, away from the original, which itself can give them away.",
    "cannot tell": "None of the audits could tell even the original from a model that never "
    "saw the records, or there was no control to tell it by.",
    "failed": "The method returned weights that are not finite.",
}
ORIGINAL = {"d": 1.0, "forget": 0.996, "test": 0.874, "l2": 0.0}
RETRAINED = {"d": 0.0, "forget": 0.861, "test": 0.860, "l2": 38.4}


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def answer(values: dict[str, float], n: int, **arrays: object) -> dict[str, Any]:
    reach = 1.6 / math.sqrt(n)
    return {
        "values": values,
        "intervals": {k: [v - reach * 0.5, v + reach * 0.5] for k, v in values.items()},
        "null": None,
        "arrays": arrays,
    }


def attack(rng: np.random.Generator, d: float, n: int) -> dict[str, Any]:
    # Memorised records are few and far out: a mixture makes the ROC rise early.
    hard = rng.random(n) < 0.12
    members = rng.normal(d * np.where(hard, 2.6, 0.7), 1.0)
    others = rng.normal(0, 1.0, n)
    cuts = np.sort(np.concatenate([members, others]))[::-1]
    fpr = np.concatenate([[0.0], [(others >= c).mean() for c in cuts]])
    tpr = np.concatenate([[0.0], [(members >= c).mean() for c in cuts]])
    keep = np.unique(np.geomspace(1, len(fpr), 200).astype(int) - 1)
    auc = float((members[:, None] > others[None]).mean())
    low = float((members > np.quantile(others, 0.99)).mean())
    values = {"auc": auc, "tpr_at_1%_fpr": low, "accuracy": 0.5 + 0.7 * (auc - 0.5)}
    values |= {"auc_confidence": auc - 0.004, "auc_modified_entropy": auc + 0.002}
    risk = 1 / (1 + np.exp(-(d * members - d * d / 2)))
    return answer(
        values,
        n,
        roc_fpr=fpr[keep].round(5).tolist(),
        roc_tpr=tpr[keep].round(5).tolist(),
        risk=risk.round(5).tolist(),
        index=[7 * i + 3 for i in range(n)],
    )


def confusion(rng: np.random.Generator, right: float, n: int, classes: int) -> list[list[int]]:
    counts = np.zeros((classes, classes), dtype=int)
    for true in range(classes):
        wrong = np.exp(-0.6 * np.abs(np.arange(classes) - true))
        wrong[true] = 0
        share = min(0.999, max(0.02, right + rng.normal(0, 0.03)))
        chances = (1 - share) * wrong / wrong.sum()
        chances[true] = share
        counts[true] = rng.multinomial(n // classes, chances / chances.sum())
    return counts.tolist()


def accuracy(rng: np.random.Generator, like: dict[str, float], n: int, classes: int) -> Any:
    maps = {
        name: confusion(rng, like[name], size, classes)
        for name, size in (("forget", n), ("test", 5000))
    }
    arrays: dict[str, object] = {}
    for name, counts in maps.items():
        whole = np.array(counts)
        arrays[f"confusion_{name}"] = counts
        arrays[f"per_class_{name}"] = [
            row[i] / sum(row) if sum(row) else None for i, row in enumerate(whole.tolist())
        ]
    share = {k: float(np.trace(np.array(v)) / np.sum(v)) for k, v in maps.items()}
    values = {
        "forget": share["forget"],
        "retain": min(1.0, like["test"] + 0.12),
        "val": share["test"] - 0.003,
        "test": share["test"],
        "forget/val": share["forget"] / share["test"],
    }
    return answer(values, n, **arrays)


def ask(audit: str, rng: np.random.Generator, like: dict[str, float], n: int, c: int) -> Any:
    if audit == "accuracy":
        return accuracy(rng, like, n, c)
    if audit == "loss_attack":
        return attack(rng, like["d"] + rng.normal(0, 0.02), n)
    if audit == "output_divergence":
        js = 0.02 + 0.06 * abs(like["d"]) + 0.002 * rng.random()
        return answer(
            {"js_forget": js, "js_retain": js / 3, "js_test": js / 2, "kl_forget": 3 * js}, n
        )
    if audit == "weight_distance":
        l2 = like["l2"] * (1 + 0.03 * rng.normal())
        made = answer({"l2": l2, "parameters": l2 * 0.98, "buffers": l2 * 0.2}, n)
        return made | {"intervals": {}}
    if audit == "cost":
        made = answer({"of_retraining": like.get("work", 1.0)}, n)
        return made | {"intervals": {}}
    return answer({"strangeness": 0.3 * like["d"] + 0.01 * rng.random(), "depth": 2.0}, n)


QUESTIONS = {
    "accuracy": "How often is the model right, on the forget set and on every other?",
    "loss_attack": "How well does the loss tell forget records from records never trained on?",
    "output_divergence": "How far, in nats, are the answers from those of retrained models?",
    "weight_distance": "How far, in Euclidean distance, has the state moved from the original's?",
    "cost": "What did it cost, as a share of retraining?",
}


def finding(audit: str, rng: np.random.Generator, like: Any, retrained: int, n: int, c: int) -> Any:
    unlearned, original = ask(audit, rng, like, n, c), ask(audit, rng, ORIGINAL, n, c)
    controls = [ask(audit, rng, RETRAINED, n, c) for _ in range(retrained)]
    headline = next(iter(unlearned["values"]))
    if audit == "loss_attack":
        for made in (unlearned, original, *controls):
            made["null"] = {"value": 0.5, "low": 0.47, "high": 0.53}

    def value(made: Any) -> float:
        return made["values"][headline]

    def interval(center: float) -> dict[str, float]:
        return {"value": center, "low": center - 0.02, "high": center + 0.02}

    mean = sum(map(value, controls)) / retrained if retrained else None
    gap = None if mean is None else value(unlearned) - mean
    told = "no retrained model" if gap is None else f"distance to retraining {gap:.3f}"
    return {
        "audit": audit,
        "version": 1,
        "settings": {"folds": 5} if audit == "loss_attack" else {},
        "question": QUESTIONS.get(audit, "How strange is it?"),
        "source": "https://example.org/paper",
        "ideal": "min" if audit == "cost" else "retrained",
        "unit": "",
        "decides": audit not in ("weight_distance", "cost"),
        "headline": headline,
        "unlearned": unlearned,
        "original": original,
        "retrained": controls,
        "moved": interval(value(unlearned) - value(original)),
        "gap": None if gap is None else interval(gap),
        "floor": 0.012 if retrained > 1 else None,
        "verdict": "cannot tell"
        if gap is None
        else "leaks"
        if abs(gap) > 0.03
        else "like retraining",
        "statement": f"{audit}: {headline} {value(unlearned):.3f} "
        f"(original {value(original):.3f}), {told}. This audit finds no sign of the "
        "records, and would have found them in the original. Others may.",
    }


def record(
    method: str = "salun",
    seed: int = 0,
    *,
    retrained: int = 3,
    classes: Sequence[str] = CIFAR,
    audits: Sequence[str] = tuple(QUESTIONS),
    status: str = "done",
    data: str = "cifar10",
    forget: int = 400,
) -> dict[str, Any]:
    """Return one made-up record."""
    rng = np.random.default_rng(random.Random(f"{method}{seed}{data}").getrandbits(32))
    like, c = METHODS[method], len(classes)
    kind = like["kind"] if status == "done" else "failed"
    training = 412.0 + seed
    # Both controls belong to the seed, not to the method: drawn from their own stream.
    return {
        "schema": 1, "key": digest(method, seed, data, c), "run": "quick",
        "data": {"name": data, "train": 45000, "test": 5000, "classes": list(classes),
                 "settings": {}, "digest": digest(data)},
        "forget": {"name": "random", "settings": {"fraction": 0.1, "seed": 0}, "forget": forget,
                   "retain": 45000 - forget, "val": 2500, "nonmembers": 2500, "test": 5000,
                   "digest": digest("forget", seed)},
        "model": {"name": "resnet18", "settings": {"width": 16}, "parameters": 701466},
        "training": {"descent": {"optimizer": "sgd", "lr": 0.2, "epochs": 10, "batch_size": 256,
                                 "schedule": "onecycle", "weight_decay": 0.0005},
                     "augment": {"crop": 4, "flip": True}, "task": {"name": "classification"}},
        "method": {"name": method, "version": 1, "settings": like["settings"],
                   "summary": like["summary"], "source": "https://example.org/paper"},
        "seed": seed, "status": status,
        "error": None if status == "done" else {
            "type": "Diverged" if status == "diverged" else "MemoryError",
            "message": "weights are not finite; lower the learning rate or the number of epochs"},
        "cost": {"forward": int(450000 * like["work"]), "backward": int(450000 * like["work"])},
        "verdict": {"kind": kind, "sentence": SENTENCES[kind]},
        "findings": [finding(a, rng, like, retrained, forget, c) for a in audits]
        if status == "done" else [],
        "measured": {
            "seconds": training * like["work"] * rng.uniform(0.95, 1.05),
            "peak_bytes": int(4e8 * rng.uniform(0.9, 1.1)), "training_seconds": training,
            "retraining_seconds": [training * 0.9 + i + seed / 1e4 for i in range(retrained)],
            "hardware": {"processor": "Example 9000", "cores": 2, "memory_bytes": 8 << 30,
                         "accelerator": None},
            "versions": {"expunge": "0.1.0", "python": "3.11.9", "torch": "2.13.0+cpu"},
        },
    }  # fmt: skip


def records(seeds: int = 3, **settings: Any) -> list[dict[str, Any]]:
    """Return a run of every method, with the controls of a seed shared by its methods."""
    made = [record(method, seed, **settings) for method in METHODS for seed in range(seeds)]
    for seed in range(seeds):
        first = next(r for r in made if r["seed"] == seed)
        for other in (r for r in made if r["seed"] == seed):
            for mine, theirs in zip(other["findings"], first["findings"], strict=True):
                mine |= {"original": theirs["original"], "retrained": theirs["retrained"]}
                values = [a["values"][mine["headline"]] for a in mine["retrained"]]
                if values:
                    gap = mine["unlearned"]["values"][mine["headline"]] - sum(values) / len(values)
                    mine["gap"] = {"value": gap, "low": gap - 0.02, "high": gap + 0.02}
    return made


FORGOTTEN = (1, 3, 5)  # classes of which records are to be forgotten
# How often each kind of model is right: before the attack, with fresh statistics, after it.
RECALLED = {
    "finetune": (0.9, 0.9, 0.9),
    "gradient_ascent": (0.1, 0.8, 0.5),
    "random_label": (0.2, 0.7, 0.4),
    "salun": (0.1, 0.6, 0.7),
    "original": (0.96, 0.94, 0.92),
    "retrained": (0.3, 0.3, 0.4),
}
GAINS = {"distilled": -0.1, "closed": 0.0, "open": 0.05}


def attacked(
    seeds: int = 2,
    *,
    methods: Sequence[str] = ("finetune", "gradient_ascent", "random_label", "salun"),
    cases: Sequence[str] = tuple(GAINS),
    renormed: bool = True,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Return a run of which every model was put to a membership recall attack."""
    made = [record(m, seed, audits=(), **settings) for m in methods for seed in range(seeds)]
    for one in made:
        one["findings"] += [recall(one, case, renormed=renormed) for case in cases]
    return made


def recall(of: dict[str, Any], case: str, *, renormed: bool = True) -> dict[str, Any]:
    """Return what a recall attack found of a record's model; seeds are 2 % apart."""
    classes, shift = len(of["data"]["classes"]), GAINS[case] + 0.02 * of["seed"]
    models = len(of["measured"]["retraining_seconds"])

    def ask(kind: str, more: float = 0.0) -> dict[str, Any]:
        before, fresh, after = RECALLED[kind]
        shares = {"after": after + shift + more, "before": before}
        shares |= {"renormed": fresh} if renormed else {}
        return recall_answer(shares, classes)

    name = of["method"]["name"]
    controls = [ask("retrained", 0.01 * number) for number in range(models)]
    made = finding("oddity", np.random.default_rng(0), METHODS[name], 0, 1, classes)
    unlearned = ask(name)
    mean = sum(a["values"]["after_forget"] for a in controls) / models if models else None
    gap = None if mean is None else unlearned["values"]["after_forget"] - mean
    return made | {
        "audit": "membership_recall",
        "settings": {"case": case, "tau": 0.05 if case == "open" else 0.6},
        "decides": True,
        "headline": "after_forget",
        "unlearned": unlearned,
        "original": ask("original"),
        "retrained": controls,
        "gap": None if gap is None else {"value": gap, "low": gap - 0.1, "high": gap + 0.1},
        "floor": 0.05 if models > 1 else None,
    }


def recall_answer(shares: dict[str, float], classes: int) -> dict[str, Any]:
    """Return an answer that is right on these shares of 100 records of each class."""
    values: dict[str, float] = {}
    arrays: dict[str, object] = {}
    for kind, share in shares.items():
        for part, asked in (("forget", FORGOTTEN), ("test", range(classes))):
            counts = np.zeros((classes, classes), dtype=int)
            for true in asked:
                counts[true, true] = round(100 * share)
                counts[true, (true + 1) % classes] += 100 - counts[true, true]
            total = counts.sum(1)
            values[f"{kind}_{part}"] = float(np.trace(counts) / total.sum())
            arrays[f"confusion_{kind}_{part}"] = counts.tolist()
            arrays[f"per_class_{kind}_{part}"] = [
                counts[i, i] / total[i] if total[i] else None for i in range(classes)
            ]
    for part in ("forget", "test"):
        values[f"gain_{part}"] = values[f"after_{part}"] - values[f"before_{part}"]
    return answer(values, 300, **arrays)
