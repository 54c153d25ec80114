"""One backward per batch gives what one backward per record gives."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expunge.core import grads
from expunge.core.grads import absolute_gradients, mean_gradient, squared_gradients
from expunge.models.convnet import ConvNet
from expunge.models.denoiser import Denoiser
from expunge.models.lstm import LSTM
from expunge.models.mlp import MLP
from expunge.models.resnet import ResNet
from expunge.tasks.categorical import Classification, NextToken
from expunge.tasks.denoising import Denoising
from expunge.types import Batch, Refused, Task, each

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

RTOL, RECORDS, CLASSES = 1e-4, 7, 5


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(channels: int = 3, size: int = 8) -> Batch:
    x = torch.rand(RECORDS, channels, size, size, generator=draw())
    return Batch(x, torch.arange(RECORDS) % CLASSES, torch.arange(RECORDS))


def features(width: int = 6) -> Batch:
    return images()._replace(x=torch.randn(RECORDS, width, generator=draw()))


def lines() -> Batch:
    return images()._replace(x=torch.randn(RECORDS, 4, 12, generator=draw()))


def tokens() -> Batch:
    y = torch.randint(0, CLASSES, (RECORDS, 6), generator=draw(1))
    y[0, 2:] = -100
    x = torch.randint(0, CLASSES, (RECORDS, 6), generator=draw())
    return Batch(x, y, torch.arange(RECORDS))


def noisy() -> Batch:
    return Denoising().pose(features(), draw())


class Positions(nn.Module):
    """Embedding, norms and in-place activations on features per position."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 8, padding_idx=1)
        self.norm = nn.LayerNorm(8)
        self.one = nn.Linear(8, 12)
        self.two = nn.Linear(12, CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(self.norm(self.embed(x))).relu_())


class Odd(nn.Module):
    """Convolutions of every kind, with activations in place."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding="same", dilation=2),
            nn.ReLU(inplace=True),
            nn.GroupNorm(2, 8),
            nn.Conv2d(8, 12, (3, 2), stride=(2, 1), padding=(1, 0), groups=4),
            nn.ReLU(inplace=True),
            nn.Conv2d(12, 12, 2, padding="same", groups=12, bias=False),
            nn.BatchNorm2d(12),
            nn.Conv2d(12, 6, 1, stride=2),
            nn.Flatten(),
            nn.LazyLinear(CLASSES),
        )
        self.body(torch.zeros(1, 3, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Line(nn.Module):
    """Convolutions along a line, with layers that no record reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2)
        self.norm = nn.BatchNorm1d(6)
        self.two = nn.Linear(6, CLASSES)
        self.idle = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(F.relu(self.norm(self.one(input=x)), inplace=True).mean(2))


class Twice(nn.Module):
    """A layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(self.one(x).tanh()))


class Tied(nn.Module):
    """A weight that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(CLASSES, 4), nn.Linear(4, CLASSES)
        self.out.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.embed(x).tanh())


class Aside(nn.Module):
    """A weight that is also used behind its layer's back."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x)) + F.linear(x, self.two.weight)


class Crossed(nn.Module):
    """A layer whose first dimension is the position, not the record."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(CLASSES, 4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.embed(x).transpose(0, 1)).transpose(0, 1)


Case = tuple[Callable[[], nn.Module], Task, Callable[[], Batch]]
CLASSIFY, NEXT = Classification(classes=CLASSES), NextToken(classes=CLASSES)
LAYERED: dict[str, Case] = {
    "mlp": (lambda: MLP(hidden=(8, 8)).build((6,), CLASSES), CLASSIFY, features),
    "convnet": (lambda: ConvNet(width=4).build((1, 8, 8), CLASSES), CLASSIFY, lambda: images(1)),
    "resnet18": (lambda: ResNet(width=4).build((3, 8, 8), CLASSES), CLASSIFY, images),
    "large stem": (
        lambda: ResNet(width=4, stem="large").build((3, 16, 16), CLASSES),
        CLASSIFY,
        lambda: images(3, 16),
    ),
    "odd convolutions": (Odd, CLASSIFY, images),
    "lines": (Line, CLASSIFY, lines),
    "positions": (Positions, NEXT, tokens),
    "denoiser": (lambda: Denoiser(conditions=CLASSES).build((6,), 0), Denoising(), noisy),
}
OTHERS: dict[str, Case] = {
    "lstm": (lambda: LSTM(hidden=8).build((6,), CLASSES), NEXT, tokens),
    "called twice": (Twice, CLASSIFY, features),
    "tied": (Tied, NEXT, tokens),
    "used aside": (Aside, CLASSIFY, features),
    "crossed": (Crossed, NEXT, lambda: each_rows(tokens(), 6)),
}


def each_rows(batch: Batch, count: int) -> Batch:
    """As many records as positions, so that the two could be confused."""
    return part_of(batch, torch.arange(count))


def part_of(batch: Batch, rows: Tensor) -> Batch:
    return Batch(each(batch.x, lambda part: part[rows]), batch.y[rows], batch.index[rows])


def trained(make: Callable[[], nn.Module]) -> nn.Module:
    """A network whose BatchNorms have statistics of their own."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                nn.init.normal_(module.weight)
    return model


def by_loop(
    model: nn.Module, task: Task, batch: Batch, power: Callable[[Tensor], Tensor] = Tensor.square
) -> dict[str, Tensor]:
    model.eval()
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for i in range(len(batch.y)):
        one = part_of(batch, torch.tensor([i]))
        model.zero_grad()
        task.losses(model(one.x), one.y).sum().backward()
        for name, p in model.named_parameters():
            if p.grad is not None:
                total[name] += power(p.grad) / len(batch.y)
    model.zero_grad()
    return total


def agree(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, one in expected.items():
        torch.testing.assert_close(
            found[name], one, rtol=RTOL, atol=1e-6 * float(one.abs().max()), msg=name
        )


@pytest.mark.parametrize("name", LAYERED | OTHERS)
def test_the_fisher_is_the_loop_over_single_records(name: str) -> None:
    make, task, batch = (LAYERED | OTHERS)[name]
    model = trained(make)
    expected = by_loop(model, task, batch())
    agree(squared_gradients(model, task, [batch()]), expected)


@pytest.mark.parametrize("name", LAYERED | OTHERS)
def test_the_mean_size_is_the_loop_over_single_records(name: str) -> None:
    make, task, batch = (LAYERED | OTHERS)[name]
    model = trained(make)
    expected = by_loop(model, task, batch(), Tensor.abs)
    found = absolute_gradients(model, task, [batch()])
    agree(found, expected)
    cancelled = mean_gradient(model, task, [batch()])
    assert any(
        float(part.sum()) > 1.5 * float(cancelled[k].abs().sum()) for k, part in found.items()
    )


def test_the_mean_size_is_of_the_loss_that_training_has() -> None:
    task, model = Classification(classes=CLASSES, objective="hinge"), nn.Linear(6, CLASSES)
    x, y, _ = batch = features()
    margins = model(x).detach()
    sign = 2 * F.one_hot(y, CLASSES) - 1
    slope = -2 * sign * (1 - sign * margins).clamp(min=0)
    expected = (slope[:, :, None] * x[:, None]).abs().mean(0)
    torch.testing.assert_close(absolute_gradients(model, task, [batch])["weight"], expected)


@pytest.mark.parametrize("name", LAYERED)
def test_common_networks_need_one_backward(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grads, "_by_record", None)  # would raise if it were called
    make, task, batch = LAYERED[name]
    squared_gradients(trained(make), task, [batch()])


@pytest.mark.parametrize("name", ["mlp", "resnet18", "positions", "lstm"])
@pytest.mark.parametrize("gradient", [squared_gradients, absolute_gradients, mean_gradient])
def test_neither_batch_size_nor_order_matters(name: str, gradient: Callable) -> None:
    make, task, batch = (LAYERED | OTHERS)[name]
    model, whole = trained(make), batch()
    shuffled = torch.randperm(RECORDS, generator=draw())
    parts = [part_of(whole, rows) for rows in shuffled.split(3)]
    agree(gradient(model, task, parts), gradient(model, task, [whole]))


@pytest.mark.parametrize("piece", [1, 2000])
@pytest.mark.parametrize("what", ["squares.CPU_PIECE", "grads.CPU_HELD"])
def test_pieces_of_any_size_add_up(what: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = trained(Odd), images()
    whole = squared_gradients(model, CLASSIFY, [batch])
    monkeypatch.setattr(f"expunge.core.{what}", piece)
    agree(squared_gradients(model, CLASSIFY, [batch]), whole)


@pytest.mark.parametrize("gradient", [squared_gradients, absolute_gradients, mean_gradient])
def test_the_model_is_left_as_found(gradient: Callable) -> None:
    model = trained(lambda: ConvNet(width=4).build((3, 8, 8), CLASSES)).train()
    frozen = next(model.parameters()).requires_grad_(False)
    before = {name: part.clone() for name, part in model.state_dict().items()}
    found = gradient(model, CLASSIFY, [images()])
    assert all(torch.equal(before[name], part) for name, part in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert not frozen.requires_grad
    assert found.keys() == dict(model.named_parameters()).keys()
    assert not any(part.requires_grad for part in found.values())
    assert float(found["1.weight"].abs().sum()) > 0  # the frozen one is included


def test_the_mean_gradient_is_that_of_the_training_loss() -> None:
    model, batch = trained(lambda: ResNet(width=4).build((3, 8, 8), CLASSES)), images()
    CLASSIFY.loss(model.eval(), batch).backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    parts = [part_of(batch, rows) for rows in torch.arange(RECORDS).split(4)]
    agree(mean_gradient(model, CLASSIFY, parts), expected)


@pytest.mark.parametrize("gradient", [squared_gradients, absolute_gradients, mean_gradient])
def test_no_records_is_an_error(gradient: Callable) -> None:
    with pytest.raises(Refused, match="none; check the split"):
        gradient(trained(Twice), CLASSIFY, [])
