"""Shapes, sizes, first layers and refusals of the networks."""

import pytest
import torch
from torch import nn

from expunge import registry
from expunge.models.convnet import ConvNet
from expunge.models.denoiser import Denoiser
from expunge.models.imported import Imported
from expunge.models.linear import Linear
from expunge.models.lstm import LSTM
from expunge.models.mlp import MLP
from expunge.models.normalize import Normalize
from expunge.models.resnet import ResNet
from expunge.types import Architecture

SMALL = [Linear(), MLP(), ConvNet(width=4), ResNet(width=4), ResNet(width=4, depth=34)]


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("architecture", SMALL, ids=repr)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 64, 64)], ids=str)
def test_images_of_any_size_give_one_row_of_logits(
    architecture: Architecture, shape: tuple[int, ...]
) -> None:
    model = architecture.build(shape, 10)
    assert model(torch.rand(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize("architecture", SMALL, ids=repr)
def test_settings_survive_a_spec(architecture: Architecture) -> None:
    table = {"name": architecture.card.name}
    assert registry.models.build(table) == type(architecture)()


@pytest.mark.parametrize(
    ("architecture", "shape", "classes", "known"),
    [
        # torchvision's count, and the count the CIFAR variant is known by.
        (ResNet(stem="large"), (3, 224, 224), 1000, 11_689_512),
        (ResNet(depth=34, stem="large"), (3, 224, 224), 1000, 21_797_672),
        (ResNet(), (3, 32, 32), 10, 11_173_962),
        (MLP(hidden=(100,), batch_norm=False), (784,), 10, 79_510),
        (Linear(), (1, 28, 28), 10, 7850),
    ],
    ids=str,
)
def test_parameters_count_as_published(
    architecture: Architecture, shape: tuple[int, ...], classes: int, known: int
) -> None:
    with torch.device("meta"):
        assert count(architecture.build(shape, classes)) == known


def test_auto_stem_follows_the_size_of_the_image() -> None:
    def pools(size: int) -> bool:
        model = ResNet(width=4).build((3, size, size), 10)
        return any(isinstance(m, nn.MaxPool2d) for m in model.modules())

    assert not pools(63)
    assert pools(64)


def test_convolutions_keep_the_variance_of_gradients() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet(width=32).build((3, 32, 32), 10)
    layer = next(m for m in model[2].modules() if isinstance(m, nn.Conv2d))
    assert layer.weight.std().item() == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.05)


def test_features_and_tokens() -> None:
    assert MLP(hidden=()).build((6,), 3)(torch.randn(4, 6)).shape == (4, 3)
    tokens = torch.zeros(4, 7, dtype=torch.long)
    assert LSTM(hidden=8).build((7,), 11)(tokens).shape == (4, 7, 11)
    seen = {"x": torch.randn(4, 6), "time": torch.rand(4), "condition": torch.zeros(4).long()}
    assert Denoiser(conditions=2).build((6,), 0)(seen).shape == (4, 6)


def test_normalisation_is_the_first_layer() -> None:
    model = Linear(mean=(0.1, 0.2), std=0.5).build((2, 1, 1), 3)
    expected = torch.tensor([[1.8, 1.6]]).reshape(1, 2, 1, 1)
    torch.testing.assert_close(model[0](torch.ones(1, 2, 1, 1)), expected)
    x = torch.randn(5, 6)
    assert torch.equal(MLP().build((6,), 3)[0](x), x)
    assert MLP().build((1, 8, 8), 3)[0].state_dict() == {
        "mean": torch.tensor([0.5]),
        "std": torch.tensor([0.25]),
    }


def test_imported_builds_anything() -> None:
    bare = Imported(target="torch.nn:Linear", arguments={"in_features": 6, "out_features": 3})
    assert isinstance(bare.build((6,), 3), nn.Linear)
    layered = Imported(
        target="torch.nn:Conv2d",
        arguments={"in_channels": 3, "out_channels": 2, "kernel_size": 8},
        normalize=True,
        std=0.5,
    ).build((3, 8, 8), 2)
    assert isinstance(layered[0], Normalize)
    assert layered(torch.rand(1, 3, 8, 8)).shape == (1, 2, 1, 1)


@pytest.mark.parametrize(
    ("architecture", "shape", "outputs", "message"),
    [
        (ConvNet(), (64,), 10, "takes images of shape .* got records of shape .64,.*'mlp'"),
        (ResNet(), (), 10, "takes images"),
        (ConvNet(), (1, 2, 8), 10, "at least 4 x 4 pixels, got 2 x 8"),
        (MLP(), (), 10, "a dict of tensors"),
        (LSTM(), (3, 8, 8), 10, "rows of token numbers .* take 'convnet'"),
        (Denoiser(conditions=2), (3, 8, 8), 0, "feature vectors"),
        (Denoiser(conditions=2), (6,), 10, "gives back as many numbers"),
        (MLP(), (6,), 0, "for denoising take 'denoiser'"),
        (MLP(mean=(0.5, 0.5)), (3, 8, 8), 10, "mean has 2 values .* 3 channels"),
        (MLP(std=0.0), (3, 8, 8), 10, "expected std > 0"),
        (Imported(target="nonesuch"), (6,), 3, "'package.module:callable'"),
        (Imported(target="nonesuch.nets:Net"), (6,), 3, "no module 'nonesuch'.*PYTHONPATH"),
        (Imported(target="torch.nn:Liner"), (6,), 3, "did you mean 'Linear'"),
        (Imported(target="torch.nn:__doc__"), (6,), 3, "nothing callable named '__doc__'"),
        (Imported(target="torch.nn:Linear"), (6,), 3, "change `arguments`"),
        (Imported(target="fractions:Fraction"), (6,), 3, "expected .* torch.nn.Module, got Frac"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_does_not_fit_is_refused(
    architecture: Architecture, shape: tuple[int, ...], outputs: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        architecture.build(shape, outputs)


@pytest.mark.parametrize(
    ("cls", "settings"),
    [(MLP, {"hidden": (0,)}), (ConvNet, {"width": 0}), (ResNet, {"width": 0})],
)
def test_widths_must_be_positive(cls: type[Architecture], settings: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        cls(**settings)
