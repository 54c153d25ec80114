"""Made-up records of a study of forgetting rates; the truth behind them is known."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.report import made

SIZE = 200
WEAK = "the oracle is no better than chance: no rate by it tells anything"
NONE = (
    "the oracle called none of 200 forget records a member before unlearning, so fr is a rate of "
    "nothing and not a number"
)
# Of each method: FR, CFR, test accuracy and seconds, of which seeds differ by a hundredth.
TRUTH: Mapping[str, tuple[float, float, float, float]] = {
    "original": (0.0, 0.0, 0.80, 0.0),
    "retrained": (0.90, 0.05, 0.81, 100.0),
    "retrain": (0.90, 0.05, 0.81, 100.0),
    "forsaken": (0.97, 0.15, 0.77, 1.5),
    "smu": (0.70, 0.60, 0.60, 6.0),
    "sisa": (0.88, 0.20, 0.70, 90.0),
    "sisa_dp": (0.91, 0.25, 0.66, 95.0),
    "amnesiac": (0.80, 0.30, 0.74, 2.0),
    "finetune": (0.20, 0.02, 0.80, 8.0),
}
MINE = {"sisa": 0.75, "sisa_dp": 0.70}  # accuracy of the originals that they train themselves
SETTINGS: Mapping[str, dict[str, Any]] = {
    "forsaken": {"profile": "robust", "iterations": 60, "penalty": 10.0, "omega": True},
    "sisa": {"shards": 5, "slices": 4},
    "sisa_dp": {"shards": 5, "slices": 4, "epsilon": 16.0},
}
NAMED = {"name": "outsiders", "settings": {"of": {"name": "cifar10"}, "count": SIZE}}
PLACES: Mapping[str, Mapping[str, Any]] = {
    "C10.S.": {"of": {"name": "cifar10"}},
    "C10.T.": {"of": {"name": "cifar10"}, "others": {"name": "tiny_imagenet32"}},
    "I.C.": {"of": {"name": "imdb"}, "others": {"name": "customer_reviews"}},
    "Reuters (35-11)": {"of": {"name": "reuters"}, "classes": list(range(35, 46))},
    "TinyImage": {"of": {"name": "tiny_imagenet32"}, "classes": list(range(90, 200))},
}


def data(place: str) -> dict[str, Any]:
    """Return the data of a row of the paper's tables; of records of the task, by our name."""
    if place in PLACES:
        return {"name": "outsiders", "settings": dict(PLACES[place])}
    return {"name": place, "settings": {}}


def answer(values: Mapping[str, float | None], warnings: Sequence[str] = (), **arrays: Any) -> Any:
    ends = {k: [v - 0.03, v + 0.03] for k, v in values.items() if v is not None}
    return {
        "values": dict(values), "intervals": ends, "null": None, "arrays": arrays,
        "warnings": list(warnings),
    }  # fmt: skip


def finding(audit: str, ask: Any, method: str, models: int, **settings: Any) -> dict[str, Any]:
    told = ask(method, 0.0)
    return {
        "audit": audit, "version": 1, "settings": settings, "question": "How?",
        "source": "https://example.org/paper", "ideal": "retrained", "unit": "", "decides": False,
        "headline": next(iter(told["values"])), "unlearned": told, "original": ask("original", 0.0),
        "retrained": [ask("retrained", 0.01 * number) for number in range(models)],
        "moved": {"value": 0.1, "low": None, "high": None}, "gap": None, "floor": None,
        "verdict": "measured", "statement": f"{audit}: made up.",
    }  # fmt: skip


def picture(rng: np.random.Generator, *, after: bool) -> list[list[float]]:
    """Return 90 places: 30 of training, 30 of test, 30 to forget, which move over."""
    centers = np.repeat([[0.0, 0.0], [8.0, 4.0], [8.0, 4.0] if after else [0.0, 0.0]], 30, axis=0)
    return (centers + rng.normal(0, 1.5, (90, 2))).round(4).tolist()


def rated(one: dict[str, Any], models: int, *, oracle: str, warn: str, none: bool, embed: bool):
    """Return what a forgetting rate found of a record's model."""
    name, shift = one["method"]["name"], 0.01 * one["seed"]
    size, rng = one["forget"]["forget"], np.random.default_rng(one["seed"])

    def ask(kind: str, more: float) -> Any:
        fr, cfr, _, _ = TRUTH[kind]
        fr, cfr = (fr + shift + more, cfr + shift) if kind != "original" else (0.0, 0.0)
        bt = 0.8 * size
        values: dict[str, float | None] = {
            "fr": None if none else fr, "cfr": cfr, "bt": 0.0 if none else bt, "bf": size - bt,
            "af": size - bt + fr * bt, "oracle_accuracy": 0.75, "oracle_precision": 0.74,
            "oracle_recall": 0.80, "oracle_p_chance": 0.3 if warn else 1e-9,
        }  # fmt: skip
        names = ("joint_before", "joint_after", "apart_before", "apart_after")
        arrays: dict[str, Any] = {
            f"embedding_{n}": picture(rng, after=n.endswith("after") and kind != "original")
            for n in names
        }
        arrays["embedding_group"] = [0] * 30 + [1] * 30 + [2] * 30
        said = [text for text in (warn, NONE if none else "") if text]
        return answer(values, said, **(arrays if embed else {}))

    return finding("forgetting_rate", ask, name, models, oracle=oracle)


def accurate(
    one: dict[str, Any], models: int, recalls: float | None = None, *, shared: bool = False
) -> dict[str, Any]:
    """Return what the accuracy of a record's model is."""
    name, classes = one["method"]["name"], one["data"]["classes"]

    def ask(kind: str, more: float) -> Any:
        alike = kind == "original" or (shared and kind == "retrained")
        test = TRUTH[kind][2] + more - 0.01 * one["seed"] * (not alike)
        if kind == "original":
            test = MINE.get(name, test)
        forget = 0.9 if kind == "original" else 0.2
        arrays = {"per_class_test": [test] * len(classes)}
        if recalls is not None:
            arrays["per_class_test"][5] = test - recalls
        values = {"forget": forget, "retain": test + 0.1, "val": test, "test": test}
        return answer(values, **arrays)

    return finding("accuracy", ask, name, models)


def record(
    method: str = "forsaken",
    seed: int = 0,
    *,
    place: str = "C10.S.",
    settings: Mapping[str, Any] | None = None,
    size: int = SIZE,
    model: str = "vgg",
    epochs: int = 20,
    models: int = 2,
    oracles: Sequence[str] = ("black_box",),
    forget: str = "",
    warn: str = "",
    none: bool = False,
    embed: bool = False,
    more: Mapping[str, Any] | None = None,
    shift: float = 0.0,
    shared: bool = False,
) -> dict[str, Any]:
    """Return one made-up record.

    Args:
        shift: Added to the method's rates.
        shared: Whether all seeds have the same retrained models; their rates still differ, as
            they are by the seed's own oracle.
    """
    base = made.record("finetune", seed, audits=())
    about = data(place)
    about["settings"] = about["settings"] | dict(more or {})
    kind = forget or ("outsiders" if place in PLACES else "random")
    one = base | {
        "key": made.digest(method, seed, place, size, settings, model, epochs),
        "run": "forgotten",
        "data": base["data"] | about | {"digest": made.digest(place, size, more)},
        "forget": base["forget"]
        | {"name": kind, "settings": {}, "forget": size, "retain": 5000, "digest": "d"},
        "model": {"name": model, "settings": {}, "parameters": 700_000},
        "training": base["training"]
        | {"descent": {"optimizer": "sgd", "lr": 0.1, "epochs": epochs}},
        "method": base["method"]
        | {
            "name": method,
            "settings": SETTINGS.get(method, {}) | dict(settings or {}),
            "summary": f"{method}.",
        },
        "verdict": {"kind": "cannot tell", "sentence": "Made up."},
        "cost": {"forward": 12_000, "backward": 12_000},
        "notes": {},
    }
    one["findings"] = [
        rated(one, models, oracle=oracle, warn=warn, none=none, embed=embed) for oracle in oracles
    ]
    recalls = 0.08 if kind == "poison" else None
    one["findings"].append(accurate(one, models, recalls, shared=shared))
    for found in one["findings"]:
        for name in ("fr", "cfr"):
            if found["unlearned"]["values"].get(name) is not None:
                found["unlearned"]["values"][name] += shift
    one["measured"] = base["measured"] | {
        "seconds": TRUTH[method][3] * size / SIZE * (1 + 0.1 * seed),
        "training_seconds": 110.0,
        "retraining_seconds": [
            100.0 + number - (not shared) * seed / 1e4 for number in range(models)
        ],
    }
    if method == "retrain" and models:
        # It is one of the retrained models, which its record does not name again.
        mine = seed % models if shared else 0
        for found in one["findings"]:
            found["unlearned"] = found["retrained"].pop(mine)
        one["measured"]["retraining_seconds"].pop(mine)
    if method == "forsaken":
        one["notes"] = {"trace": trace(), "warnings": [], "stalled": False}
    return one


def trace(steps: int = 12) -> dict[str, list[float]]:
    """Return what Forsaken notes of its iterations."""
    at = np.arange(steps + 1)
    return {
        "kl": (1.2 * 0.75**at).tolist(),
        "nonzeros": (0.02 * (1 - 0.8**at)).tolist(),
        "probe_accuracy": (1 - 0.004 * at).tolist(),
    }


def records(
    places: Sequence[str] = ("C10.S.", "I.C.", "cifar10"),
    methods: Sequence[str] = ("retrain", "forsaken", "smu", "sisa", "sisa_dp"),
    seeds: int = 3,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Return a run of every method on every data set."""
    return [
        record(method, seed, place=place, **settings)
        for place in places
        for method in methods
        for seed in range(seeds)
    ]


def varied(name: str, values: Sequence[Any], seeds: int = 2, **more: Any) -> list[dict[str, Any]]:
    """Return a run of Forsaken, or of what `method` says, with a setting that varies."""
    method = more.pop("method", "forsaken")
    return [
        record(method, seed, settings={name: value}, shift=0.002 * place, **more)
        for place, value in enumerate(values)
        for seed in range(seeds)
    ]


def exposed(seeds: int = 2) -> list[dict[str, Any]]:
    """Return a run on running text, whose secrets are less exposed with every iteration."""
    out = []
    for place, steps in enumerate((5, 10, 20)):
        for seed in range(seeds):
            one = record(
                "forsaken", seed, place="ptb", forget="secrets", oracles=("sequence",),
                settings={"iterations": steps}, model="lstm", size=100,
            )  # fmt: skip
            found = {"forsaken": 9.0 - 2.0 * place, "original": 11.0, "retrained": 1.4}

            def ask(kind: str, more: float, found: Mapping[str, float] = found) -> Any:
                bits = found[kind] + 10 * more
                return answer({"exposure": bits, "extrapolated": 1.5 * bits, "extractable": 0.2})

            one["findings"].append(finding("exposure", ask, "forsaken", 2, threshold=10.0))
            out.append(one)
    return out


def everything() -> list[dict[str, Any]]:
    """Return records of which every table and every figure can be drawn."""
    both = ("black_box", "white_box")
    out = records(oracles=both, embed=True)
    out += records(("C10.T.", "Reuters (35-11)", "TinyImage"), seeds=2)
    out += records(("C10.S.",), ("amnesiac",), oracles=both)
    out += varied("iterations", (20, 40, 80), place="C10.T.")
    out += varied("penalty", (0.0, 1.0, 100.0), place="C10.T.")
    out += [
        record("forsaken", seed, place="C10.T.", settings={"penalty": 1.0, "omega": False})
        for seed in range(2)
    ]
    for method in ("sisa", "sisa_dp"):
        out += varied("shards", (1, 2, 10), method=method, place="C10.S.", oracles=both)
    for size in (50, 100):
        out += records(("C10.T.", "cifar10"), seeds=2, size=size, oracles=both)
    for model in ("linear", "svm"):
        out += records(("Reuters (35-11)",), ("retrain", "forsaken"), seeds=2, model=model)
    for rate in (0.02, 0.1):
        about = {"rate": rate, "flip_from": 5, "flip_to": 3, "of": {"name": "cifar10"}}
        out += records(
            ("poisoned",), ("forsaken", "smu", "sisa"), seeds=2, forget="poison", more=about
        )
    return out + exposed()
