"""Networks of torchvision, timm and transformers: shapes, sizes, weights, refusals."""

import copy
import dataclasses
import importlib.util
import logging
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from expunge import api, registry
from expunge.config import key, plain
from expunge.core import grads
from expunge.core.cost import Meter, counting
from expunge.core.descent import train
from expunge.core.grads import squared_gradients
from expunge.data.tensors import TensorData
from expunge.models import vision_ops, zoo
from expunge.models.zoo import Zoo
from expunge.tasks.categorical import Classification
from expunge.types import Batch, Descent, Recipe

SMALL = "shufflenet_v2_x0_5"
CLASSES = 5

pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("torchvision"), reason="torchvision is not installed"
)


@pytest.fixture(autouse=True)
def told_anew() -> None:
    zoo._tell.cache_clear()


def drawn(
    architecture: Zoo, shape: tuple[int, ...] = (3, 32, 32), classes: int = CLASSES, seed: int = 0
) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return architecture.build(shape, classes).eval()


def pixels(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def want(library: str) -> None:
    if not importlib.util.find_spec(library):
        pytest.skip(f"{library} is not installed")


def tiny_transformer(folder: Path, classes: int = 3) -> Path:
    """Save a residual network of a few hundred weights as `save_pretrained` does."""
    want("transformers")
    vision_ops.torchvision()
    import transformers

    config = transformers.AutoConfig.for_model(
        "resnet",
        num_labels=classes,
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
    )
    transformers.AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("network", ["resnet18", "efficientnet_v2_s", "swin_v2_t"])
@pytest.mark.parametrize("side", [32, pytest.param(224, marks=pytest.mark.slow)])
def test_the_named_networks_take_images_of_any_size(network: str, side: int) -> None:
    model = drawn(Zoo(network=network), (3, side, side))
    x = pixels(2, 3, side, side)
    with torch.no_grad():
        assert model(x).shape == (2, CLASSES)


@pytest.mark.parametrize(
    ("network", "count"),
    [("resnet18", 11_689_512), ("efficientnet_v2_s", 21_458_488), ("swin_v2_t", 28_351_570)],
)
def test_parameters_count_as_published(network: str, count: int) -> None:
    with torch.device("meta"):
        model = Zoo(network=network).build((3, 224, 224), 1000)
    assert sum(p.numel() for p in model.parameters()) == count


def test_what_is_drawn_comes_from_the_global_generator() -> None:
    one, same, other = (drawn(Zoo(network=SMALL), seed=s).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["network.fc.weight"], other["network.fc.weight"])


def test_images_are_normalised_and_brought_to_size_inside() -> None:
    mean, std = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)
    model = drawn(Zoo(network=SMALL, size=40, mean=mean, std=std))
    x = pixels(2, 3, 32, 32)
    scaled = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    large = F.interpolate(scaled, (40, 40), mode="bilinear", antialias=True)
    torch.testing.assert_close(model(x), model.network(large))
    torch.testing.assert_close(
        model(large * 0 + 0.5), model.network(model.normalize(large * 0 + 0.5))
    )


def test_grey_images_have_a_first_convolution_of_their_own() -> None:
    model = drawn(Zoo(network="resnet18"), (1, 28, 28))
    first = model.network.conv1
    assert (first.in_channels, first.stride, first.padding) == (1, (2, 2), (3, 3))
    assert first.bias is None
    assert model(pixels(2, 1, 28, 28)).shape == (2, CLASSES)


def test_other_libraries_go_through_the_same_door(tmp_path: Path) -> None:
    want("timm")
    small = drawn(Zoo(library="timm", network="resnet10t"), (1, 28, 28))
    assert small(pixels(2, 1, 28, 28)).shape == (2, CLASSES)
    fixed = drawn(Zoo(library="timm", network="vit_tiny_patch16_224"))
    assert fixed(pixels(2, 3, 32, 32)).shape == (2, CLASSES)
    folder = str(tiny_transformer(tmp_path))
    saved = drawn(Zoo(library="transformers", network=folder), (1, 32, 32))
    assert saved(pixels(2, 1, 32, 32)).shape == (2, CLASSES)


def test_a_kind_of_transformer_needs_no_hub() -> None:
    want("transformers")
    with torch.device("meta"):
        model = drawn(Zoo(library="transformers", network="swinv2"), (3, 64, 64))
        assert model(torch.empty(2, 3, 64, 64)).shape == (2, CLASSES)


def test_heads_beside_the_logits_are_left_out() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return type("Out", (), {"logits": x.flatten(1)})

    model = zoo.ZooNet(nn.Identity(), None, Two())
    assert model(pixels(2, 3, 4, 4)).shape == (2, 48)


@pytest.mark.parametrize("names", ["of a checkpoint", "of the library"])
def test_weights_of_yours_are_loaded_but_for_another_head(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, names: str
) -> None:
    trained = drawn(Zoo(network=SMALL), classes=7, seed=1)
    file = tmp_path / "mine.safetensors"
    saved = trained if names == "of a checkpoint" else trained.network
    save_file(saved.state_dict(), file)
    with caplog.at_level(logging.WARNING):
        model = drawn(Zoo(network=SMALL, weights=str(file)))
        drawn(Zoo(network=SMALL, weights=str(file)))
    before, after = trained.network.state_dict(), model.network.state_dict()
    plain_start = drawn(Zoo(network=SMALL)).network.state_dict()
    for name in after:
        source = plain_start if name.startswith("fc.") else before
        assert torch.equal(after[name], source[name]), name
    assert [record.message for record in caplog.records] == [
        f"not in {file}, and so as drawn at random: fc.weight, fc.bias"
    ]
    with_head = drawn(Zoo(network=SMALL, weights=str(file)), classes=7)
    assert torch.equal(with_head.network.fc.weight, trained.network.fc.weight)


def test_the_librarys_own_weights_are_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = vision_ops.torchvision().models
    published = drawn(Zoo(network=SMALL), classes=1000, seed=1).network.state_dict()
    asked = {}

    def fetched(url: str, **how: Any) -> dict[str, Tensor]:
        asked.update(how, url=url)
        return published

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetched)
    model = drawn(Zoo(network=SMALL, weights="default"))
    assert torch.equal(model.network.conv5[0].weight, published["conv5.0.weight"])
    assert "fc.weight, fc.bias" in caplog.text
    assert asked["weights_only"]
    assert asked["check_hash"]
    assert asked["url"] == models.ShuffleNet_V2_X0_5_Weights.DEFAULT.url

    folder = tiny_transformer(tmp_path)
    saved = load_file(folder / "model.safetensors")
    model = drawn(Zoo(library="transformers", network=str(folder), weights="default"))
    state = model.network.state_dict()
    same = [name for name in saved if torch.equal(state[name], saved[name])]
    assert set(saved) - set(same) == {"classifier.1.weight", "classifier.1.bias"}
    assert model(pixels(2, 3, 32, 32)).shape == (2, CLASSES)


def test_timm_loads_a_folder_of_weights(tmp_path: Path) -> None:
    want("timm")
    vision_ops.torchvision()
    import timm

    trained = drawn(Zoo(library="timm", network="resnet10t"), classes=7, seed=1).network
    timm.models.save_for_hf(trained, tmp_path)
    source = Zoo(library="timm", network=f"local-dir:{tmp_path}", weights="default")
    state = drawn(source).network.state_dict()
    old = trained.state_dict()
    different = [name for name in old if not torch.equal(old[name], state[name])]
    assert different == ["fc.weight", "fc.bias"]


def unreachable(*args: Any, **kwargs: Any) -> None:
    raise urllib.error.URLError("no route to host")


@pytest.mark.parametrize(
    ("library", "network", "where"),
    [
        ("torchvision", SMALL, "torchvision.models._api.load_state_dict_from_url"),
        ("timm", "resnet10t", "timm.models._builder.load_state_dict_from_hf"),
        ("transformers", "an/id", "transformers.AutoModelForImageClassification.from_pretrained"),
    ],
)
def test_without_a_network_it_is_said_what_to_do(
    library: str, network: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    want(library)
    vision_ops.torchvision()
    monkeypatch.setattr(where, unreachable)
    with pytest.raises(
        ValueError, match=rf"cannot get '{network}' of {library}: .*no route.*give `weights` as"
    ):
        drawn(Zoo(library=library, network=network, weights="default"))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        (
            {"network": "resnet19"},
            (3, 32, 32),
            "unknown network 'resnet19'; did you mean 'resnet18'",
        ),
        ({"network": "zzz"}, (3, 32, 32), r"unknown network 'zzz'\. `torchvision.models"),
        ({"network": "resnet10u", "library": "timm"}, (3, 32, 32), "did you mean 'resnet10t'"),
        ({"network": "bert", "library": "transformers"}, (3, 32, 32), "does not classify images"),
        (
            {"network": "efficientnet_b8", "library": "timm", "weights": "default"},
            (3, 32, 32),
            "timm has no weights of 'efficientnet_b8'",
        ),
        ({"network": SMALL}, (64,), "takes images of shape"),
    ],
)
def test_networks_that_are_not_there_are_refused(
    settings: dict, shape: tuple[int, ...], message: str
) -> None:
    if "library" in settings:
        want(settings["library"])
    with pytest.raises(ValueError, match=message):
        Zoo(**settings).build(shape, CLASSES)


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got 'x.pth'; .* is a pickle, .* convert it once"):
        Zoo(network=SMALL, weights="x.pth")
    with pytest.raises(ValueError, match="there are no weights at"):
        Zoo(network=SMALL, weights=str(tmp_path / "x.safetensors"))
    (tmp_path / "text.safetensors").write_text("not tensors")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        drawn(Zoo(network=SMALL, weights=str(tmp_path / "text.safetensors")))
    save_file({"other": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(
        ValueError, match=r"nothing in .* fits: it has other\.\.\., the network has"
    ):
        drawn(Zoo(network=SMALL, weights=str(tmp_path / "other.safetensors")))
    with pytest.raises(ValueError, match="expected size of at least 1"):
        Zoo(network=SMALL, size=0)
    with pytest.raises(ValueError, match="leave it out"):
        Zoo(network=SMALL, checksum="00")


def test_settings_name_the_weights_by_their_content(tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    save_file({"a": torch.zeros(2)}, file)
    architecture = Zoo(network=SMALL, weights=str(file))
    table = plain(architecture)
    assert registry.models.build(table) == architecture
    save_file({"a": torch.ones(2)}, file)
    assert key(Zoo(network=SMALL, weights=str(file))) != key(architecture)
    with pytest.raises(ValueError, match="is not the file that these settings name"):
        registry.models.build(table)


@pytest.mark.parametrize("library", ["torchvision", "timm", "transformers"])
def test_a_library_that_is_missing_is_named_with_its_extra(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == library else real(name)
    )
    with pytest.raises(ValueError, match=rf"{library} is not installed; .*expunge\[vision\]"):
        Zoo(network=SMALL, library=library).build((3, 32, 32), CLASSES)  # pyright: ignore[reportArgumentType]


def test_missing_operators_are_declared_and_still_say_so_when_called() -> None:
    library = vision_ops.torchvision()
    if not vision_ops._kept:
        pytest.skip("torchvision's compiled operators are there")
    boxes, scores = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1)
    with pytest.raises((NotImplementedError, RuntimeError)):
        library.ops.nms(boxes, scores, 0.5)


def small(kind: str) -> nn.Module:
    """A network of torchvision's own blocks, with in-place activations and dropped paths."""
    models = vision_ops.torchvision().models
    if kind == "resnet18":
        return models.resnet18(num_classes=CLASSES)
    if kind == "resnet":
        return models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=CLASSES)
    if kind == "efficientnet":
        part = models.efficientnet
        stages = [
            part.FusedMBConvConfig(4, 3, 2, 8, 8, 2),
            part.MBConvConfig(2, 3, 2, 8, 12, 2),
        ]
        return models.EfficientNet(
            stages, 0.2, stochastic_depth_prob=0.5, num_classes=CLASSES, last_channel=16
        )
    part = models.swin_transformer
    return part.SwinTransformer(
        [2, 2],
        8,
        [1, 1],
        [2, 2],
        [2, 2],
        num_classes=CLASSES,
        block=part.SwinTransformerBlockV2,
        downsample_layer=part.PatchMergingV2,
    )


@pytest.mark.parametrize(
    "kind", [pytest.param("resnet18", marks=pytest.mark.slow), "resnet", "efficientnet", "swin"]
)
def test_squared_gradients_are_those_of_single_records(kind: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = zoo.ZooNet(nn.Identity(), None, small(kind)).train()
        for _ in range(3):  # BatchNorm gets statistics
            model(torch.rand(8, 3, 16, 16))
        model.eval()
    batch = Batch(pixels(3, 3, 16, 16), torch.arange(3), torch.arange(3))
    task = Classification(classes=CLASSES)
    found = squared_gradients(model, task, [batch])
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, y in zip(batch.x, batch.y, strict=True):
        loss = F.cross_entropy(model(x[None]), y[None])
        parts = torch.autograd.grad(loss, list(model.parameters()))
        for name, part in zip(expected, parts, strict=True):
            expected[name] += part.square() / 3
    for name in expected:
        one = expected[name]
        torch.testing.assert_close(
            found[name], one, rtol=1e-3, atol=1e-6 * float(one.abs().max()), msg=name
        )


@pytest.mark.parametrize("kind", ["resnet", "efficientnet"])
def test_networks_of_common_layers_need_one_backward(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grads, "_by_record", None)  # would raise if it were called
    batch = Batch(pixels(3, 3, 16, 16), torch.arange(3), torch.arange(3))
    squared_gradients(small(kind), Classification(classes=CLASSES), [batch])


@pytest.mark.parametrize("library", ["torchvision", "timm", "transformers"])
def test_it_trains_is_counted_copied_and_saved_like_any_network(
    library: str, tmp_path: Path
) -> None:
    want(library)
    networks = {"torchvision": SMALL, "timm": "resnet10t"}
    network = networks.get(library) or str(tiny_transformer(tmp_path / "saved"))
    architecture = Zoo(library=library, network=network)  # pyright: ignore[reportArgumentType]
    recipe = Recipe(
        model=architecture,
        inputs=(3, 32, 32),
        task=Classification(classes=CLASSES),
        descent=Descent(lr=0.01, epochs=2, batch_size=4),
    )
    data = TensorData(pixels(8, 3, 32, 32), torch.arange(8) % CLASSES)
    meter = Meter()
    with counting(meter):
        model = train(recipe, data, 0)
    assert (meter.forward, meter.backward) == (16, 16)
    again, x = copy.deepcopy(model), pixels(2, 3, 32, 32)
    assert torch.equal(again(x), model(x))
    assert not any(p is q for p, q in zip(again.parameters(), model.parameters(), strict=True))
    whole = tmp_path / "whole.safetensors"
    api.save(model, whole)
    torch.testing.assert_close(api.load(whole, recipe)(x), model(x), rtol=1e-4, atol=1e-4)
    restarted = drawn(dataclasses.replace(architecture, weights=str(whole)), (3, 32, 32))
    torch.testing.assert_close(restarted(x), model(x), rtol=1e-4, atol=1e-4)
