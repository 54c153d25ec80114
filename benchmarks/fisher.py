"""The diagonal Fisher: one backward per batch against one per record."""

import copy

import torch
from torch import Tensor, nn

from benchmarks.timing import Claim, interleaved, ratios
from expunge.core.grads import squared_gradients
from expunge.models.mlp import MLP
from expunge.models.resnet import ResNet
from expunge.tasks.categorical import Classification
from expunge.types import Architecture, Batch

SIZE, REPEATS, CHECKED = 128, 5, 8
TASK = Classification(classes=10)


def by_record(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Return the mean of squared gradients by the loop of the definition."""
    model.eval()
    assert isinstance(batch.x, Tensor)
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for i in range(len(batch.y)):
        model.zero_grad()
        TASK.losses(model(batch.x[i : i + 1]), batch.y[i : i + 1]).sum().backward()
        for name, p in model.named_parameters():
            if p.grad is not None:
                total[name] += p.grad.square()
    return {name: part / len(batch.y) for name, part in total.items()}


def split(batch: Batch, size: int) -> list[Batch]:
    """Return the records in batches."""
    assert isinstance(batch.x, Tensor)
    parts = zip(batch.x.split(size), batch.y.split(size), batch.index.split(size), strict=True)
    return [Batch(*part) for part in parts]


def difference(model: nn.Module, batch: Batch) -> float:
    """Return the largest relative difference of the two ways, in double precision.

    In single precision a ReLU whose input is nearly 0 may open for one and not for the
    other, which says nothing about either.
    """
    few = split(batch, CHECKED)[0]
    assert isinstance(few.x, Tensor)
    double, few = copy.deepcopy(model).double(), few._replace(x=few.x.double())
    found, expected = squared_gradients(double, TASK, [few]), by_record(double, few)
    return max(
        float((found[name] - one).abs().max() / one.abs().max().clamp(min=1e-300))
        for name, one in expected.items()
    )


def claim(
    name: str, model: Architecture, shape: tuple[int, ...], *, records: int, target: float
) -> Claim:
    """Measure one network."""
    draws = torch.Generator().manual_seed(0)
    x = torch.rand(records, *shape, generator=draws)
    y = torch.randint(0, 10, (records,), generator=draws)
    whole = Batch(x, y, torch.arange(records))
    network, batches = model.build(shape, 10), split(whole, SIZE)
    far = difference(network, whole)
    if far > 1e-9:
        raise AssertionError(f"the two ways differ by {far:g} for {name}; expected the same")
    by_record(network, split(whole, CHECKED)[0])
    seconds = interleaved(
        {
            "ours": lambda: squared_gradients(network, TASK, batches),
            "loop": lambda: by_record(network, whole),
        },
        REPEATS,
    )
    return Claim(
        what=f"diagonal Fisher, {name}, one backward per batch / per record",
        ratios=ratios(seconds["loop"], seconds["ours"]),
        target=target,
        note=f"{records} records in batches of {SIZE}, fp32; same numbers to {far:.0e} in fp64",
    )


def claims() -> list[Claim]:
    """Measure a convolutional and a fully connected network."""
    return [
        claim("resnet18 width 16", ResNet(width=16), (3, 32, 32), records=256, target=4.0),
        claim("mlp 784-128-10", MLP(), (784,), records=1024, target=20.0),
    ]
