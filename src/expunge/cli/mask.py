"""`expunge mask`: what a mask does to a model's layers, and the mask applied."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from expunge.cli.flags import MaybePath, Switch, Work

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.mask import Layer
    from expunge.mask import Mask as Value


@dataclass(frozen=True, kw_only=True)
class Mask:
    """Show what a mask takes from each layer, or apply it to a checkpoint.

    `expunge unlearn --mask mask.safetensors` writes one. It alone takes the original to the
    unlearned model.

    Attributes:
        mask: The mask's file.
        checkpoint: The original to apply it to, as safetensors; left out, it is only shown.
        out: Where the unlearned model goes; left out, unlearned.safetensors.
        anyway: Apply it to other weights than those it was made from.
        json: Print JSON on standard output.
    """

    mask: Annotated[
        Path, tyro.conf.Positional, tyro.conf.arg(metavar="MASK", help_behavior_hint="")
    ]
    checkpoint: MaybePath = None
    out: MaybePath = None
    anyway: Switch = False
    json: Switch = False

    def prepare(self) -> Work:
        from expunge.bench.store import probe
        from expunge.mask import Mask as Value

        mask = Value.load(self.mask)
        if self.checkpoint is None:
            if self.out is not None:
                raise ValueError(
                    f"--out {self.out} is for the unlearned model, but without --checkpoint there "
                    "is no original to take the mask from; name one, or leave --out out"
                )
            return lambda: self._show(mask)
        out = self.out or Path("unlearned.safetensors")
        if out.suffix != ".safetensors" or out.is_dir():
            raise ValueError(f"expected --out to be a file that ends in .safetensors: {out}")
        probe(out.parent)
        unlearned = self._applied(mask, self.checkpoint)
        return lambda: self._write(unlearned, out)

    def _applied(self, mask: "Value", checkpoint: Path) -> "dict[str, Tensor]":
        """Return the unlearned model's state.

        Raises:
            ValueError: Where the checkpoint is not the mask's original.
        """
        from expunge import api
        from expunge.mask import digest

        state = api.weights(checkpoint)
        known = digest(state) == mask.original
        if not known:
            state = _cast(state, mask)
            known = digest(state) == mask.original
        unlearned = mask.subtract(state)
        if mask.original and not known and not self.anyway:
            raise ValueError(
                f"{self.mask} was made from other weights than {checkpoint}, which would become "
                "something else than the unlearned model; give the original, or say --anyway"
            )
        return unlearned

    def _write(self, unlearned: "Mapping[str, Tensor]", out: Path) -> int:
        from expunge import api
        from expunge.cli.console import emit, say

        api.write(unlearned, out)
        if self.json:
            emit({"checkpoint": str(out), "mask": str(self.mask)})
        else:
            say(f"{self.mask} was applied to {self.checkpoint} -> {out}")
        return 0

    def _show(self, mask: "Value") -> int:
        from expunge.cli.console import emit, out

        layers = [*mask.layers(), mask.whole()]
        if self.json:
            *each, whole = [layer._asdict() | {"share": layer.share} for layer in layers]
            about = {"method": mask.method, "original": mask.original}
            emit(about | {"layers": each, "whole": whole})
        else:
            out.print(_table(layers, mask.method))
        return 0


def _cast(state: "Mapping[str, Tensor]", mask: "Value") -> "dict[str, Tensor]":
    """Return weights in the precision of the network that the mask was made of.

    A checkpoint is read into a network, whose precision may be another than the file's.
    """
    dtypes = {name: part.dtype for name, part in mask.tensors.items()}
    dtypes |= {name: dtypes[own] for name, own in mask.tied.items()}
    if not dtypes:
        return dict(state)
    usual = next(iter(dtypes.values()))  # of what is no parameter, as BatchNorm's statistics
    return {
        name: part.to(dtypes.get(name) or usual) if part.is_floating_point() else part
        for name, part in state.items()
    }


def _table(layers: "list[Layer]", method: str) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, title=f"mask by {method}" if method else None)
    table.add_column("parameter", overflow="fold", style="bold")
    for name in ("numbers", "changed", "share", "largest", "sum"):
        table.add_column(name, justify="right", no_wrap=True)
    for layer in layers:
        table.add_row(
            Text(layer.name),
            f"{layer.entries:,}",
            f"{layer.nonzeros:,}",
            f"{layer.share:.1%}",
            f"{layer.largest:.2g}",
            f"{layer.total:.3g}",
        )
    return table
