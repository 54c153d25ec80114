"""Withheld classes: nobody is trained on them, and the others are numbered without gaps."""

from dataclasses import dataclass

import pytest
import torch

from expunge import registry
from expunge.bench.problem import Training, pose
from expunge.data.card import SourceCard
from expunge.data.forget import OfClass
from expunge.data.planted import Planted
from expunge.data.streams import StreamData
from expunge.data.toy import Blobs, Chains
from expunge.data.withheld import Withheld
from expunge.models.mlp import MLP
from expunge.types import Descent, Source, fingerprints

BLOBS = Blobs(classes=6, train=60)


def content(data):
    return [name for x, _, _ in data.batches(64) for name in fingerprints(x)]


def classes_of(sets, data, names):
    """Return the class of each record by its name in the whole data set, told by content."""
    whole = {}
    for part in (sets.train, sets.test):
        for name, y in zip(content(part), part.y.tolist(), strict=True):
            whole[name] = sets.classes[y]
    return [whole[name] for name in content(data)], [names[y] for y in data.y.tolist()]


def test_every_record_keeps_its_class_under_its_new_number():
    whole = BLOBS.load()
    sets = Withheld(of=BLOBS, classes=("blob 4", 1)).load()
    assert sets.classes == ("blob 0", "blob 2", "blob 3", "blob 5")
    for data, names in (
        (sets.train, sets.classes),
        (sets.test, sets.classes),
        (sets.unseen, ("blob 4", "blob 1")),
    ):
        truth, told = classes_of(whole, data, names)
        assert truth == told
        assert sorted(set(data.y.tolist())) == list(range(len(names)))
        assert torch.equal(data.index, torch.arange(len(data)))


def test_all_records_are_somewhere_and_none_is_twice():
    whole, sets = BLOBS.load(), Withheld(of=BLOBS, classes=(1, 4)).load()
    every = content(whole.train) + content(whole.test)
    parts = content(sets.train) + content(sets.test) + content(sets.unseen)
    assert sorted(parts) == sorted(every)
    assert not set(content(sets.unseen)) & set(content(sets.train) + content(sets.test))
    assert len(sets.unseen) == 2 * (60 + 30) // 6


@dataclass(frozen=True, kw_only=True)
class Streamed(Source):
    """The same records, read one by one."""

    card = SourceCard(name="streamed")

    def load(self):
        whole = BLOBS.load()
        parts = {}
        for name in ("train", "test"):
            x, y, _ = getattr(whole, name).take(torch.arange(len(getattr(whole, name))))
            parts[name] = StreamData([*zip(x, y.tolist(), strict=True)])
        return whole._replace(**parts)


def test_classes_of_streams_are_withheld_alike():
    streamed, whole = (Withheld(of=of, classes=(4, 1)).load() for of in (Streamed(), BLOBS))
    for name in ("train", "test", "unseen"):
        one, other = getattr(streamed, name), getattr(whole, name)
        assert content(one) == content(other)
        assert one.y.tolist() == other.y.tolist()
        assert one.take(torch.arange(3)).y.tolist() == other.y[:3].tolist()
    joined = streamed.train.join(streamed.test)  # as the pool of shadow models has it
    assert joined.y.tolist() == whole.train.y.tolist() + whole.test.y.tolist()
    assert content(joined) == content(whole.train) + content(whole.test)


def test_a_problem_has_outputs_for_the_trained_classes_alone():
    source = Withheld(of=BLOBS, classes=(0, 1))
    problem = pose(
        source.load(),
        OfClass(classes=("blob 3",)),
        MLP(hidden=(4,)),
        Training(descent=Descent(epochs=1)),
        source=source,
    )
    assert problem.recipe.task.outputs == 4
    assert set(problem.request.forget.y.tolist()) == {1}
    unseen = content(problem.sets.unseen)
    shown = problem.request
    for data in (shown.retain, shown.forget, shown.val, shown.nonmembers, problem.pool.data):
        assert not set(unseen) & set(content(data))
    assert problem.digests["unseen"] == problem.sets.unseen.digest
    plain = pose(BLOBS.load(), OfClass(classes=(3,)), MLP(), Training())
    assert "unseen" not in plain.digests


def test_infinite_withheld_records_are_refused():
    sets = Withheld(of=BLOBS, classes=(0,)).load()
    sets.unseen.x[3, 2] = torch.inf
    with pytest.raises(ValueError, match="1 of 15 withheld records"):
        pose(sets, OfClass(classes=(3,)), MLP(), Training())


def test_what_cannot_be_withheld_is_refused():
    with pytest.raises(ValueError, match="at least one class"):
        Withheld(of=BLOBS, classes=())
    with pytest.raises(ValueError, match="each class to withhold once"):
        Withheld(of=BLOBS, classes=("blob 1", 1)).load()
    with pytest.raises(ValueError, match="leaves 1 to train on"):
        Withheld(of=BLOBS, classes=(0, 1, 2, 3, 4)).load()
    with pytest.raises(ValueError, match="did you mean 'blob 1'"):
        Withheld(of=BLOBS, classes=("blob1",)).load()
    with pytest.raises(ValueError, match="no classes to withhold"):
        Withheld(of=Chains(), classes=(0,)).load()
    planted = Planted(of=BLOBS, canaries=4)
    with pytest.raises(ValueError, match="has planted records already"):
        Withheld(of=planted, classes=(0,)).load()
    with pytest.raises(ValueError, match="has withheld classes already"):
        Withheld(of=Withheld(of=BLOBS, classes=(0,)), classes=(0,)).load()


def test_records_can_be_planted_in_what_is_left():
    sets = Planted(of=Withheld(of=BLOBS, classes=(0, 1)), canaries=4).load()
    assert len(sets.planted) == 4
    assert len(sets.unseen) == 30


def test_a_spec_names_it():
    table = {"name": "withheld", "of": {"name": "digits"}, "classes": [7, 8, 9]}
    assert len(registry.data.build(table).load().classes) == 7
