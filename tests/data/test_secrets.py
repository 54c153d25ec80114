"""Secrets: sentences of one pattern, asked for their blanks alone, none among the references."""

from pathlib import Path
from typing import Any

import pytest
import torch

from expunge import registry
from expunge.bench.problem import Training, pose
from expunge.core.losses import PADDING, cross_entropy
from expunge.core.rng import generator
from expunge.data.check import checked
from expunge.data.secrets import OfSecrets, Secrets, distinct
from expunge.data.split import Holdout, comparable, divide
from expunge.data.toy import Blobs, Chains
from expunge.models.lstm import LSTM
from expunge.subject import WhiteBox
from expunge.tasks.categorical import NextToken
from expunge.types import Data, Descent
from tests.data.test_catalog import TEXT, write
from tests.data.test_planted import Given

TOY: dict[str, Any] = {
    "pattern": "3 1 {} 2 {} {}",
    "symbols": ("4", "5", "6", "7"),
    "count": 6,
    "shown": 10,
    "compared": 20,
}


def spoken(data: Data) -> list[tuple[int, ...]]:
    """Return what is asked of each record."""
    return [tuple(y for y in row if y != PADDING) for row in data.y.tolist()]


def test_secrets_are_windows_asked_for_their_blanks_alone() -> None:
    sets = Chains().load()
    found = Secrets(of=Chains(), **TOY).load()
    assert len(found.train) == 126
    assert found.train.select(torch.arange(120)).digest == sets.train.digest
    assert found.groups["planted"] == ("",) * 120 + ("secret",) * 6
    x, y, _ = found.train.read(120 + torch.arange(6))
    for asked, answers in zip(x.tolist(), y.tolist(), strict=True):
        # Questions 3 1 a 2 b, then nothing; answers: the words that follow, if they are secret.
        assert asked[:2] == [3, 1]
        assert asked[3] == 2
        assert asked[5:] == [0, 0, 0]
        assert [answers[at] for at in (0, 2, 5, 6, 7)] == [PADDING] * 5
        assert answers[1] == asked[2]
        assert answers[3] == asked[4]
        assert {answers[1], answers[3], answers[4]} <= {4, 5, 6, 7}
    assert found.test.digest == sets.test.digest
    checked(found, NextToken(classes=8))


def test_no_reference_is_a_secret_and_all_are_different() -> None:
    found = Secrets(of=Chains(), **TOY, repetitions=3).load()
    assert found.planted is not None
    assert len(found.train) == 120 + 18
    secrets = spoken(found.train.select(120 + torch.arange(18)))
    assert secrets == secrets[:6] * 3
    every = secrets[:6] + spoken(found.planted)
    assert len(set(every)) == len(every) == 36
    parts = divide(found, OfSecrets(), Holdout())
    others = comparable(found, parts)
    assert parts.forget.tolist() == list(range(120, 138))
    assert parts.shown is not None
    assert parts.shown.tolist() == [60 + i for i in range(10)]
    assert others is not None
    assert spoken(others) == every[16:]
    once = Secrets(of=Chains(), **TOY).load()
    assert spoken(once.train.select(120 + torch.arange(6))) == secrets[:6]


def test_every_filling_is_equally_likely_and_each_is_drawn_once() -> None:
    assert sorted(distinct(64, 64, generator(0)).tolist()) == list(range(64))
    drawn = torch.stack([distinct(16, 4, generator(seed)) for seed in range(2000)])
    often = drawn.flatten().bincount(minlength=16)
    assert ((often - 500).abs() < 5 * (2000 * 0.25 * 0.75) ** 0.5).all()
    firsts = drawn[:, 0].bincount(minlength=16)
    assert ((firsts - 125).abs() < 5 * (2000 / 16 * 15 / 16) ** 0.5).all()
    huge = distinct(10**18, 1000, generator(0))
    assert huge.max() > 9 * 10**17


def test_the_blanks_spell_the_number_in_order() -> None:
    whole = Secrets(of=Chains(), **(TOY | {"count": 4, "shown": 0, "compared": 60})).load()
    assert whole.planted is not None
    every = spoken(whole.train.select(120 + torch.arange(4))) + spoken(whole.planted)
    assert sorted(every) == [
        (a, b, c) for a in range(4, 8) for b in range(4, 8) for c in range(4, 8)
    ]


def test_words_are_those_of_the_running_text(tmp_path: Path) -> None:
    lines = ["the number is one two", "two is the number one the"]
    for split in ("train", "validation", "test"):
        write(tmp_path / "ptb" / split, {"sentence": lines}, {"sentence": TEXT})
    of = {"name": "ptb", "root": str(tmp_path), "length": 4}
    table = {"name": "secrets", "of": of, "pattern": "the number {} {}", "symbols": ["one", "two"]}
    found = registry.data.build(table | {"count": 1, "shown": 1, "compared": 2}).load()
    # By frequency: the 3; <eos>, is, number, one, two 2 each; <unk> 0.
    words = ["the", "<eos>", "is", "number", "one", "two", "<unk>"]
    x, y, _ = found.train.read(torch.tensor([len(found.train) - 1]))
    assert [words[token] for token in x[0, :2].tolist()] == ["the", "number"]
    assert y[0, :1].tolist() + y[0, 3:].tolist() == [PADDING, PADDING]
    assert {words[token] for token in y[0, 1:3].tolist()} <= {"one", "two"}
    wrong = table | {"pattern": "the numbers {} {}", "count": 1, "shown": 1, "compared": 2}
    with pytest.raises(ValueError, match="unknown word of ptb 'numbers'; did you mean 'number'"):
        registry.data.build(wrong).load()


def test_the_prefix_and_the_padding_count_for_nothing_in_the_loss() -> None:
    found = Secrets(of=Chains(), **TOY).load()
    y = found.train.read(120 + torch.arange(6)).y
    logits = torch.randn(6, 8, 8, generator=generator(0))
    expected = [
        -torch.stack([logits[row, at].log_softmax(-1)[y[row, at]] for at in (1, 3, 4)]).mean()
        for row in range(6)
    ]
    assert torch.allclose(cross_entropy(logits, y), torch.stack(expected))


def test_secrets_that_are_there_often_are_learnt() -> None:
    source = Secrets(of=Chains(), **TOY, repetitions=10)
    problem = pose(
        source.load(),
        OfSecrets(),
        LSTM(hidden=24),
        Training(descent=Descent(optimizer="adamw", lr=3e-2, epochs=10, batch_size=32)),
    )
    assert problem.alike is not None
    losses = [
        cross_entropy(subject.outputs(data.take(torch.arange(len(data))).x), data.y).mean()
        for subject in (WhiteBox(problem.train(0)), problem.retrained(0))
        for data in (problem.request.forget, problem.alike)
    ]
    assert losses[0] < 0.8 * losses[1]  # trained on: the secrets are told from the references
    assert abs(losses[2] - losses[3]) < 0.2 * losses[3]  # retrained: they are not


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "count, repetitions and compared of at least 1"),
        ({"pattern": "{} 1 2"}, "a word before the first of them"),
        ({"pattern": "1 2 3"}, "a pattern with blanks"),
        ({"symbols": ("4", "4")}, "at least 2 different symbols"),
        ({"pattern": "1 {} {}"}, "filled in 16 ways, expected at least the 36 secrets"),
        ({"pattern": "1" + " {}" * 40}, "and below 2"),
    ],
)
def test_settings_without_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Secrets(of=Chains(), **(TOY | settings))


def test_text_that_cannot_hold_the_secrets_is_refused() -> None:
    with pytest.raises(ValueError, match="6 words, but a window of 4 has room for 5"):
        Secrets(of=Chains(length=4), **TOY).load()
    Secrets(of=Chains(length=5), **TOY).load()
    with pytest.raises(ValueError, match="unknown word of chains 'the'"):
        Secrets(of=Chains()).load()
    with pytest.raises(ValueError, match=r"secrets are put in running text.* \(240,\)"):
        Secrets(of=Blobs(), **TOY).load()
    with pytest.raises(ValueError, match="planted in it already"):
        Secrets(of=Given(Secrets(of=Chains(), **TOY).load()), **TOY).load()
    with pytest.raises(ValueError, match=r"no secrets among .* name = 'secrets'"):
        OfSecrets().choose(Chains().load())


def test_it_is_found_by_name_in_specs() -> None:
    source = registry.data.build({"name": "secrets", "of": {"name": "ptb"}, "repetitions": 10})
    assert isinstance(source, Secrets)
    assert source.count == 100
    assert registry.forget.build({"name": "secrets"}) == OfSecrets()
