"""Data sets that come with scikit-learn: real, small, and there without a network."""

from dataclasses import dataclass
from typing import Any

import torch

from expunge.data.card import SourceCard
from expunge.data.strata import hold_out
from expunge.data.tensors import TensorData
from expunge.types import Sets, Source


@dataclass(frozen=True, kw_only=True)
class Digits(Source):
    """Handwritten digits, 1,797 grey images of 8x8 pixels.

    Attributes:
        held: Share held out; large, because non-members come from it.
        seed: Of the draw, which keeps the proportions of the classes.
    """

    card = SourceCard(
        name="digits",
        source="https://archive.ics.uci.edu/dataset/80",
        kind="images",
        note="1,797 handwritten digits, 8x8 grey; CC BY 4.0",
    )

    held: float = 0.445
    seed: int = 0

    def load(self) -> Sets:
        from sklearn.datasets import load_digits

        found: Any = load_digits()
        images = torch.from_numpy(found.images)[:, None]
        pixels = (images * (255 / 16)).round().to(torch.uint8)  # stored as 0 to 16
        whole = TensorData(pixels, torch.from_numpy(found.target).long())
        train, test = hold_out(whole, self.held, self.seed)
        names = tuple(str(digit) for digit in found.target_names)
        return Sets(whole.select(train).renumbered(), whole.select(test).renumbered(), names)


@dataclass(frozen=True, kw_only=True)
class BreastCancer(Source):
    """Breast cancer, 569 tumours of 30 measurements, benign or malignant.

    Measurements are brought to mean 0 and deviation 1 by the training records' statistics, the
    forgotten ones among them: a trace of those that no method can remove, as in practice.

    Attributes:
        held: Share held out.
        seed: Of the draw, which keeps the proportions of the classes.
    """

    card = SourceCard(
        name="breast_cancer",
        source="https://archive.ics.uci.edu/dataset/17",
        kind="features",
        note="569 tumours of 30 measurements; CC BY 4.0",
    )

    held: float = 0.4
    seed: int = 0

    def load(self) -> Sets:
        from sklearn.datasets import load_breast_cancer

        found: Any = load_breast_cancer()
        raw, y = torch.from_numpy(found.data), torch.from_numpy(found.target).long()
        train, test = hold_out(TensorData(raw, y), self.held, self.seed)
        mean, deviation = raw[train].mean(0), raw[train].std(0)
        x = ((raw - mean) / deviation).float()
        names = tuple(str(name) for name in found.target_names)
        return Sets(TensorData(x[train], y[train]), TensorData(x[test], y[test]), names)
