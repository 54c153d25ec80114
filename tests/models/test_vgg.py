"""VGG-16: sizes, shapes, starting weights, and what the core makes of it."""

import pytest
import torch
from torch import nn

from expunge.core.descent import train
from expunge.core.features import deep_layers
from expunge.core.packed import pays, train_together
from expunge.models.vgg import VGG
from expunge.tasks.categorical import Classification
from expunge.types import Descent, Recipe
from tests.models.passing import obeys, pixels, reads_squared_gradients


def drawn(architecture: VGG, shape: tuple[int, ...] = (3, 32, 32), classes: int = 5) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return architecture.build(shape, classes)


@pytest.mark.parametrize(
    ("batch_norm", "classes", "known"),
    [
        # Thirteen convolutions 14,714,688; BatchNorm 8,448; the head 512 C + C.
        (True, 100, 14_774_436),
        (True, 10, 14_728_266),
        (False, 10, 14_719_818),
    ],
)
def test_parameters_count_as_published(*, batch_norm: bool, classes: int, known: int) -> None:
    with torch.device("meta"):
        model = VGG(batch_norm=batch_norm).build((3, 32, 32), classes)
    assert sum(p.numel() for p in model.parameters()) == known


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 28, 28), (3, 32, 32), (3, 33, 70)], ids=str)
@pytest.mark.parametrize("batch_norm", [True, False])
def test_images_of_any_size_give_one_row_of_logits(
    shape: tuple[int, ...], *, batch_norm: bool
) -> None:
    model = drawn(VGG(width=2, batch_norm=batch_norm), shape)
    x = torch.rand(2, *shape)
    assert model(x).shape == (2, 5)
    assert len(deep_layers(model, x)) == 3


def test_a_stage_of_convolutions_is_that_of_table_1() -> None:
    model = drawn(VGG(width=64), classes=10)
    widths = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [64, 64, 128, 128, *[256] * 3, *[512] * 6]
    assert sum(isinstance(m, nn.MaxPool2d) for m in model.modules()) == 5


def test_signals_neither_die_nor_burst_without_norms() -> None:
    model = drawn(VGG(width=16, batch_norm=False))
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert all(m.bias is not None and not m.bias.any() for m in convolutions)
    spread = model(torch.rand(64, 3, 32, 32)).std(0).mean()
    assert 0.01 < spread < 10


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ({}, (3, 15, 32), "at least 16 x 16 pixels, got 15 x 32"),
        ({}, (64,), "takes images of shape"),
        ({"width": 0}, (3, 32, 32), "width of 'vgg' to be at least 1, got 0"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VGG(**settings).build(shape, 5)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_it_is_trained_unlearned_from_and_audited(*, batch_norm: bool) -> None:
    obeys(VGG(width=2, batch_norm=batch_norm), pixels(48, 3, 16, 16, classes=3))


def test_squared_gradients_are_those_of_single_records() -> None:
    model = drawn(VGG(width=2), (3, 16, 16), 3)
    reads_squared_gradients(model, Classification(classes=3), torch.rand(4, 3, 16, 16))


def test_several_train_side_by_side_as_one_by_one() -> None:
    recipe = Recipe(
        model=VGG(width=2),
        inputs=(3, 16, 16),
        task=Classification(classes=3),
        descent=Descent(lr=0.01, epochs=1, batch_size=8, precision="fp32"),
    )
    data = pixels(16, 3, 16, 16, classes=3)
    assert pays(recipe.drawn())
    together = train_together(recipe, [data, data], [0, 1])
    for seed, model in enumerate(together):
        alone = train(recipe, data, seed)
        x = data.take(torch.arange(4)).x
        torch.testing.assert_close(model(x), alone(x), rtol=1e-3, atol=1e-3)
