"""Training throughput: against the usual loop, and against no data work at all."""

import os
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import plain
from benchmarks.timing import Claim, interleaved, ratios
from expunge import registry
from expunge.core.descent import train
from expunge.data.tensors import TensorData
from expunge.models.resnet import ResNet
from expunge.tasks.categorical import Classification
from expunge.types import Augment, Data, Descent, Inputs, Recipe

RECORDS, SIZE, REPEATS = 10_240, 256, 3  # 40 whole batches
WARM = 2 * SIZE

RECIPE = Recipe(
    model=ResNet(width=16),
    inputs=(3, 32, 32),
    task=Classification(classes=10),
    descent=Descent(lr=0.1, epochs=1, batch_size=SIZE, weight_decay=5e-4),
    augment=Augment(crop=plain.CROP, flip=True),
)


class Fixed(TensorData):
    """One batch, handed out again and again: training without any data work."""

    def __init__(self, x: Inputs, y: Tensor, steps: int) -> None:
        super().__init__(x, y)
        self.count = steps

    def steps(self, size: int) -> int:
        del size
        return self.count

    def batches(self, size: int, rng: torch.Generator | None = None):
        del size, rng
        batch = self.take(torch.arange(len(self)))
        for _ in range(self.count):
            yield batch


def cifar10() -> tuple[Data, str]:
    """Return training pictures and where they are from; never by a download."""
    folder = Path(os.environ.get("EXPUNGE_DATA") or ".") / "cifar10"
    if any(folder.glob("train-*.parquet")):
        records = registry.data.build({"name": "cifar10"}).load().train
        return records.select(torch.arange(RECORDS)), "CIFAR-10"
    draws = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (RECORDS, 3, 32, 32), generator=draws, dtype=torch.uint8)
    y = torch.randint(0, 10, (RECORDS,), generator=draws)
    return TensorData(x, y), "made data of CIFAR-10's shape (EXPUNGE_DATA has no cifar10)"


def claims() -> list[Claim]:
    """Measure our loop, the usual one with and without workers, and the fixed batch."""
    data, name = cifar10()
    x, y, _ = data.read(torch.arange(RECORDS))
    assert isinstance(x, Tensor)
    batch = RECIPE.augment(data.take(torch.arange(SIZE)).x, torch.Generator())
    steps = RECORDS // SIZE
    still = Recipe(
        model=RECIPE.model, inputs=RECIPE.inputs, task=RECIPE.task, descent=RECIPE.descent
    )
    pictures, few = plain.Pictures(x, y), plain.Pictures(x[:WARM], y[:WARM])

    def usual(records: plain.Pictures, workers: int) -> None:
        plain.epoch(RECIPE.fresh(), records, size=SIZE, lr=RECIPE.descent.lr, workers=workers)

    # What is only paid once, such as choosing kernels, is paid here.
    train(RECIPE, data.select(torch.arange(WARM)), seed=0)
    train(still, Fixed(batch, y[:SIZE], 2), seed=0)
    usual(few, 0)
    workers = max(1, os.cpu_count() or 1)
    seconds = interleaved(
        {
            "ours": lambda: train(RECIPE, data, seed=0),
            "fixed": lambda: train(still, Fixed(batch, y[:SIZE], steps), seed=0),
            "no workers": lambda: usual(pictures, 0),
            "workers": lambda: usual(pictures, workers),
        },
        REPEATS,
    )
    faster = min(("no workers", "workers"), key=lambda name: sorted(seconds[name])[REPEATS // 2])
    by = f"{workers} workers" if faster == "workers" else "no worker, which is faster here"
    note = f"{name}, {RECORDS:,} pictures, resnet18 width 16, batch {SIZE}"
    return [
        Claim(
            what="training, our loop / the usual loop",
            ratios=ratios(seconds[faster], seconds["ours"]),
            target=2.0,
            note=f"{note}; the usual: DataLoader, {by}, a transform per picture, fp32",
        ),
        Claim(
            what="training, our loop / one fixed batch",
            ratios=ratios(seconds["fixed"], seconds["ours"]),
            target=0.9,
            note=f"{note}; same loop, network, precision and optimiser, no data work",
        ),
    ]
