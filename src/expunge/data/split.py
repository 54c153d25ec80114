"""A split: which records are forgotten, and what the held-out ones are for."""

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from expunge.config import key
from expunge.core.rng import generator
from expunge.data.forget import AtRandom as AtRandom
from expunge.data.forget import ById as ById
from expunge.data.forget import Forget as Forget
from expunge.data.forget import OfClass as OfClass
from expunge.data.forget import OfGroup as OfGroup
from expunge.data.strata import draw, rest
from expunge.data.strata import matched as matched
from expunge.types import Data, Recipe, Request, Sets, Settings


@dataclass(frozen=True, kw_only=True)
class Holdout(Settings):
    """How the held-out records are divided; what is left after both is the test set.

    Attributes:
        val: Share for validation, which methods may look at.
        nonmembers: Share that methods may take for records never trained on; audits use the
            test set, which no method sees.
        seed: Of the draw, which keeps the proportions of the classes.
    """

    val: float = 0.2
    nonmembers: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.val > 0 and self.nonmembers > 0 and self.val + self.nonmembers < 1):
            raise ValueError(
                "expected val and nonmembers above 0 and below 1 together, "
                f"got {self.val} and {self.nonmembers}"
            )

    def cut(self, held: Data) -> dict[str, Tensor]:
        """Return the positions of `val`, `nonmembers` and `test` among the held-out records.

        Raises:
            ValueError: When one of them would be empty.
        """
        n, rng = len(held), generator(self.seed, "holdout")
        val = draw(held.y, round(self.val * n), rng)
        left = rest(val, n)
        nonmembers = left[draw(held.y.cpu()[left], round(self.nonmembers * n), rng)]
        cut = {"val": val, "nonmembers": nonmembers}
        cut["test"] = rest(torch.cat([val, nonmembers]), n)
        for name, rows in cut.items():
            if not len(rows):
                raise ValueError(
                    f"{n} held-out records leave none for {name}; hold out more, or change "
                    f"val={self.val} and nonmembers={self.nonmembers}"
                )
        return cut


@dataclass(frozen=True, eq=False, kw_only=True)
class Parts:
    """A split: sorted positions, into the training set and into the held-out records.

    Attributes:
        retain: Training records to keep.
        forget: Training records to remove.
        val: Held-out records for early stopping.
        nonmembers: Held-out records that methods may take for never trained on.
        test: The other held-out records.
        shown: Records that methods are shown in the place of `nonmembers`, of the forget set's
            kind; planted ones are counted on from the last held-out record. None: no others.
        alike: Records that audits compare with the forget set: those of `test` that are of its
            kind, and planted ones, counted likewise; None where all of `test` are, and no others.
    """

    retain: Int[Tensor, " r"]
    forget: Int[Tensor, " f"]
    val: Int[Tensor, " v"]
    nonmembers: Int[Tensor, " m"]
    test: Int[Tensor, " t"]
    shown: Int[Tensor, " s"] | None = None
    alike: Int[Tensor, " k"] | None = None

    @cached_property
    def digest(self) -> str:
        """Hash of all positions."""
        return key({name: rows.tolist() for name, rows in self.tensors().items()})

    def save(self, path: Path) -> None:
        """Write the positions as safetensors."""
        save_file(self.tensors(), path)

    @classmethod
    def load(cls, path: Path) -> "Parts":
        """Read what `save` wrote."""
        return cls(**load_file(path))

    def tensors(self) -> dict[str, Tensor]:
        """Return the positions by the name of the part."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: rows for name, rows in parts.items() if rows is not None}


def divide(sets: Sets, forget: Forget, holdout: Holdout) -> Parts:
    """Return what is forgotten, what is kept, and what the held-out records are for.

    Raises:
        ValueError: When nothing or everything would be forgotten, or a part is empty.
    """
    n, chosen = len(sets.train), forget.choose(sets)
    if not len(chosen):
        raise ValueError(
            f"the forget set is empty: '{forget.card.name}' chose none of {n} training records"
        )
    if len(chosen) == n:
        raise ValueError(
            f"the forget set is all of the {n} training records, which leaves nothing to keep; "
            "train on other data instead"
        )
    cut = holdout.cut(sets.test)
    shown = forget.shown(sets)
    alike = _compared(forget, sets, cut["test"], shown)
    return Parts(retain=rest(chosen, n), forget=chosen, shown=shown, alike=alike, **cut)


def _compared(forget: Forget, sets: Sets, test: Tensor, shown: Tensor | None) -> Tensor | None:
    """Return the records to compare with, without those that a method is shown.

    Raises:
        ValueError: When none are left.
    """
    alike = forget.alike(sets)
    if alike is None:
        return None
    unshown = torch.isin(alike, test) | (alike >= len(sets.test))
    if shown is not None:
        unshown &= ~torch.isin(alike, shown)
    if not unshown.any():
        raise ValueError(
            f"of {len(alike)} held-out records like those that '{forget.card.name}' forgets, none "
            "is left that methods are not shown; hold out more, or less for val and nonmembers"
        )
    return alike[unshown].sort().values


def request(sets: Sets, parts: Parts, recipe: Recipe) -> Request:
    """Return the deletion request; the test set stays behind."""
    return Request(
        retain=sets.train.select(parts.retain),
        forget=sets.train.select(parts.forget),
        val=sets.test.select(parts.val),
        nonmembers=_held(sets).select(parts.nonmembers if parts.shown is None else parts.shown),
        recipe=recipe,
    )


def unseen(sets: Sets, parts: Parts) -> Data:
    """Return the records that no method may see."""
    return sets.test.select(parts.test)


def comparable(sets: Sets, parts: Parts) -> Data | None:
    """Return the unseen records of the forget set's kind; None where all unseen ones are."""
    return None if parts.alike is None else _held(sets).select(parts.alike)


def _held(sets: Sets) -> Data:
    """Return the held-out records, and after them the planted ones."""
    return sets.test if sets.planted is None else sets.test.join(sets.planted)
