"""What `unlearn` and `audit` ask alike: the records, the network, what to forget."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from expunge.bench.problem import Problem


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Your records, your network, and which records are to be forgotten.

    Attributes:
        data: A data set's name, a .npz, .csv or .parquet file, a folder of images, or
            `package.module:name` of your own; settings follow after commas, as in
            `people.csv,label=income`. Held-out records must never have been trained on.
        model: An architecture and its settings, as in `resnet,width=16`, or
            `imported,target=package.module:name`.
        forget: A file with one record id a line, or a choice such as `random,count=100`
            or `class,classes=["cat"]`.
        lr: Peak learning rate of the original's training, which retraining repeats.
        epochs: Epochs of the original's training.
        batch_size: Batch size of the original's training.
        weight_decay: Weight decay of the original's training.
        schedule: Learning-rate schedule of the original's training.
        crop: Random shift of training images, in pixels.
        flip: Whether training images are mirrored at random.
        data_root: Folder to look for data sets in before any download.
        device: cpu, cuda or mps.
        seed: Of everything random.
    """

    data: str
    model: str
    forget: str
    lr: float = 0.05
    epochs: int = 20
    batch_size: int = 128
    weight_decay: float = 5e-4
    schedule: str = "onecycle"
    crop: int = 0
    flip: bool = False
    data_root: Path | None = None
    device: str = "cpu"
    seed: int = 0

    def problem(self) -> "Problem":
        """Load the records and pose the problem."""
        from expunge import api
        from expunge.bench.problem import Training
        from expunge.cli import compact
        from expunge.config import build

        if self.data_root:
            os.environ["EXPUNGE_DATA"] = str(self.data_root)
        names = ("lr", "epochs", "batch_size", "weight_decay", "schedule")
        training = {
            "descent": {name: getattr(self, name) for name in names},
            "augment": {"crop": self.crop, "flip": self.flip},
        }
        return api.problem(
            compact.source(self.data),
            compact.table(self.model),
            compact.chosen(self.forget),
            training=build(Training, training),
            device=self.device,
        )
