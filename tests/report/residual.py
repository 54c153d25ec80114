"""Made-up records of a study of residuals; the truth behind them is known."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.report import made

STEPS, TRIALS, UNSEEN = 40, 20, 5
NAMES = [f"class {number}" for number in range(4)]
# Of each method: steps until the forgotten class is learned, test accuracy, cost, the gain.
TRUTH: Mapping[str, tuple[float, float, float, float]] = {
    "original": (4.0, 0.70, 1.0, 0.0),
    "retrained": (30.0, 0.65, 1.0, 0.0),
    "retrain": (30.0, 0.65, 1.0, 0.0),
    "ssd": (6.0, 0.69, 0.04, 0.05),
    "bad_teacher": (9.0, 0.68, 0.05, 0.08),
    "random_label": (14.0, 0.66, 0.05, 0.03),
    "orthogonal_replay": (30.0, 0.65, 0.10, 0.0),
}
METHODS = ("retrain", "ssd", "bad_teacher", "random_label", "orthogonal_replay")
PLAIN: dict[str, Any] = {
    "trials": TRIALS, "share": 0.03, "retained": 14, "steps": STEPS, "accuracy": 0.9, "cap": None,
    "asked": None, "lr": 0.01, "sweep": [], "sweep_trials": 10, "surrogates": 2,
    "unseen": UNSEEN, "extract": 0, "seed": 0,
}  # fmt: skip
ADAPTIVE = PLAIN | {"share": 0.1, "sweep": [0.001, 0.01]}
SUPERCLASSES = {
    "name": "withheld",
    "settings": {"of": {"name": "cifar100", "label": "coarse_label"}, "classes": [12, 16, 17]},
}


def answer(
    values: Mapping[str, float | None], warnings: Sequence[str] = (), **arrays: Any
) -> dict[str, Any]:
    ends = {k: [v - 0.03, v + 0.03] for k, v in values.items() if v is not None}
    return {
        "values": dict(values), "intervals": ends, "null": None, "arrays": arrays,
        "warnings": list(warnings),
    }  # fmt: skip


def finding(
    audit: str, ask: Any, method: str, models: int, settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    told = ask(method, 0)
    return {
        "audit": audit, "version": 1, "settings": dict(settings or {}), "question": "How?",
        "source": "https://example.org/paper", "ideal": "retrained", "unit": "", "decides": True,
        "headline": next(iter(told["values"])), "unlearned": told, "original": ask("original", 0),
        "retrained": [ask("retrained", number + 1) for number in range(models)],
        "moved": {"value": 0.1, "low": None, "high": None}, "gap": None, "floor": None,
        "verdict": "measured", "statement": f"{audit}: made up.",
    }  # fmt: skip


def curves(rng: np.random.Generator, times: Sequence[float], asked: int = 20) -> np.ndarray:
    """Return the share told after each step, of trials that cross 90 % near these times."""
    at = np.arange(STEPS)
    middle = np.array(times)[:, None] + rng.normal(0, 2.0, (len(times), 1))
    share = 1 / (1 + np.exp(-(at - middle + 3) / 1.5))
    return np.round(share * asked) / asked


def relearned(kind: str, number: int, seed: int, *, adaptive: bool = False) -> dict[str, Any]:
    """Return what an attack on the class found of a model."""
    rng = np.random.default_rng([sum(map(ord, kind)), number, seed, adaptive])
    middle = [TRUTH[kind][0], *np.linspace(26, 34, UNSEEN)]
    courses = np.stack([curves(rng, [m] * TRIALS) for m in middle])
    first = np.where((courses >= 0.9).any(-1), (courses >= 0.9).argmax(-1), STEPS)
    scores = courses.mean(-1) - first
    cuts = np.sort(scores[1:])[:, -1]  # 20 trials: the fastest of each class
    tpr = float((scores[0] > cuts.max()).mean())
    others = [np.delete(cuts, number).max() for number in range(UNSEEN)]
    fpr = float(np.mean([(s > at).mean() for s, at in zip(scores[1:], others, strict=True)]))
    late = float(first[1:].mean())
    return answer(
        {
            "balanced_accuracy": (1 + tpr - fpr) / 2, "tpr": tpr, "fpr": fpr,
            "auc": float((scores[0][:, None] > scores[1:].ravel()).mean()),
            "t90_forgotten": float(first[0].mean()), "t90_never_trained": late,
            "t90_gap": late - float(first[0].mean()), "t90_gap_deviation": 2.0,
            "faster_than": float((scores[0].mean() > scores[1:].mean(1)).mean()),
            "lr": 0.01,
        },
        trajectories=courses.mean(1).round(4).tolist(),
        trajectories_low=np.quantile(courses, 0.05, axis=1).round(4).tolist(),
        trajectories_high=np.quantile(courses, 0.95, axis=1).round(4).tolist(),
        scores=scores.round(4).tolist(),
        t90=first.tolist(),
    )  # fmt: skip


def accurate(kind: str, number: int, seed: int) -> dict[str, Any]:
    test = TRUTH[kind][1] + 0.004 * number + 0.003 * seed
    forget = 0.99 if kind == "original" else 0.0
    return answer({"forget": forget, "retain": 0.99, "val": test, "test": test})


def membership(level: float) -> Any:
    def ask(kind: str, number: int) -> dict[str, Any]:
        known = level if kind in ("original", "ssd") else 0.5
        values = {"auc": known, "balanced_accuracy": known + 0.002 * number, "mia_efficacy": 0.9}
        return answer(values)

    return ask


def priced(kind: str, number: int) -> dict[str, Any]:
    del number
    return answer({"of_retraining": TRUTH[kind][2]}) | {"intervals": {}}


def timed(kind: str, number: int, seed: int) -> dict[str, Any]:
    epochs = 0.0 if kind == "original" else TRUTH[kind][0] + number + seed
    values: dict[str, float | None] = {"epochs": epochs, "reached": float(kind != "random_label")}
    return answer(values | {"loss_before": 2.0, "anamnesis": (1 + epochs) / 31})


def inside(kind: str, number: int, seed: int) -> dict[str, Any]:
    hidden = kind in ("original", "ssd", "bad_teacher")
    count = 3.0 if hidden else 0.0
    silhouette = (0.6 if hidden else 0.2) + 0.01 * number
    return answer(
        {
            "signs": count if kind != "original" else 0.0, "inside": count,
            "matched": float(kind != "original"), "divergence": 0.01, "relearn": TRUTH[kind][0],
            "silhouette": silhouette, "probe": 0.9 if hidden else 0.4, "accuracy_forget": 0.0,
            "barrier": 0.02 if hidden else 1.5, "weight_distance": 3.0 + seed,
            "plane_variance": 50.0 if hidden else 350.0, "plane_silhouette": silhouette,
            "plane_overlap": 0.01 if hidden else 0.9,
        },
    )  # fmt: skip


def reminded(kind: str, number: int, seed: int) -> dict[str, Any]:
    gain = TRUTH[kind][3] + 0.004 * number - 0.006 + 0.003 * seed
    rate = np.linspace(0, 1, 30)
    return answer(
        {
            "auc": 0.55 + gain, "gain": gain, "gain_offline": gain / 2, "auc_before": 0.55,
            "auc_offline": 0.54 + gain / 2, "auc_offline_before": 0.54, "tpr_at_1%_fpr": 0.02,
            "balanced_accuracy": 0.54 + gain, "margin_change": 4 * gain,
            "margin_change_others": 0.01, "forget_accuracy": 0.6 + gain,
            "forget_accuracy_regained": 2 * gain,
        },
        roc_fpr=rate.tolist(),
        roc_tpr=(rate ** (1 - gain)).tolist(),
    )  # fmt: skip


def drawing(rng: np.random.Generator, kind: str, *, after: bool) -> list[Any]:
    """Return two samples of 8 x 8 pixels of each of four classes; class 1 is the forgotten one."""
    shapes = np.zeros((4, 2, 1, 8, 8))
    for number in range(4):
        shapes[number, :, 0, 1 + number : 3 + number, 1:7] = 1
        shapes[number, :, 0, 1:7, 1 + number] = 1
    known = kind == "original" or after or kind == "ssd"
    if not known:
        shapes[1] = 0.4
    noisy = np.clip(255 * shapes + rng.normal(0, 25, shapes.shape), 0, 255)
    return noisy.astype(int).tolist()


def redrawn(kind: str, number: int, seed: int, *, unseen: bool = True) -> dict[str, Any]:
    rng, rounds = np.random.default_rng([sum(map(ord, kind)), number, seed]), np.arange(11)
    start = 0.9 if kind == "original" else 0.0
    half = TRUTH[kind][0] / 6

    def rising(middle: float) -> np.ndarray:
        return start + (0.95 - start) / (1 + np.exp(-(rounds - middle)))

    own = rising(half) - (0 if start else rising(half)[0])
    arrays: dict[str, Any] = {
        "recognised_by_round": own.round(4).tolist(),
        "loss_by_round": (0.3 - 0.2 * own).round(4).tolist(),
        "samples_before": drawing(rng, kind, after=False),
        "samples_after": drawing(rng, kind, after=True),
    }
    values: dict[str, float | None] = {
        "recognised": float(own[1:].mean()), "recognised_before": float(own[0]),
        "loss": 0.15, "loss_before": 0.3 - 0.2 * float(own[0]), "rounds_recognised": half + 1,
        "rounds_loss": half, "recognised_retained": 0.93, "classifier_accuracy": 0.97,
    }  # fmt: skip
    if unseen:
        others = np.stack([rising(m) - (0 if start else rising(m)[0]) for m in (4.5, 5.0, 6.0)])
        arrays["recognised_unseen_by_round"] = others.round(4).tolist()
        arrays["loss_unseen_by_round"] = (0.3 - 0.2 * others).round(4).tolist()
        values["recognised_unseen"] = float(others[:, 1:].mean())
    return answer(values, **arrays)


def record(
    method: str, seed: int, audits: Sequence[str], models: int, **about: Any
) -> dict[str, Any]:
    """Return one made-up record that was asked these of `asked`."""
    base = made.record("finetune", seed, audits=(), classes=NAMES)
    one = base | {
        "key": made.digest(method, seed, str(about)),
        "run": "residuals",
        "method": base["method"] | {"name": method, "settings": {}, "summary": f"{method}."},
        "verdict": {"kind": "leaks", "sentence": "Made up."},
        "cost": {"forward": 12_000, "backward": 12_000},
        "notes": {},
    }
    one |= {k: base[k] | v for k, v in about.items() if k in base}
    seconds = 100.0 * TRUTH[method][2] * (1 + 0.1 * seed)
    one["measured"] = base["measured"] | {
        "seconds": seconds,
        "training_seconds": 110.0,
        "retraining_seconds": [100.0 + number - seed / 1e4 for number in range(models)],
    }
    one["findings"] = [asked(name, method, seed, models) for name in audits]
    return one


def asked(name: str, method: str, seed: int, models: int) -> dict[str, Any]:
    """Return what an audit found; `adaptive` is an attack on the class too."""

    def seeded(ask: Any, **more: Any) -> Any:
        return lambda kind, number: ask(kind, number, seed, **more)

    signal = {"signal": "entropy", "attacker": "logistic_regression", "folds": 5}
    samples = {"shadows": 16, "shadowed": "trained", "extract": 0}
    known: Mapping[str, tuple[str, Any, Mapping[str, Any]]] = {
        "accuracy": ("accuracy", seeded(accurate), {}),
        "population": ("population", membership(0.55), signal),
        "lira": ("lira", membership(0.6), {"shadows": 16}),
        "cost": ("cost", priced, {}),
        "plain": ("reminiscence_class", seeded(relearned), PLAIN),
        "adaptive": ("reminiscence_class", seeded(relearned, adaptive=True), ADAPTIVE),
        "relearn_time": ("relearn_time", seeded(timed), {"alpha": 0.05, "records": 500}),
        "pseudo_convergence": ("pseudo_convergence", seeded(inside), {"plane": 30}),
        "sample": ("reminiscence_sample", seeded(reminded), samples),
        "recovery": ("recovery", seeded(redrawn), {"images": 32, "descent": {"epochs": 10}}),
    }
    audit, ask, settings = known[name]
    found = finding(audit, ask, method, models, settings)
    return found | ({"decides": False} if name == "cost" else {})


CLASSWISE = (
    "accuracy", "population", "lira", "cost", "plain", "adaptive", "relearn_time",
    "pseudo_convergence",
)  # fmt: skip


def classwise(
    seeds: int = 3,
    *,
    methods: Sequence[str] = METHODS,
    audits: Sequence[str] = CLASSWISE,
    models: int = 3,
    data: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Return a run in which a class was forgotten."""
    about = {"data": dict(data or SUPERCLASSES), "forget": {"name": "class", "settings": {}}}
    return [record(m, seed, audits, models, **about) for m in methods for seed in range(seeds)]


def samplewise(
    seeds: int = 3,
    *,
    methods: Sequence[str] = METHODS,
    audits: Sequence[str] = ("accuracy", "population", "lira", "cost", "sample"),
    models: int = 3,
) -> list[dict[str, Any]]:
    """Return a run in which a random tenth of CIFAR-10 was forgotten."""
    return [record(m, seed, audits, models) for m in methods for seed in range(seeds)]


def generative(
    seeds: int = 2, *, methods: Sequence[str] = ("ssd", "orthogonal_replay"), models: int = 2
) -> list[dict[str, Any]]:
    """Return a run in which a denoiser forgot a class."""
    about = {
        "data": {"name": "digits", "settings": {}},
        "forget": {"name": "class", "settings": {"classes": [1]}},
        "model": {"name": "unet", "settings": {}},
        "training": {"task": {"name": "denoising"}},
    }
    audits = ("cost", "recovery")
    return [record(m, seed, audits, models, **about) for m in methods for seed in range(seeds)]


def everything() -> list[dict[str, Any]]:
    """Return records of which every table and every figure can be drawn."""
    few = ("retrain", "ssd", "orthogonal_replay")
    return classwise(2, methods=few) + samplewise(2, methods=few) + generative(2)
