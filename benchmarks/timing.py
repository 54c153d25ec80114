"""Interleaved timings, ratios of them, and whether they meet a target."""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import median

Timings = dict[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A ratio, its target and whether it is met.

    Attributes:
        what: What is compared with what.
        ratios: One for each repeat.
        target: What the median is held against; None where nothing was asked for.
        at_least: Whether the median must reach the target; else it must stay below.
        note: How it was measured.
    """

    what: str
    ratios: list[float]
    target: float | None
    at_least: bool = True
    note: str = ""

    @property
    def met(self) -> bool:
        if self.target is None:
            return True
        middle = median(self.ratios)
        return middle >= self.target if self.at_least else middle < self.target

    def plain(self) -> dict[str, object]:
        """Return what JSON holds of it."""
        return asdict(self) | {"median": median(self.ratios), "met": self.met}

    def row(self) -> str:
        """Return its line of a Markdown table."""
        asked = "none", "measured"
        if self.target is not None:
            sign = "≥" if self.at_least else "<"
            asked = f"{sign} {self.target:.2f}", "pass" if self.met else "FAIL"
        spread = f"{min(self.ratios):.2f} to {max(self.ratios):.2f}"
        return (
            f"| {self.what} | {median(self.ratios):.2f} | {spread} | {len(self.ratios)} "
            f"| {asked[0]} | {asked[1]} | {self.note} |"
        )


def interleaved(runs: Mapping[str, Callable[[], object]], repeats: int) -> Timings:
    """Return each run's seconds, all runs once in turn for each repeat.

    Whatever else the machine does in the meantime then slows all of them alike. The order
    is turned round every time, so that none always follows the same one.
    """
    seconds: Timings = {name: [] for name in runs}
    for repeat in range(repeats):
        order = list(runs) if repeat % 2 == 0 else list(runs)[::-1]
        for name in order:
            gc.collect()
            start = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratios(slow: list[float], fast: list[float]) -> list[float]:
    """Return how many times as fast the second was, repeat by repeat."""
    return [a / b for a, b in zip(slow, fast, strict=True)]
