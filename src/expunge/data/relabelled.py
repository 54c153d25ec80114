"""Records with other answers than their own: what a noisy labeller says of them."""

import torch
from jaxtyping import Int, Num
from torch import Tensor

from expunge.types import Batch, Data


class Relabelled(Data):
    """The records of another data set, answered anew.

    Attributes:
        data: Whose records they are.
    """

    def __init__(self, data: Data, y: Num[Tensor, "n *answer"]) -> None:
        """Keep both.

        Raises:
            ValueError: When there are not as many answers as records.
        """
        if len(y) != len(data):
            raise ValueError(f"expected {len(data)} answers, one per record, got {len(y)}")
        self.data = data
        self._y = y.to(data.y.device)
        self.index = data.index

    @property
    def y(self) -> Num[Tensor, "n *answer"]:
        return self._y

    def read(self, rows: Int[Tensor, " k"]) -> Batch:
        return self.data.read(rows)._replace(y=self._y[rows.to(self._y.device)])

    def select(self, rows: Int[Tensor, " k"]) -> "Relabelled":
        return Relabelled(self.data.select(rows), self._y[rows.to(self._y.device)])

    def join(self, other: Data) -> Data:
        records = other.data if isinstance(other, Relabelled) else other
        return Relabelled(self.data.join(records), torch.cat([self._y, other.y.to(self._y.device)]))

    def to(self, device: str) -> "Relabelled":
        return Relabelled(self.data.to(device), self._y.to(device))
