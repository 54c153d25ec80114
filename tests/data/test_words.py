"""Vocabularies: other libraries agree, all is kept by content, and one set speaks another's."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from expunge import registry
from expunge.config import plain
from expunge.data.decode import coded
from expunge.data.named import Texts
from expunge.data.words import Lexicon, learnt
from expunge.types import Sets
from tests.data.test_catalog import TEXT, names, write

TRAIN = [
    "A good film, a GOOD cast.",
    "bad film",
    "the film's cast was bad; the end too",
    "éclair and good tea",
]
TEST = ["A bad tea, a good zebra", "zebra"]
PATTERN = r"\w+|[^\w\s]+"


def by_frequency(texts: list[str], size: int) -> list[str]:
    """Return the words as counting alone has them, after those for padding and unknown words."""
    often = Counter(word for text in texts for word in re.findall(PATTERN, text.lower()))
    return ["", "?", *sorted(often, key=lambda word: (-often[word], word))][:size]


def reviews(root: Path, name: str, train: list[str], test: list[str]) -> None:
    features = {"text": TEXT, "label": names("neg", "pos")}
    for split, texts in (("train", train), ("test", test)):
        labels = [row % 2 for row in range(len(texts))]
        write(root / name / split, {"text": texts, "label": labels}, features)


def load(name: str, **settings: Any) -> Sets:
    return registry.data.build({"name": name, **settings}).load()


def stored(sets: Sets, part: str = "train") -> torch.Tensor:
    data = getattr(sets, part)
    return data.read(torch.arange(len(data))).x


def test_rows_number_the_first_words_by_frequency(tmp_path: Path) -> None:
    reviews(tmp_path, "imdb", TRAIN, TEST)
    sets = load("imdb", root=str(tmp_path), form="tokens", vocabulary=9, length=6)
    words = by_frequency(TRAIN, 9)
    for part, texts in (("train", TRAIN), ("test", TEST)):
        for text, row in zip(texts, stored(sets, part).tolist(), strict=True):
            spoken = re.findall(PATTERN, text.lower())[:6]
            numbers = [words.index(word) if word in words else 1 for word in spoken]
            assert row == numbers + [0] * (6 - len(numbers))
    assert stored(sets).dtype == torch.int64
    assert stored(sets).max() == 8
    assert sets.classes == ("neg", "pos")
    assert sets.train.y.tolist() == [0, 1, 0, 1]


def test_bags_and_weights_are_those_of_scikit_learn(tmp_path: Path) -> None:
    reviews(tmp_path, "imdb", TRAIN, TEST)
    words = by_frequency(TRAIN, 12)[2:]
    shared: dict[str, Any] = {"vocabulary": words, "token_pattern": PATTERN}
    there = CountVectorizer(binary=True, **shared).fit(TRAIN)
    weighted = TfidfVectorizer(**shared).fit(TRAIN)
    bag = load("imdb", root=str(tmp_path), form="bag", vocabulary=12)
    tfidf = load("imdb", root=str(tmp_path), form="tfidf", vocabulary=12)
    for part, texts in (("train", TRAIN), ("test", TEST)):
        expected = torch.tensor(there.transform(texts).toarray()).float()
        seen = getattr(bag, part).take(torch.arange(len(texts))).x
        assert torch.equal(seen[:, 2:], expected)
        assert stored(bag, part).dtype == torch.uint8
        expected = torch.tensor(weighted.transform(texts).toarray()).float()
        assert torch.allclose(stored(tfidf, part)[:, 2:], expected, atol=1e-6)
        assert not stored(tfidf, part)[:, :2].any()
        assert not stored(bag, part)[:, :2].any()
    assert expected[1].sum() == 0  # no word that is known


def test_a_vocabulary_is_the_same_whenever_it_is_learnt() -> None:
    texts = [" ".join(f"w{(7 * i + j) % 83}" for j in range(20)) for i in range(90)]
    first, second = learnt(texts, 50), learnt(texts, 50)
    assert first.notes == second.notes
    assert torch.equal(first.tensors["weight"], second.tensors["weight"])
    lexicon = Lexicon.read(first)
    known = {word: number for number, word in enumerate(by_frequency(texts, 50))}
    expected = [[known.get(word, 1) for word in text.split()] for text in texts]
    assert lexicon.rows(texts, 20).tolist() == expected


def test_many_texts_are_coded_like_one(tmp_path: Path) -> None:
    texts = [f"word{i % 7} word{i % 5} more" for i in range(1200)]
    lexicon = Lexicon.read(learnt(texts, 10))
    for code in (lambda t: lexicon.rows(t, 4), lexicon.bags, lexicon.weighted):
        assert torch.equal(code(texts)[1100:1101], code([texts[1100]]))


def test_texts_may_speak_the_vocabulary_of_others(tmp_path: Path, own_cache: Path) -> None:
    reviews(tmp_path, "imdb", TRAIN, TEST)
    reviews(tmp_path, "customer_reviews", ["good zebra", "a camera"], ["film"])
    root = str(tmp_path)
    films = {"name": "imdb", "root": root}
    form = {"form": "tokens", "vocabulary": 12, "length": 3}
    sets = load("customer_reviews", root=root, words=films, **form)
    words = by_frequency(TRAIN, 12)
    good, a, film = (words.index(word) for word in ("good", "a", "film"))
    assert stored(sets).tolist() == [[good, 1, 0], [a, 1, 0]]
    assert stored(sets, "test").tolist() == [[film, 0, 0]]
    own = load("customer_reviews", root=root, **form)
    assert stored(own).tolist() != stored(sets).tolist()
    others, mine = (
        registry.data.build({"name": name, "root": root, **settings})
        for name, settings in (("imdb", form | {"scale": 0.5}), ("customer_reviews", {}))
    )
    assert isinstance(others, Texts)
    assert isinstance(mine, Texts)
    assert torch.equal(stored(mine.coded_as(others).load()), stored(sets))
    # Other training texts are another vocabulary, though the settings are the same.
    reviews(tmp_path / "new", "imdb", ["camera camera", "zebra"], TEST)
    films = {"name": "imdb", "root": str(tmp_path / "new")}
    assert stored(load("customer_reviews", root=root, words=films, **form)).tolist() == [
        [1, 3, 0],
        [1, 2, 0],
    ]


def test_a_vocabulary_is_kept_and_not_learnt_again(
    tmp_path: Path, own_cache: Path, monkeypatch
) -> None:
    reviews(tmp_path, "imdb", TRAIN, TEST)
    first = load("imdb", root=str(tmp_path), form="tokens", vocabulary=9)
    monkeypatch.setattr("expunge.data.named.learnt", None)  # learning again would call it
    longer = load("imdb", root=str(tmp_path), form="tokens", vocabulary=9, length=300)
    assert torch.equal(stored(longer)[:, :200], stored(first))
    assert len(list((own_cache / "data").glob("imdb-words-*"))) == 1


def test_hashed_texts_have_the_key_they_always_had() -> None:
    source = registry.data.build({"name": "imdb"})
    assert set(plain(source)) == {"name", "version", "scale", "features"}
    tokens = registry.data.build({"name": "imdb", "form": "tokens", "length": 300})
    assert plain(tokens)["length"] == 300


def test_only_the_classes_with_the_most_records_are_kept() -> None:
    train = [["b"], ["c"], ["a"], ["c"], ["b"], ["d"], ["a", "b"], ["c"]]
    mine, theirs, classes = coded(train, [["a"], ["d"], ["c"]], frequent=3)
    assert classes == ("a", "b", "c")  # a and d are as frequent; a comes first
    assert mine.rows.tolist() == [0, 1, 2, 3, 4, 7]
    assert mine.y.tolist() == [1, 2, 0, 2, 1, 2]
    assert (theirs.rows.tolist(), theirs.y.tolist()) == ([0, 2], [0, 2])
    _, theirs, classes = coded([2, 2, 0, 0, 0, 1], [2, 1], ("x", "y", "z"), frequent=2)
    assert classes == ("x", "z")
    assert theirs.y.tolist() == [1]
    with pytest.raises(ValueError, match="at most the 4 classes there are, got frequent=5"):
        coded(train, [], frequent=5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocabulary": 2}, "vocabulary of at least 3, got 4096, 200 and 2"),
        ({"length": 0}, "length of at least 1"),
        ({"frequent": 1}, "at least 2 classes to keep"),
        ({"words": {"name": "cifar10"}}, "texts of the catalog .* got 'cifar10'"),
        ({"form": "token"}, "'hashed', 'tokens', 'bag' or 'tfidf'"),
    ],
)
def test_settings_without_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        registry.data.build({"name": "imdb", **settings})


def test_no_room_for_a_word_is_refused() -> None:
    with pytest.raises(ValueError, match="vocabulary of more than 2"):
        learnt(TRAIN, 2)
