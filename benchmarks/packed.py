"""Training a pool of small shadow models: all at the same time, against one after another."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.timing import Claim, interleaved, ratios
from expunge.core.descent import train
from expunge.core.packed import train_together
from expunge.core.view import View
from expunge.data.bundled import Digits
from expunge.data.tensors import TensorData
from expunge.models.convnet import ConvNet
from expunge.models.mlp import MLP
from expunge.tasks.categorical import Classification
from expunge.types import Architecture, Data, Descent, Recipe

COUNT, SIZE, REPEATS = 16, 64, 3
SMALL: dict[str, Architecture] = {"mlp 64-128-10": MLP(), "convnet width 8": ConvNet(width=8)}


def usual(recipe: Recipe, data: Data) -> None:
    """Train one model as everyone does: a loader of tensors, without transforms."""
    x, y, _ = data.take(torch.arange(len(data)))
    assert isinstance(x, Tensor)
    loader = DataLoader(TensorDataset(x, y), batch_size=SIZE, shuffle=True)
    model, descent = recipe.fresh().train(), recipe.descent
    optimizer = torch.optim.SGD(
        model.parameters(), descent.lr, descent.momentum, weight_decay=descent.weight_decay
    )
    for _ in range(descent.epochs):
        for inputs, answers in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), answers).backward()
            optimizer.step()


def halves(pool: Data) -> list[Data]:
    """Return as many random halves as there are shadows."""
    draws = torch.Generator().manual_seed(0)
    return [
        View(pool, torch.randperm(len(pool), generator=draws)[: len(pool) // 2])
        for _ in range(COUNT)
    ]


def digits() -> Data:
    """Return handwritten digits, which come with a dependency of ours."""
    return Digits().load().train


def larger() -> Data:
    """Return noise in the shape of MNIST."""
    draws = torch.Generator().manual_seed(0)
    x = torch.rand(1_024, 1, 28, 28, generator=draws)
    return TensorData(x, torch.randint(0, 10, (len(x),), generator=draws))


def compared(name: str, model: Architecture, pool: Data, epochs: int) -> list[Claim]:
    """Measure both ways of training one after another against packed training."""
    recipe = Recipe(
        model=model,
        inputs=pool.shape,
        task=Classification(classes=10),
        descent=Descent(
            lr=0.05, epochs=epochs, batch_size=SIZE, weight_decay=5e-4, precision="fp32"
        ),
    )
    datasets, seeds = halves(pool), range(COUNT)

    # What is only paid once, such as choosing kernels, is paid here.
    train_together(recipe, datasets[:2], seeds[:2])
    train(recipe, datasets[0], 0)
    usual(recipe, datasets[0])
    seconds = interleaved(
        {
            "packed": lambda: train_together(recipe, datasets, seeds),
            "usual": lambda: [usual(recipe, data) for data in datasets],
            "ours": lambda: [
                train(recipe, data, s) for data, s in zip(datasets, seeds, strict=True)
            ],
        },
        REPEATS,
    )
    side = pool.shape[-1]
    note = (
        f"{len(datasets[0])} pictures of {side} x {side} each, epochs: {epochs}, "
        f"batches of {SIZE}, fp32"
    )
    return [
        Claim(
            what=f"{COUNT} shadows, {name}, the usual loop one after another / packed",
            ratios=ratios(seconds["usual"], seconds["packed"]),
            target=4.0 if name in SMALL else None,
            note=f"{note}; the usual: DataLoader of tensors, no worker, no transform",
        ),
        Claim(
            what=f"{COUNT} shadows, {name}, our loop one after another / packed",
            ratios=ratios(seconds["ours"], seconds["packed"]),
            target=None,
            note=f"{note}; the same weights but for rounding",
        ),
    ]


def claims() -> list[Claim]:
    """Measure small networks, and one whose arithmetic takes most of the time."""
    pool = digits()
    found = [claim for name, model in SMALL.items() for claim in compared(name, model, pool, 3)]
    return found + compared("convnet width 8 on larger pictures", ConvNet(width=8), larger(), 1)
