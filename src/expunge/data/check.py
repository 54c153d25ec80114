"""Look the records over before any work is done on them."""

import torch
from torch import Tensor

from expunge.core.losses import PADDING
from expunge.pool import Pool
from expunge.types import Data, Sets, Task


def checked(sets: Sets, task: Task) -> Sets:
    """Return `sets` once every record is fit for `task`.

    Raises:
        ValueError: When a part is empty; a number is not finite; records differ in shape; a
            label is out of range; planted records are among the training records; or the
            classes are not as many as the model's outputs.
    """
    parts = {"training": sets.train, "test": sets.test}
    if sets.planted is not None:
        parts["planted"] = sets.planted
    for name, data in parts.items():
        if not len(data):
            raise ValueError(f"the {name} set is empty; give at least one record")
    if sets.train.shape != sets.test.shape:
        raise ValueError(
            f"training records have shape {sets.train.shape}, test records {sets.test.shape}; "
            "prepare both alike"
        )
    for name, data in parts.items():
        _finite(name, data)
        _in_range(name, data.y, task.outputs)
    if sets.unseen is not None:
        _finite("withheld", sets.unseen)
    if sets.planted is not None:
        _never_trained_on(sets.train, sets.planted)
    if sets.classes and task.outputs and len(sets.classes) != task.outputs:
        some = ", ".join(sets.classes[:3])
        raise ValueError(
            f"the data has {len(sets.classes)} classes ({some}, ...), the model {task.outputs} "
            f"outputs; give the model {len(sets.classes)}, or check that it belongs to this data"
        )
    return sets


def _finite(name: str, data: Data) -> None:
    bad: list[int] = []
    for rows in torch.arange(len(data)).split(1024):
        batch = data.read(rows)
        parts = [*batch.x.values()] if isinstance(batch.x, dict) else [batch.x]
        whole = torch.ones(len(rows), dtype=torch.bool)
        for part in [*parts, batch.y]:
            if part.is_floating_point():
                whole &= part.reshape(len(rows), -1).isfinite().all(1).cpu()
        bad += rows[~whole].tolist()
    if bad:
        raise ValueError(
            f"{len(bad)} of {len(data)} {name} records hold NaN or infinite values "
            f"(first: {', '.join(map(str, bad[:3]))}); drop or fill them"
        )


def _never_trained_on(train: Data, planted: Data) -> None:
    """Refuse held-out records that are trained on, with the same answer."""
    n = len(train)
    content = Pool(train.join(planted)).copies
    both = int(torch.isin(content[n:], content[:n]).sum())
    if both:
        raise ValueError(
            f"{both} of {len(planted)} planted records are among the {n} training records too; "
            "what stands for records never trained on must not be trained on: hold out others"
        )


def _in_range(name: str, y: Tensor, outputs: int) -> None:
    if not outputs:
        return
    if y.is_floating_point():
        raise ValueError(
            f"{name} labels are real numbers ({y.flatten()[:3].tolist()}, ...); expected class "
            f"numbers from 0 to {outputs - 1}"
        )
    bad = y[((y < 0) | (y >= outputs)) & (y != PADDING)]
    if len(bad):
        values = bad.unique().tolist()
        raise ValueError(
            f"{len(bad)} {name} labels are outside 0 to {outputs - 1} "
            f"({', '.join(map(str, values[:3]))}{', ...' if len(values) > 3 else ''}); give the "
            "model more outputs, or number the classes from 0"
        )
