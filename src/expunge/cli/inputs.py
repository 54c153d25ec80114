"""What `unlearn` and `audit` ask alike: the records, the network, what to forget."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from expunge.cli.flags import MaybePath, Switch

if TYPE_CHECKING:
    from expunge.bench.problem import Problem


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Your records, your network, and which records are to be forgotten.

    Attributes:
        data: A data set's name, a .npz, .csv or .parquet file, a folder of images, or
            `package.module:name` of your own; settings follow after commas, as in
            `people.csv,label=income`. Its held-out records were never trained on.
        model: An architecture and its settings, as in `resnet,width=16`, or
            `imported,target=package.module:name`.
        forget: A file with one record id a line, or a choice such as `random,count=100`
            or `class,classes=["cat"]`.
        lr: Peak learning rate of the original's training, which retraining repeats.
        epochs: Epochs of the original's training.
        batch_size: Batch size of the original's training.
        weight_decay: Weight decay of the original's training.
        schedule: Learning-rate schedule of the original's training.
        crop: Random shift of its images, in pixels.
        flip: Its images were mirrored at random.
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
    schedule: Literal["constant", "cosine", "linear", "onecycle"] = "onecycle"
    crop: int = 0
    flip: Switch = False
    data_root: MaybePath = None
    device: str = "cpu"
    seed: int = 0

    def problem(self) -> "Problem":
        """Load the records and pose the problem.

        Raises:
            ValueError: In one sentence, for what does not fit together.
        """
        from expunge import api
        from expunge.bench.problem import Training
        from expunge.cli import compact
        from expunge.cli.console import spinner
        from expunge.config import build

        look_in(self.data_root)
        names = ("lr", "epochs", "batch_size", "weight_decay", "schedule")
        training = {
            "descent": {name: getattr(self, name) for name in names},
            "augment": {"crop": self.crop, "flip": self.flip},
        }
        with spinner("reading data"):
            return api.problem(
                compact.source(self.data),
                compact.table(self.model),
                compact.chosen(self.forget),
                training=build(Training, training),
                device=self.device,
            )


def look_in(folder: Path | None) -> None:
    """Have data sets looked for in a folder before any download.

    Raises:
        ValueError: When there is no such folder.
    """
    if folder is None:
        return
    if not folder.is_dir():
        raise ValueError(f"--data-root: there is no folder {folder}; check the path")
    os.environ["EXPUNGE_DATA"] = str(folder)
