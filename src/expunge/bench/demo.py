"""The demonstration: bundled digits, every quick method, both controls, every audit."""

from expunge import registry
from expunge.bench.spec import Spec, parse

SETTINGS = {
    # Chosen on validation records, once, for a network of this size on these digits.
    "finetune": {"descent": {"lr": 0.05, "epochs": 10}},
    "gradient_ascent": {"descent": {"lr": 0.002, "epochs": 5}},
    "random_label": {"descent": {"lr": 0.02, "epochs": 5}},
    "salun": {"descent": {"lr": 0.02, "epochs": 5}},
}


def demo() -> Spec:
    """Return the spec of the demonstration."""
    quick = [name for name, cls in registry.methods.known().items() if vars(cls)["card"].quick]
    return parse(
        {
            "name": "demo",
            "data": [{"name": "digits"}],
            "models": [{"name": "convnet", "width": 16}],
            "training": {
                "descent": {"lr": 0.05, "epochs": 30, "batch_size": 64, "schedule": "onecycle"}
            },
            "forget": [{"name": "random", "count": 100}],
            "methods": [{"name": name} | SETTINGS.get(name, {}) for name in quick],
            "seeds": [0, 1, 2],
            "retrained": 4,
        }
    )
