"""What a computation costs: seconds, peak memory, samples through the network."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)


@dataclass(frozen=True)
class Cost:
    """The price of a computation.

    Attributes:
        forward: Samples that went forward through a network, teachers included.
        backward: Samples whose gradient went back through one.
        seconds: Wall-clock time.
        peak_bytes: Most memory held above that at the start; None where the system
            does not tell.
    """

    forward: int = 0
    backward: int = 0
    seconds: float = 0.0
    peak_bytes: int | None = None

    @property
    def passes(self) -> int:
        """Hardware-free work in forward equivalents: a backward costs two forwards."""
        return self.forward + 2 * self.backward

    def __add__(self, other: "Cost") -> "Cost":
        peaks = [p for p in (self.peak_bytes, other.peak_bytes) if p is not None]
        return Cost(
            self.forward + other.forward,
            self.backward + other.backward,
            self.seconds + other.seconds,
            max(peaks, default=None),
        )


class Meter:
    """Counts while it runs; another thread may read it to show progress."""

    def __init__(self) -> None:
        self.forward = 0
        self.backward = 0
        self._depth = 0

    @property
    def passes(self) -> int:
        return self.forward + 2 * self.backward

    def enter(self, module: nn.Module, inputs: object) -> None:
        """Note that a module was called."""
        del module, inputs
        self._depth += 1

    def leave(self, module: nn.Module, inputs: object, output: object) -> None:
        """Count a call that no other module made: a whole network's."""
        del module, inputs
        self._depth -= 1
        if self._depth or not isinstance(output, Tensor) or output.dim() == 0:
            return
        samples = len(output)
        self.forward += samples
        if output.requires_grad:
            output.register_hook(lambda _: self._back(samples))

    def _back(self, samples: int) -> None:
        self.backward += samples


@contextmanager
def counting(meter: Meter) -> Iterator[None]:
    """Let `meter` count every network that is called inside the block."""
    hooks = (
        register_module_forward_pre_hook(meter.enter),
        register_module_forward_hook(meter.leave, always_call=True),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class Bill:
    """Filled in when a metered block ends."""

    cost: Cost = Cost()


@contextmanager
def metered(meter: Meter | None = None) -> Iterator[Bill]:
    """Measure the block: `bill.cost` holds after it what the block cost."""
    meter, bill = meter or Meter(), Bill()
    before = _reset_peak()
    start = time.perf_counter()
    try:
        with counting(meter):
            yield bill
    finally:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        cost = Cost(meter.forward, meter.backward, seconds)
        peak = _peak()
        if before is not None and peak is not None:
            cost = replace(cost, peak_bytes=max(0, peak - before))
        bill.cost = cost


def _reset_peak() -> int | None:
    """Start a new peak and return the memory held now, or None where none is told."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: 5 resets the peak (VmHWM)
    except OSError:
        return None
    return _status("VmRSS")


def _peak() -> int | None:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return _status("VmHWM")


def _status(entry: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    sizes = [line.split()[1] for line in lines if line.startswith(entry + ":")]
    return 1024 * int(sizes[0]) if sizes else None
