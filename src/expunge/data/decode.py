"""Stored records to tensors: pictures to bytes, texts to counts, words to numbers."""

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

THREADS = 4  # decoding releases the interpreter's lock

Words = Sequence[str]


def picture(stored: Any, side: int = 0, *, grey: bool = False) -> np.ndarray:
    """Decode one image.

    Args:
        stored: A path, the file's bytes, or the hub's dict of either.
        side: Of the square that its centre is brought to, in pixels; 0 leaves it as it is.
        grey: Whether it has one channel or three.

    Returns:
        Bytes of shape `c h w`.

    Raises:
        ValueError: When it is not an image.
    """
    if isinstance(stored, dict):
        stored = stored["path"] if stored.get("bytes") is None else stored["bytes"]
    source = io.BytesIO(stored) if isinstance(stored, bytes) else Path(stored)
    try:
        with Image.open(source) as opened:
            image = opened.convert("L" if grey else "RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot decode an image: {error}; drop or replace that file") from None
    if side and image.size != (side, side):
        image = ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1))


def pictures(
    stored: Iterable[Any], side: int = 0, *, grey: bool = False
) -> UInt8[Tensor, "n c h w"]:
    """Decode images in a few threads.

    Raises:
        ValueError: When one is not an image, or they differ in size.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        decoded = list(pool.map(lambda one: picture(one, side, grey=grey), stored))
    sizes = Counter(image.shape for image in decoded)
    if len(sizes) > 1:
        (most, _), (other, _) = sizes.most_common(2)
        raise ValueError(
            f"expected images of one size, got {most[1]}x{most[2]} and {other[1]}x{other[2]} "
            "pixels among them; set `side` to bring all to one square"
        )
    if not decoded:
        raise ValueError("expected at least one image, got none")
    return torch.from_numpy(np.stack(decoded))


def hashed(texts: Words, features: int) -> Float[Tensor, "n features"]:
    """Count the words of each text in `features` hashed bins, signed, scaled to length 1.

    Nothing is learnt from the texts, so that forgetting one leaves no trace here.
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    counts: Any = HashingVectorizer(n_features=features, norm="l2").transform(texts)
    return torch.from_numpy(counts.astype(np.float32).toarray())


UNKNOWN, END = "<unk>", "<eos>"


def vocabulary(sentences: Words, most: int | None = None) -> list[str]:
    """Return the words in use, the most frequent first, with an unknown and an end mark.

    Args:
        sentences: Words between spaces.
        most: So many words at most; the two marks are always among them.
    """
    counts = Counter(word for sentence in sentences for word in sentence.split())
    counts[END] += len(sentences)
    counts[UNKNOWN] += 0
    words = sorted(counts, key=lambda word: (-counts[word], word))
    if most is None:
        return words
    marks = {END, UNKNOWN}
    kept = marks | {*[word for word in words if word not in marks][: most - len(marks)]}
    return [word for word in words if word in kept]


def windows(
    sentences: Words, words: Words, length: int
) -> tuple[Int[Tensor, "n length"], Int[Tensor, "n length"]]:
    """Number the words of a running text and cut it into questions and the words that follow.

    Raises:
        ValueError: When the text is shorter than one window.
    """
    place = {word: number for number, word in enumerate(words)}
    unknown = place[UNKNOWN]
    text = [place.get(word, unknown) for sentence in sentences for word in (*sentence.split(), END)]
    count = (len(text) - 1) // length
    if count < 1:
        raise ValueError(
            f"expected at least {length + 1} words for windows of length {length}, got {len(text)}"
        )
    tokens = torch.tensor(text[: count * length + 1])
    return tokens[:-1].view(count, length), tokens[1:].clone().view(count, length)


class Coded(NamedTuple):
    """Labels as class numbers.

    Attributes:
        rows: Positions of the records that have exactly one known label.
        y: Their class numbers.
    """

    rows: Int[Tensor, " n"]
    y: Int[Tensor, " n"]


def coded(
    train: Sequence[Any], test: Sequence[Any], names: Words = (), frequent: int | None = None
) -> tuple[Coded, Coded, tuple[str, ...]]:
    """Number the classes, in their order.

    Args:
        train: Labels: numbers where `names` says what they mean, else anything sortable. Records
            with several labels come as lists; those with one alone are kept.
        test: Likewise; records of classes that `train` lacks are dropped.
        names: Of the classes, where known.
        frequent: How many classes to keep, those with the most training records; None: all.

    Returns:
        Training labels, test labels, and the classes' names.

    Raises:
        ValueError: When there are fewer classes than are to be kept.
    """
    classes: list[Any] = list(range(len(names))) if names else sorted({*map(_only, train)} - {None})
    if frequent is not None:
        if frequent > len(classes):
            raise ValueError(
                f"expected to keep at most the {len(classes)} classes there are, got "
                f"frequent={frequent}; keep fewer, or leave it out"
            )
        often = Counter(map(_only, train))
        classes = sorted(sorted(classes, key=lambda label: -often[label])[:frequent])
    place = {label: number for number, label in enumerate(classes)}
    both = []
    for labels in (train, test):
        numbers = [place.get(_only(label), -1) for label in labels]
        y = torch.tensor(numbers, dtype=torch.long)
        rows = (y >= 0).nonzero()[:, 0]
        both.append(Coded(rows, y[rows]))
    return both[0], both[1], tuple(str(names[k] if names else k) for k in classes)


def _only(label: Any) -> Any:
    """Return the label; of several, None."""
    if isinstance(label, list | tuple):
        return label[0] if len(label) == 1 else None
    return label
