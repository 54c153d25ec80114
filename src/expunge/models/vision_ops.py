"""Torchvision, also where its compiled operators do not load.

Torchvision's networks need none of its compiled operators, but its import describes two of them
to PyTorch and fails where they are missing, as in a build for another version or device of
PyTorch. There, and only there, the two are declared without a body: the networks work, and what
calls an operator, such as a detector, is told that it has no implementation.
"""

import importlib
import importlib.util
from types import ModuleType

from torch.library import Library

OPERATORS = ("nms", "qnms")

_kept: list[Library] = []  # a declaration lives as long as its library does


def torchvision() -> ModuleType:
    """Import torchvision.

    Raises:
        ValueError: Where it is not installed.
    """
    if importlib.util.find_spec("torchvision") is None:
        raise ValueError("torchvision is not installed; `pip install 'expunge[vision]'`")
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    library = Library("torchvision", "DEF")
    for name in OPERATORS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)
    return importlib.import_module("torchvision")
