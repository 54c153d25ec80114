"""Some records of a data set, without a copy of them."""

from jaxtyping import Int, Num
from torch import Tensor

from expunge.types import Batch, Data


class View(Data):
    """Rows of another data set, looked up as they are read.

    Shadow models draw dozens of halves from one pool; copies of all would not fit.

    Attributes:
        data: Whose records they are.
        rows: Which of them, in order.
    """

    def __init__(self, data: Data, rows: Int[Tensor, " n"]) -> None:
        self.data, self.rows = data, rows.cpu()
        self.index = data.index[self.rows.to(data.index.device)]

    @property
    def y(self) -> Num[Tensor, "n *answer"]:
        return self.data.y[self.rows.to(self.data.y.device)]

    def read(self, rows: Int[Tensor, " k"]) -> Batch:
        return self.data.read(self.rows[rows.cpu()])

    def select(self, rows: Int[Tensor, " k"]) -> "View":
        return View(self.data, self.rows[rows.cpu()])

    def join(self, other: Data) -> Data:
        return self.data.select(self.rows).join(other)

    def to(self, device: str) -> "View":
        return View(self.data.to(device), self.rows)
