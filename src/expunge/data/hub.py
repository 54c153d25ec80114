"""Where a named data set's rows come from: a folder of parquet files, or the hub."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from expunge.config import key
from expunge.data.cache import content
from expunge.data.card import SourceCard

BATCH = 1000  # rows read at a time


class Place(NamedTuple):
    """Where the rows are.

    Attributes:
        files: By split; empty where they are to come from the hub.
        digest: Of their content; from the hub, of their address.
    """

    files: dict[str, list[Path]]
    digest: str


def place(card: SourceCard, root: str | None) -> Place:
    """Look for `<root>/<folder>/<split>-*.parquet`, then under EXPUNGE_DATA, then on the hub.

    Raises:
        ValueError: When a folder was given and lacks the set, or the set is in no folder and
            not on the hub.
    """
    splits, folder = (card.train, *card.test), card.folder or card.name
    for base in (root, os.environ.get("EXPUNGE_DATA")):
        if not base:
            continue
        here = Path(base).expanduser() / folder
        files = {split: sorted(here.glob(f"{split}-*.parquet")) for split in splits}
        missing = [split for split, found in files.items() if not found]
        if not missing:
            return Place(files, content([file for found in files.values() for file in found]))
        if base == root or here.exists():
            raise ValueError(
                f"no {card.name} under {base}: expected {here / missing[0]}-*.parquet; give the "
                "folder that holds it, or none to download it"
            )
    if not card.hub:
        raise ValueError(
            f"{card.name} is not on the hub; set EXPUNGE_DATA, or `root`, to the folder that "
            f"holds {folder}/{card.train}-*.parquet"
        )
    return Place({}, key([card.hub, card.config, card.revision]))


class Rows:
    """The rows of one or more splits, one after the other, undecoded."""

    def __init__(self, splits: Sequence[Any], images: Sequence[str] = ()) -> None:
        from datasets import Image

        self.features = splits[0].features
        self._splits = splits
        for name in images:
            self._splits = [s.cast_column(name, Image(decode=False)) for s in self._splits]

    def column(self, name: str) -> list[Any]:
        """Return one column, whole."""
        return [value for chunk in self.chunks((name,)) for value in chunk[name]]

    def chunks(self, names: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
        """Yield some columns, a thousand rows at a time."""
        for split in self._splits:
            yield from split.select_columns(list(names)).iter(BATCH)

    def names(self, column: str) -> tuple[str, ...]:
        """Return the names that a column of class numbers stands for; none where it is not one."""
        return tuple(getattr(self.features[column], "names", None) or ())


def rows(card: SourceCard, where: Place, columns: Sequence[str]) -> tuple[Rows, Rows | None]:
    """Open the training rows and, where there are any, the held-out ones.

    Raises:
        ValueError: When the hub does not answer, or a column is missing.
    """
    images = card.x if card.kind == "images" else ()
    found = _opened(where.files) if where.files else _downloaded(card)
    missing = [c for c in columns if c not in found[card.train].features]
    if missing:
        raise ValueError(
            f"{card.name} has columns {', '.join(found[card.train].features)}, "
            f"expected {', '.join(missing)} too; the files are of another data set or version"
        )
    test = [found[split] for split in card.test]
    return Rows([found[card.train]], images), Rows(test, images) if test else None


def _opened(files: Mapping[str, Sequence[Path]]) -> Any:
    from datasets import load_dataset

    names = {split: [str(file) for file in found] for split, found in files.items()}
    # Streaming reads the files where they lie; otherwise they would be copied first.
    return load_dataset("parquet", data_files=names, streaming=True)


def _downloaded(card: SourceCard) -> Any:
    import httpx
    from datasets import load_dataset

    # The converted branch has a folder for each configuration, and no configurations.
    name, data_dir = (None, card.config) if card.revision else (card.config, None)
    try:
        return load_dataset(card.hub, name, data_dir=data_dir, revision=card.revision)
    except (OSError, ValueError, httpx.HTTPError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        folder = card.folder or card.name
        raise ValueError(
            f"cannot get {card.name} ({card.hub}) from the hub: {first}. Connect to the network, "
            f"or set EXPUNGE_DATA to a folder with {folder}/{card.train}-*.parquet"
        ) from None
