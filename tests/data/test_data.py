"""Whole or streamed, data answers alike."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, Dataset, TensorDataset

from expunge import api
from expunge.core.view import View
from expunge.data.objects import from_dataset
from expunge.data.streams import StreamData
from expunge.data.tensors import TensorData
from expunge.types import Data, each


class Records(Dataset):
    """Plain pairs, without any list of answers; counts what is read."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.y, self.reads = x, y, 0

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        self.reads += 1
        return self.x[row], int(self.y[row])


@pytest.fixture(params=["whole", "stream", "view"])
def data(request: pytest.FixtureRequest, images: TensorData) -> Data:
    assert isinstance(images.x, torch.Tensor)
    if request.param == "view":
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
        return View(images.select(order), order.argsort())
    return images if request.param == "whole" else StreamData(Records(images.x, images.y))


def same(a: Data, b: Data) -> bool:
    rows = torch.arange(len(a))
    left, right = a.read(rows), b.read(rows)
    return torch.equal(left.x, right.x) and torch.equal(left.y, right.y)


def test_selecting_twice_is_selecting_once(data: Data) -> None:
    first, second = torch.tensor([3, 1, 40, 7]), torch.tensor([2, 0])
    twice = data.select(first).select(second)
    once = data.select(first[second])
    assert same(twice, once)
    assert twice.index.tolist() == once.index.tolist() == [40, 3]
    assert twice.y.tolist() == data.y[[40, 3]].tolist()


def test_joining_the_halves_of_a_cut_gives_the_whole(data: Data) -> None:
    rows = torch.arange(50)
    joined = data.select(rows[:20]).join(data.select(rows[20:]))
    assert joined.digest == data.digest
    assert joined.index.tolist() == list(range(50))
    assert torch.equal(joined.y, data.y)


def test_joining_other_records_reads_both(data: Data) -> None:
    x = torch.zeros(2, 3, 6, 5, dtype=torch.uint8)
    other = TensorData(x, torch.tensor([1, 2]))
    if isinstance(data, StreamData):
        other = StreamData(Records(x, torch.tensor([1, 2])))
    joined = data.select(torch.tensor([5])).join(other.select(torch.tensor([1])))
    assert joined.y.tolist() == [1, 2]
    assert joined.take(torch.tensor([1])).x.sum() == 0
    assert (
        joined.join(data).select(torch.tensor([2])).digest == data.select(torch.tensor([0])).digest
    )


def test_streams_are_wrapped_once_however_often_they_are_cut_and_joined(
    images: TensorData,
) -> None:
    a = StreamData(Records(images.x, images.y))
    b = StreamData(Records(images.x, images.y))
    for _ in range(5):
        a = a.select(torch.arange(10)).join(b.select(torch.arange(3)))
    assert isinstance(a.records, ConcatDataset)
    assert not any(isinstance(part, ConcatDataset) for part in a.records.datasets)


def test_every_batch_is_the_same_whole_or_streamed(images: TensorData) -> None:
    stream = StreamData(Records(images.x, images.y))
    seeds = [torch.Generator().manual_seed(3) for _ in range(2)]
    for left, right in zip(images.batches(7, seeds[0]), stream.batches(7, seeds[1]), strict=True):
        assert torch.equal(left.x, right.x)
        assert torch.equal(left.y, right.y)
        assert torch.equal(left.index, right.index)


def test_digest_depends_on_content_alone(data: Data, images: TensorData) -> None:
    assert data.digest == images.digest
    assert data.select(torch.arange(50)).digest == images.digest
    assert data.select(torch.arange(49)).digest != images.digest
    assert data.select(torch.arange(50).flip(0)).digest != images.digest
    assert TensorData(images.x, images.y + 1).digest != images.digest


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 600), st.integers(1, 5))
def test_digest_is_equal_for_any_length_and_width(n: int, width: int) -> None:
    x = torch.arange(n * width, dtype=torch.float32).view(n, width)
    y = torch.arange(n) % 3
    assert TensorData(x, y).digest == StreamData(Records(x, y)).digest


def test_dicts_of_tensors_are_read_selected_and_joined() -> None:
    x = {"a": torch.arange(6.0).view(6, 1), "b": torch.arange(12).view(6, 2)}
    y = torch.arange(6)
    whole = TensorData(x, y)
    pairs: Any = [(each(x, lambda t, i=i: t[i]), int(y[i])) for i in range(6)]
    stream = StreamData(pairs)
    assert whole.digest == stream.digest
    for data in (whole, stream):
        part = data.select(torch.tensor([4, 2])).join(data.select(torch.tensor([0])))
        taken = part.take(torch.arange(3)).x
        assert isinstance(taken, dict)
        assert taken["b"].tolist() == [[8, 9], [4, 5], [0, 1]]
        assert data.shape == ()


def test_a_stream_reads_its_answers_once_and_holds_no_x(images: TensorData) -> None:
    records = Records(images.x, images.y)
    stream = StreamData(records)
    half = stream.select(torch.arange(25))
    assert torch.equal(stream.y, images.y)
    assert torch.equal(half.y, images.y[:25])
    assert torch.equal(half.select(torch.tensor([3])).y, images.y[3:4])
    assert records.reads == 50


def test_listed_answers_spare_the_reading(images: TensorData) -> None:
    records = Records(images.x, images.y)
    records.targets = images.y.tolist()
    assert torch.equal(StreamData(records).y, images.y)
    assert records.reads == 3


@pytest.mark.parametrize(
    "listed", [[0] * 50, ["name"] * 50, [[1], [1, 2]] * 25, torch.zeros(50, dtype=torch.int32)]
)
def test_listed_answers_that_differ_from_the_records_are_not_believed(
    images: TensorData, listed: Any
) -> None:
    records = Records(images.x, images.y)
    records.targets = listed
    assert torch.equal(StreamData(records).y, images.y)


def test_pytorch_data_sets_need_no_adapter(images: TensorData) -> None:
    assert StreamData(TensorDataset(images.x, images.y)).digest == images.digest


def test_hub_data_sets_are_read_by_the_batch(images: TensorData) -> None:
    import datasets

    from expunge.data.streams import HubRows

    rows = datasets.Dataset.from_dict({"x": [[1.0, 2.0], [3.0, 4.0]], "y": [1, 0]})
    stream = StreamData(HubRows(rows, "x", "y"))
    assert stream.take(torch.tensor([1])).x.tolist() == [[3.0, 4.0]]
    assert stream.y.tolist() == [1, 0]


def test_pictures_become_bytes_channels_first(images: TensorData) -> None:
    from PIL import Image

    pixels = images.x[0].permute(1, 2, 0).numpy()
    pairs: Any = [(Image.fromarray(pixels), 1), (Image.fromarray(pixels[:, :, 0]), 0)]
    assert torch.equal(StreamData(pairs[:1]).read(torch.tensor([0])).x[0], images.x[0])
    assert torch.equal(StreamData(pairs[1:]).read(torch.tensor([0])).x[0], images.x[0, :1])


def test_a_model_sees_pixels_between_0_and_1(data: Data) -> None:
    taken, read = data.take(torch.tensor([3])).x, data.read(torch.tensor([3])).x
    assert read.dtype == torch.uint8
    assert torch.equal(taken, read.float() / 255)


def test_no_records_still_have_a_shape(data: Data) -> None:
    empty = data.select(torch.empty(0, dtype=torch.long))
    assert len(empty) == 0
    assert empty.shape == (3, 6, 5)
    assert empty.y.shape == (0,)
    assert len(empty.digest) == 64


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["ant", np.str_("ant"), np.array("ant", object)], ids=repr)
def test_classes_by_name_are_refused_with_where_names_go(name: Any, *, stream: bool) -> None:
    pairs = [(torch.zeros(2), name)] * 4
    message = "got .*ant.* number the classes from 0 and give their names, .* as `classes` of"
    with pytest.raises(ValueError, match=message):
        api.problem(from_dataset(pairs, stream=stream), "linear", ["0"])
    if not stream:
        with pytest.raises(ValueError, match=message):
            api.problem(pairs, "linear", ["0"])
    numbered = from_dataset([(x, 0) for x, _ in pairs], classes=("ant",), stream=stream)
    assert numbered.classes == ("ant",)


def test_texts_are_refused_and_other_mistakes_left_as_they_are() -> None:
    for text in ("some words", ["some", "words"], np.array(["some", "words"])):
        with pytest.raises(ValueError, match="where it is a text, give the numbers of its tokens"):
            StreamData([(text, 0)]).read(torch.tensor([0]))
    with pytest.raises(ValueError, match="expected sequence of length"):
        StreamData([([[1, 2], [3]], 0)]).read(torch.tensor([0]))


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="expected as many rows in x as the 2 answers in y, got 3"):
        TensorData(torch.zeros(3, 1), torch.zeros(2))
