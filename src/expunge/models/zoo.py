"""Networks of torchvision, timm and transformers, with their own weights or with yours.

Among them: ResNet-18 (He et al., CVPR 2016, https://arxiv.org/abs/1512.03385),
EfficientNetV2-S (Tan and Le, ICML 2021, https://arxiv.org/abs/2104.00298) and Swin-V2-T
(Liu et al., CVPR 2022, https://arxiv.org/abs/2111.09883), as torchvision has them.
"""

import difflib
import hashlib
import importlib
import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Literal

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from expunge.models.normalize import Level, first
from expunge.models.shapes import answers, image
from expunge.models.vision_ops import torchvision
from expunge.types import Architecture, Card, Start

Library = Literal["torchvision", "timm", "transformers"]

log = logging.getLogger(__name__)


class ZooNet(nn.Module):
    """Normalise, resize, ask a library's network, and give its logits alone.

    Attributes:
        normalize: What comes first.
        size: Side of the square that images are brought to, in pixels; None leaves them.
        network: The library's own, so that its names are those of its published weights.
    """

    def __init__(self, normalize: nn.Module, size: int | None, network: nn.Module) -> None:
        super().__init__()
        self.normalize, self.size, self.network = normalize, size, network

    def forward(self, x: Tensor) -> Tensor:
        x = self.normalize(x)
        if self.size is not None and x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        out = self.network(x)
        return out if isinstance(out, Tensor) else out.logits


@dataclass(frozen=True, kw_only=True)
class Zoo(Architecture):
    """A network by its name in torchvision, timm or transformers.

    These libraries come with `pip install 'expunge[vision]'`. Nothing is unpickled but for
    torchvision's own weights, which are published in no other form: PyTorch reads them with
    `weights_only`, checked against their hash.

    Attributes:
        network: Its name: `resnet18`, `efficientnet_v2_s` or `swin_v2_t`, say, in torchvision;
            whatever `timm.create_model` takes; for transformers an id on the Hugging Face hub,
            a folder that `save_pretrained` wrote, or a kind of network such as `vit`.
        library: Where it is from.
        weights: What it starts from, the retrained controls included: None is chance,
            `default` the library's own pretrained weights, which may have to be downloaded,
            anything else the path of a safetensors file. What a file has by the name and shape
            of the network's own is loaded; the rest, such as a head for other classes, stays
            as drawn and is logged.
        checksum: SHA-256 of that file. Left out, it is taken from the file; given, another
            file is refused, so that settings name one network.
        size: Side of the square that images are brought to inside the network, in pixels; None
            leaves them as they are.
        mean: Subtracted from pixels, one number or one per channel; None is 0.5. Weights
            pretrained on ImageNet mostly want (0.485, 0.456, 0.406).
        std: Divides pixels, one number or one per channel; None is 0.25. Weights pretrained on
            ImageNet mostly want (0.229, 0.224, 0.225).
    """

    card = Card(name="zoo", source="https://docs.pytorch.org/vision/stable/models.html")

    network: str
    library: Library = "torchvision"
    weights: str | None = None
    checksum: str | None = None
    size: int | None = None
    mean: Level | None = None
    std: Level | None = None

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"expected size of at least 1 pixel, got {self.size}")
        if self._file is None:
            if self.checksum is not None:
                raise ValueError(
                    f"checksum is that of a file of weights, but weights={self.weights!r}; "
                    "leave it out"
                )
            return
        found = _checksum(self._file)
        if self.checksum not in (None, found):
            raise ValueError(
                f"{self._file} is not the file that these settings name: its SHA-256 is {found}, "
                f"expected {self.checksum}; bring that file back, or leave `checksum` out"
            )
        object.__setattr__(self, "checksum", found)

    @property
    def _file(self) -> Path | None:
        if self.weights in (None, "default"):
            return None
        return Path(self.weights).expanduser()

    def build(self, inputs: tuple[int, ...], outputs: int) -> nn.Module:
        channels, height, width = image(inputs, "zoo")
        side = self.size or max(height, width)
        ask = Ask(
            name=self.network,
            outputs=answers(outputs, "zoo"),
            channels=channels,
            side=side,
            pretrained=self.weights == "default",
        )
        try:
            network = LIBRARIES[self.library](ask)
        except OSError as error:
            raise ValueError(
                f"cannot get '{self.network}' of {self.library}: {_first_line(error)}. Connect to "
                "the network once, so that it is kept, or give `weights` as the path of a "
                "safetensors file that you have; transformers also takes a folder as `network`"
            ) from None
        if self._file is not None:
            _load(network, self._file)
        return ZooNet(first(inputs, self.mean, self.std), self.size, network)


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What a library is asked for.

    Attributes:
        name: The network's.
        outputs: Classes.
        channels: Of the images.
        side: Of the images, in pixels; networks for one size only need it.
        pretrained: Whether the library's own weights are wanted.
    """

    name: str
    outputs: int
    channels: int
    side: int
    pretrained: bool


def _of_torchvision(ask: Ask) -> nn.Module:
    library = torchvision().models
    known = library.list_models(module=library)
    if ask.name not in known:
        raise _unknown(ask.name, known, "torchvision.models.list_models()")
    network = library.get_model(ask.name, weights=None, num_classes=ask.outputs)
    _rechannel(network, ask.channels)
    if ask.pretrained:
        weights = library.get_model_weights(ask.name).DEFAULT
        found = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        _fit(network, found, f"torchvision's weights of '{ask.name}'")
    return network


def _of_timm(ask: Ask) -> nn.Module:
    library = _imported("timm")
    own = ":" in ask.name  # a folder or the hub, which timm looks into itself
    if not own and not library.is_model(ask.name):
        raise _unknown(ask.name, library.list_models(), "timm.list_models()")
    settings = {}
    if not own and not ask.pretrained:
        published = library.get_pretrained_cfg(ask.name)
        if published is not None and published.fixed_input_size:
            settings["img_size"] = ask.side
    try:
        return library.create_model(
            ask.name,
            pretrained=ask.pretrained,
            num_classes=ask.outputs,
            in_chans=ask.channels,
            **settings,
        )
    except RuntimeError as error:
        if "pretrained" not in str(error):
            raise
        raise ValueError(
            f"timm has no weights of '{ask.name}': {_first_line(error)}; leave `weights` out, or "
            "give the path of a safetensors file"
        ) from None


def _of_transformers(ask: Ask) -> nn.Module:
    library = _imported("transformers")
    classifier = library.AutoModelForImageClassification
    settings = {"num_labels": ask.outputs, "num_channels": ask.channels}
    if ask.pretrained:
        return classifier.from_pretrained(
            ask.name,
            **settings,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            dtype=torch.float32,
        )
    if ask.name in library.CONFIG_MAPPING:
        config = library.AutoConfig.for_model(ask.name, **settings)
    else:
        config = library.AutoConfig.from_pretrained(ask.name, **settings)
    if hasattr(config, "image_size"):
        config.image_size = ask.side
    if type(config) not in library.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise ValueError(
            f"'{ask.name}' of transformers does not classify images; it is a {config.model_type}"
        )
    return classifier.from_config(config, dtype=torch.float32)


LIBRARIES: Mapping[str, Callable[[Ask], nn.Module]] = {
    "torchvision": _of_torchvision,
    "timm": _of_timm,
    "transformers": _of_transformers,
}


def _unknown(name: str, known: Sequence[str], listing: str) -> ValueError:
    near = difflib.get_close_matches(name, known)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    return ValueError(f"unknown network '{name}'{hint} `{listing}` has all {len(known)}")


def _imported(name: str) -> ModuleType:
    """Import a library that imports torchvision in its turn, where that is installed."""
    if importlib.util.find_spec(name) is None:
        raise ValueError(f"{name} is not installed; `pip install 'expunge[vision]'`")
    if importlib.util.find_spec("torchvision") is not None:
        torchvision()
    return importlib.import_module(name)


def _rechannel(network: nn.Module, channels: int) -> None:
    """Have the first convolution take so many channels; a new one is drawn as PyTorch does."""
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            if layer.in_channels != channels:
                fitting = nn.Conv2d(
                    channels,
                    layer.out_channels,
                    layer.kernel_size,  # pyright: ignore[reportArgumentType] a pair of sides
                    layer.stride,  # pyright: ignore[reportArgumentType]
                    layer.padding,  # pyright: ignore[reportArgumentType]
                    bias=layer.bias is not None,
                )
                network.set_submodule(name, fitting)
            return


def _checksum(file: Path) -> str:
    """Return the SHA-256 of a file of weights; an error where it cannot be one."""
    if file.suffix != ".safetensors":
        raise ValueError(
            "expected weights as None, 'default' or the path of a .safetensors file, got "
            f"'{file}'; a .pth or .bin file is a pickle, which may run code when it is read: where "
            "you trust it, convert it once by "
            "`safetensors.torch.save_file(torch.load(path, weights_only=True), 'x.safetensors')`"
        )
    if not file.is_file():
        raise ValueError(f"there are no weights at {file}; give the path of a safetensors file")
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _load(network: nn.Module, file: Path) -> None:
    try:
        found = load_file(file)
    except SafetensorError as error:
        raise ValueError(
            f"{file} is not a safetensors file ({error}); save a state dict with "
            "`safetensors.torch.save_file`"
        ) from None
    # A checkpoint of this adapter has the library's names with one in front.
    _fit(network, {name.removeprefix("network."): part for name, part in found.items()}, str(file))


def _fit(network: nn.Module, found: Mapping[str, Tensor], where: str) -> None:
    """Load what fits by name and shape, and log what does not."""
    state = network.state_dict()
    fits = {k: v for k, v in found.items() if k in state and state[k].shape == v.shape}
    if not fits:
        raise ValueError(
            f"nothing in {where} fits: it has {', '.join(list(found)[:3])}..., the network has "
            f"{', '.join(list(state)[:3])}...; they are of other architectures, or named otherwise"
        )
    Start(digest=where, tensors=fits).load(network)
    left = [name for name in state if name not in fits]
    if left:
        _tell(f"not in {where}, and so as drawn at random: {', '.join(left)}")


@cache
def _tell(message: str) -> None:
    """Log once what would otherwise be logged for every control that is trained."""
    log.warning(message)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
