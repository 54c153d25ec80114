"""Training throughput: against the usual loop, and against no data work at all."""

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import plain
from benchmarks.timing import Claim, interleaved, ratios
from expunge import registry
from expunge.core.descent import train
from expunge.data.tensors import TensorData
from expunge.models.resnet import ResNet
from expunge.tasks.categorical import Classification
from expunge.types import Augment, Data, Descent, Recipe

RECORDS, SIZE, REPEATS = 7_680, 256, 3  # 30 whole batches
WARM = 2 * SIZE

RECIPE = Recipe(
    model=ResNet(width=16),
    inputs=(3, 32, 32),
    task=Classification(classes=10),
    descent=Descent(lr=0.1, epochs=1, batch_size=SIZE, weight_decay=5e-4),
    augment=Augment(crop=plain.CROP, flip=True),
)


def fixed(x: Tensor, y: Tensor, steps: int) -> None:
    """Step the network on one batch, at the loop's own precision and layout, by hand."""
    descent = RECIPE.descent
    layout = torch.channels_last
    model, x = RECIPE.fresh().train(), x.contiguous(memory_format=layout)
    model.to(memory_format=layout)  # pyright: ignore[reportCallIssue] missing in the stubs
    optimizer = torch.optim.SGD(
        model.parameters(), descent.lr, descent.momentum, 0, descent.weight_decay, fused=True
    )
    half = torch.cpu._is_avx512_bf16_supported()
    for _ in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            outputs = model(x)
        loss = F.cross_entropy(outputs.float(), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


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
    batch = data.take(torch.arange(SIZE)).x
    assert isinstance(x, Tensor)
    assert isinstance(batch, Tensor)
    pictures, few = plain.Pictures(x, y), plain.Pictures(x[:WARM], y[:WARM])

    def usual(records: plain.Pictures, workers: int) -> None:
        plain.epoch(RECIPE.fresh(), records, size=SIZE, lr=RECIPE.descent.lr, workers=workers)

    # What is only paid once, such as choosing kernels, is paid here.
    train(RECIPE, data.select(torch.arange(WARM)), seed=0)
    fixed(batch, y[:SIZE], 2)
    usual(few, 0)
    workers = max(1, os.cpu_count() or 1)
    seconds = interleaved(
        {
            "ours": lambda: train(RECIPE, data, seed=0),
            "fixed": lambda: fixed(batch, y[:SIZE], RECORDS // SIZE),
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
            note=f"{note}; same network, precision, layout and optimiser, stepped by hand",
        ),
    ]
