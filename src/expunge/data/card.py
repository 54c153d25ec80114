"""Identity of a data set: what a listing shows and what a loader needs to know."""

from dataclasses import dataclass

from expunge.types import Card


@dataclass(frozen=True, kw_only=True)
class SourceCard(Card):
    """What a data set is and, where it has a name of its own, where its columns lie.

    Attributes:
        kind: What its records are: images, text, tokens, features, or the user's own.
        note: One line on what it holds, and its licence.
        hub: Its id on the Hugging Face hub; empty where it is not there.
        config: Which of the hub's configurations.
        revision: Which of the hub's branches.
        folder: The folder that its files are in; empty where that has the set's name.
        x: The columns a model sees; texts of several are put one after the other.
        labels: Columns that can be the answer; the first is the default.
        groups: Further columns to choose a forget set by.
        train: The split to train on.
        test: The splits held out; where there are none, a fifth of each class is.
        side: Side of the square that images are brought to, in pixels; 0 leaves them.
        grey: Whether images have one channel.
    """

    kind: str = "own"
    note: str = ""
    hub: str = ""
    config: str | None = None
    revision: str | None = None
    folder: str = ""
    x: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    train: str = "train"
    test: tuple[str, ...] = ("test",)
    side: int = 0
    grey: bool = False
