"""Data held whole, on the device: the fast default."""

import torch
from jaxtyping import Int, Num
from torch import Tensor

from expunge.types import Batch, Data, Inputs, each


class TensorData(Data):
    """Records as one tensor, or as a dict of tensors with as many rows.

    Attributes:
        x: What is stored: bytes of images `n c h w`, features, or token ids.
        index: Each record's position in the data set it was first selected from.
    """

    def __init__(
        self,
        x: Inputs,
        y: Num[Tensor, "n *answer"],
        index: Int[Tensor, " n"] | None = None,
    ) -> None:
        """Keep the records; without `index` they number themselves.

        Raises:
            ValueError: When `x` and `y` differ in length.
        """
        parts = x if isinstance(x, dict) else {"x": x}
        for name, part in parts.items():
            if len(part) != len(y):
                raise ValueError(
                    f"expected as many rows in {name} as the {len(y)} answers in y, "
                    f"got {len(part)}; cut both from the same records"
                )
        self.x = x
        self._y = y
        self.index = torch.arange(len(y)) if index is None else index

    @property
    def y(self) -> Num[Tensor, "n *answer"]:
        return self._y

    def read(self, rows: Int[Tensor, " k"]) -> Batch:
        here = rows.to(self.y.device)
        return Batch(each(self.x, lambda t: t[here]), self.y[here], self.index[rows.cpu()])

    def select(self, rows: Int[Tensor, " k"]) -> "TensorData":
        return TensorData(*self.read(rows))

    def join(self, other: Data) -> "TensorData":
        theirs = other.read(torch.arange(len(other)))
        mine, x = self.x, theirs.x
        if isinstance(mine, dict) and isinstance(x, dict):
            joined: Inputs = {name: torch.cat([part, x[name]]) for name, part in mine.items()}
        elif isinstance(mine, Tensor) and isinstance(x, Tensor):
            joined = torch.cat([mine, x])
        else:
            raise ValueError("expected both data sets to hold one tensor or both a dict of tensors")
        return TensorData(joined, torch.cat([self.y, theirs.y]))

    def to(self, device: str) -> "TensorData":
        return TensorData(each(self.x, lambda t: t.to(device)), self.y.to(device), self.index)

    def renumbered(self) -> "TensorData":
        """Return the same records, numbered from 0."""
        return TensorData(self.x, self.y)
