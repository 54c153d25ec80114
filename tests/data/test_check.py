"""What is wrong with the records is said before any work."""

import pytest
import torch

from expunge.data.check import checked
from expunge.data.tensors import TensorData
from expunge.types import Sets
from tests.data.tiny import Pick


def make(x: torch.Tensor, y: torch.Tensor, classes: tuple[str, ...] = ()) -> Sets:
    fine = TensorData(torch.zeros(4, *x.shape[1:]), torch.arange(4))
    return Sets(TensorData(x, y), fine, classes)


def test_good_records_pass(sets: Sets) -> None:
    assert checked(sets, Pick()) is sets
    padded = make(torch.zeros(3, 2), torch.tensor([0, -100, 3]))
    assert checked(padded, Pick()) is padded


def test_numbers_that_are_none_are_found_wherever_they_are() -> None:
    x = torch.zeros(3000, 2)
    x[2000, 1], x[7, 0], x[2999, 0] = torch.nan, torch.inf, -torch.inf
    bad = make(x, torch.zeros(3000, dtype=torch.long))
    with pytest.raises(ValueError, match=r"3 of 3000 training records .* \(first: 7, 2000, 2999\)"):
        checked(bad, Pick())
    with pytest.raises(ValueError, match="3 of 3000 test records"):
        checked(bad._replace(train=bad.test, test=bad.train), Pick())


def test_labels_out_of_range_are_named_and_counted() -> None:
    bad = make(torch.zeros(4, 2), torch.tensor([0, 4, 9, 4]))
    with pytest.raises(ValueError, match=r"3 training labels are outside 0 to 3 \(4, 9\)"):
        checked(bad, Pick())
    with pytest.raises(ValueError, match=r"1 training labels are outside 0 to 3 \(-1\)"):
        checked(make(torch.zeros(1, 2), torch.tensor([-1])), Pick())
    with pytest.raises(ValueError, match="labels are real numbers"):
        checked(make(torch.zeros(1, 2), torch.tensor([0.5])), Pick())


def test_classes_must_fit_the_head(sets: Sets) -> None:
    with pytest.raises(ValueError, match=r"has 4 classes \(ant, bee, cat, ...\), the model 10"):
        checked(sets, Pick(count=10))


def test_empty_or_uneven_parts_are_refused(sets: Sets) -> None:
    none = torch.empty(0, dtype=torch.long)
    with pytest.raises(ValueError, match="the test set is empty"):
        checked(sets._replace(test=sets.test.select(none)), Pick())
    other = TensorData(torch.zeros(4, 1, 6, 5), torch.arange(4))
    with pytest.raises(ValueError, match=r"shape \(3, 6, 5\), test records \(1, 6, 5\)"):
        checked(sets._replace(test=other), Pick())
