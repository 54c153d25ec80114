"""What the challenge's approaches cost beyond the samples that they put through networks."""

from collections.abc import Callable

import torch

from benchmarks.timing import Claim, interleaved
from benchmarks.unlearning_cost import FORGET, RECORDS, SIZE, problem
from expunge import registry
from expunge.core.state import mode
from expunge.method import Method, Sizes

REPEATS = 3
PRESET, MOST = "seed_paper_9", 1.1
APPROACHES = (
    "distillation",
    "rotate",
    "pseudo_label",
    "pruning",
    "deviation",
    "gradient_reset",
    "divergence",
)


def claims() -> list[Claim]:
    """Time nine epochs of each, beside fine-tuning and forward passes of as many samples."""
    posed = problem()
    original, request = posed.train(0), posed.request
    sizes = Sizes.of(request)

    def forward() -> None:
        with torch.no_grad(), mode(original, training=False):
            for batch in request.retain.batches(SIZE):
                original(batch.x)

    def built(name: str) -> Method:
        return registry.methods.build({"name": name, "preset": PRESET})

    def run(method: Method) -> Callable[[], object]:
        return lambda: method(original, request, seed=0)

    plain, methods = built("finetune"), {name: built(name) for name in APPROACHES}
    every = {"finetune": run(plain), "forward": forward}
    every |= {name: run(method) for name, method in methods.items()}
    seconds = interleaved(every, REPEATS)
    steps = plain.work(sizes).backward

    def fair(name: str, repeat: int) -> float:
        work = methods[name].work(sizes)
        step = seconds["finetune"][repeat] / steps
        passed = seconds["forward"][repeat] / sizes.retain
        return work.backward * step + (work.forward - work.backward) * passed

    return [
        Claim(
            what=f"{name}, 9 epochs / as many samples of plain fine-tuning and of forward passes",
            ratios=[seconds[name][i] / fair(name, i) for i in range(REPEATS)],
            target=MOST,
            at_least=False,
            note=f"preset {PRESET}; resnet18 width 16, {RECORDS - FORGET:,} records to keep, "
            f"training in `auto` precision",
        )
        for name in APPROACHES
    ]
