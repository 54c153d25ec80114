"""What a method learns about its own run, kept beside the model that it returns.

A saturated fraction, a rank per layer, a residual: numbers that no audit could find, and
without which a setting cannot be judged.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from expunge.types import Json

_OPEN: ContextVar[dict[str, Json] | None] = ContextVar("notes", default=None)


def add(name: str, value: Json) -> None:
    """Keep `value` under `name`; where no method runs, nothing is kept.

    Args:
        name: Of what was learned; noted again, the last value stands.
        value: Plain data that does not differ from run to run: no tensors, no seconds. A
            number that is not finite is kept as None.

    Raises:
        TypeError: For what JSON cannot hold.
    """
    kept = _plain(name, value)
    noted = _OPEN.get()
    if noted is not None:
        noted[name] = kept


@contextmanager
def collected() -> Iterator[dict[str, Json]]:
    """Collect what is noted inside the block; a block within has notes of its own."""
    noted: dict[str, Json] = {}
    token = _OPEN.set(noted)
    try:
        yield noted
    finally:
        _OPEN.reset(token)


def _plain(name: str, value: Json) -> Json:
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(name, part) for part in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(name, part) for key, part in value.items()}
    raise TypeError(
        f"note '{name}' holds a {type(value).__name__}, which JSON cannot hold; give numbers, "
        "words, lists and dicts by name (a tensor's `.item()` or `.tolist()`)"
    )
