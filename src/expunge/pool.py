"""Shadow models: a pool of records, models trained on random halves of it, and their answers.

Of each shadow model one number a record is kept, its margin: log(p / (1 - p)) of the right
answer, from which confidence follows. Shadows 2k and 2k + 1 have complementary halves, so that
every record is in exactly half of them. Records of the same content share a side: a record that
was left out while its copy was trained on has not been left out.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from expunge import stats
from expunge.core.rng import generator
from expunge.types import Data, Refused, fingerprints


@dataclass(frozen=True, eq=False)
class Pool:
    """Records that shadow models draw their halves from.

    Attributes:
        data: In an order that does not depend on what is to be forgotten, so that all forget
            sets of a data set share the shadows.
        planted: How many at its end are held-out records of a kind that was planted.
    """

    data: Data
    planted: int = 0

    def __len__(self) -> int:
        return len(self.data)

    @property
    def digest(self) -> str:
        """Hash of the content."""
        return self.data.digest

    @cached_property
    def copies(self) -> Int[Tensor, " pool"]:
        """The same number for records of the same content."""
        numbers: dict[str, int] = {}
        return torch.tensor([numbers.setdefault(name, len(numbers)) for name in self._names])

    @cached_property
    def _names(self) -> list[str]:
        return _names(self.data)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in reversed(list(enumerate(self._names)))}

    def find(self, data: Data) -> Int[Tensor, " n"]:
        """Return where each record is, by its content.

        Raises:
            Refused: For records that are not in the pool: no shadow could have seen them.
        """
        names = _names(data)
        missing = sum(name not in self._places for name in names)
        if missing:
            raise Refused(
                f"{missing} of {len(names)} records asked about are not among the {len(self)} that "
                "shadow models are trained on; give the lab a pool with the forget set and the "
                "records never trained on in it"
            )
        return torch.tensor([self._places[name] for name in names], dtype=torch.long)

    def half(self, number: int) -> Bool[Tensor, " pool"]:
        """Return the half that shadow `number` trains on.

        Raises:
            Refused: Where a class would be missing from it.
        """
        groups = int(self.copies.max()) + 1
        order = torch.randperm(groups, generator=generator(0, "half", number // 2))
        chosen = (order < groups // 2)[self.copies]
        member = chosen if number % 2 == 0 else ~chosen
        self._check_classes(member, number)
        return member

    def _check_classes(self, member: Tensor, number: int) -> None:
        y = self.data.y.cpu()
        if y.dim() != 1 or y.is_floating_point():
            return
        missing = sorted(set(y.tolist()) - set(y[member].tolist()))
        if missing:
            raise Refused(
                f"the half of shadow model {number} has no record of {len(missing)} classes "
                f"(first: {missing[:3]}), which have {int((y == missing[0]).sum())} of the pool's "
                f"{len(y)} records; leave such classes out, or give more records of them"
            )


def _names(data: Data) -> list[str]:
    """Return a digest of each record and its answer."""
    return [
        name + answer.tobytes().hex()
        for x, y, _ in data.batches(256)
        for name, answer in zip(fingerprints(x), y.cpu().numpy(), strict=True)
    ]


class Shadows(NamedTuple):
    """What shadow models say of records, and which of them each was trained on.

    Attributes:
        margin: log(p / (1 - p)) of the right answer, of each model (row) on each record.
        member: Whether the model was trained on the record.
    """

    margin: Float[Tensor, "shadows pool"]
    member: Bool[Tensor, "shadows pool"]

    def at(self, columns: Int[Tensor, " n"]) -> "Shadows":
        """Return the same models' answers on some of the records."""
        return Shadows(self.margin[:, columns], self.member[:, columns])

    def finite(self) -> "Shadows":
        """Return them, if all are numbers.

        Raises:
            Refused: Otherwise.
        """
        for number, margin in enumerate(self.margin):
            if not bool(margin.isfinite().all()):
                raise Refused(
                    f"shadow model {number} answers {int((~margin.isfinite()).sum())} of "
                    f"{margin.numel()} records with a margin that is not finite; its training "
                    "probably diverged: lower the learning rate of the recipe"
                )
        return self

    def checked(self) -> "Shadows":
        """Return them, if they can be what they say they are.

        Raises:
            Refused: For answers that are not finite; where most models take the other half for
                their own; for a model that cannot tell its own half from the other, or takes it
                for its own, while most of the others can: it was trained on another half.
        """
        self.finite()
        apart = [
            float(stats.auc(margin[inside], margin[~inside]))
            for margin, inside in zip(self.margin, self.member, strict=True)
        ]
        sizes = int(self.member[0].sum()), int((~self.member[0]).sum())
        chance = stats.auc_by_chance([sizes])
        typical = median(apart)
        if typical < (chance.low or 0.0):
            raise Refused(
                f"{len(apart)} shadow models tell their halves of the pool from the others with a "
                f"median AUC of {typical:.3f}, below what chance gives, {chance}; `member` is "
                "probably swapped: expected true where a model was trained on the record"
            )
        # Six standard errors: models that remember little differ by a few of them by chance.
        least = typical - 3 * (chance.value - (chance.low or 0.0))
        for number, auc in enumerate(apart):
            if auc < least and auc <= (chance.high or 1.0):
                raise Refused(
                    f"shadow model {number} tells its half of the pool from the other with an AUC "
                    f"of {auc:.3f}, where others reach {typical:.3f}; it is probably stale, of "
                    "another draw of halves or another recipe: drop it and train it anew"
                )
        return self


class Kept(NamedTuple):
    """Shadows made elsewhere, and what they were made of.

    Attributes:
        shadows: Of the whole pool.
        recipe: Key of the recipe that they were trained by.
        pool: Digest of the pool's records.
    """

    shadows: Shadows
    recipe: str
    pool: str

    def save(self, path: Path) -> None:
        """Write them as safetensors."""
        tensors = {name: part.contiguous() for name, part in self.shadows._asdict().items()}
        save_file(tensors, path, {"recipe": self.recipe, "pool": self.pool})

    @classmethod
    def load(cls, path: Path) -> "Kept":
        """Read what `save` wrote.

        Raises:
            ValueError: For a file without what tells whose shadows they are.
        """
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            missing = [name for name in ("recipe", "pool") if name not in about]
            if missing:
                raise ValueError(
                    f"{path} does not say of which {' and '.join(missing)} its shadows are; "
                    "expected a file that Kept.save wrote"
                )
            parts = {name: file.get_tensor(name) for name in Shadows._fields}
        return cls(Shadows(**parts), about["recipe"], about["pool"])

    def fitting(self, recipe: str, pool: str, count: int) -> Shadows:
        """Return `count` of them, if they are for this recipe and these records.

        Raises:
            Refused: Otherwise.
        """
        for name, mine, wanted in (("recipe", self.recipe, recipe), ("pool", self.pool, pool)):
            if mine != wanted:
                raise Refused(
                    f"the shadow models are of another {name}: expected {wanted[:12]}, got "
                    f"{mine[:12]}; a shadow trained otherwise than its target tells nothing: "
                    "train shadows by the target's own recipe on its own records"
                )
        have = len(self.shadows.margin)
        if have < count:
            raise Refused(f"{count} shadow models are needed, but only {have} were given; add more")
        return Shadows(*(part[:count] for part in self.shadows))
