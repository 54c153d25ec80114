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
    """Counts while it runs; another thread may read it to show progress.

    Attributes:
        forward: Samples that went forward so far.
        backward: Samples that went back so far.
        away: Seconds that do not count, spent in `paused` blocks.
        peak: Most memory held before the last such block; None where there was none.
        paused: Whether such a block is running.
    """

    def __init__(self) -> None:
        self.forward = 0
        self.backward = 0
        self.away = 0.0
        self.peak: int | None = None
        self.paused = False
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

    def hold(self) -> None:
        """Count no call until `release`, as if all were made by another module."""
        self._depth += 1

    def release(self, forward: int, backward: int) -> None:
        """Count again, and add what was held back."""
        self._depth -= 1
        self.forward += forward
        self.backward += backward

    def _back(self, samples: int) -> None:
        self.backward += samples


RUNNING: list[Meter] = []  # hooks are the process's, and so is this


@contextmanager
def counting(meter: Meter) -> Iterator[None]:
    """Let `meter` count every network that is called inside the block."""
    hooks = (
        register_module_forward_pre_hook(meter.enter),
        register_module_forward_hook(meter.leave, always_call=True),
    )
    RUNNING.append(meter)
    try:
        yield
    finally:
        RUNNING.remove(meter)
        for hook in hooks:
            hook.remove()


@contextmanager
def priced(*, forward: int = 0, backward: int = 0) -> Iterator[None]:
    """Count the block as so many samples, whatever networks are called inside.

    Under a transform, `vmap` or `jvp`, a call does not show how many records it is of, nor
    how often a gradient goes back through it.
    """
    running = [*RUNNING]
    for meter in running:
        meter.hold()
    try:
        yield
    finally:
        for meter in running:
            meter.release(forward, backward)


@contextmanager
def paused() -> Iterator[None]:
    """Leave the block out of every count, clock and peak that is being taken."""
    running = [meter for meter in RUNNING if not meter.paused]
    if running:
        _wait()
    start, peak = time.perf_counter(), _peak() if running else None
    for meter in running:
        meter.paused = True
        meter.hold()
        meter.peak = max((p for p in (meter.peak, peak) if p is not None), default=None)
    try:
        yield
    finally:
        if running:
            _wait()
            _reset_peak()
        away = time.perf_counter() - start
        for meter in running:
            meter.release(0, 0)
            meter.away += away
            meter.paused = False


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
        _wait()
        seconds = time.perf_counter() - start - meter.away
        cost = Cost(meter.forward, meter.backward, seconds)
        peaks = [p for p in (_peak(), meter.peak) if p is not None]
        if before is not None and peaks:
            cost = replace(cost, peak_bytes=max(0, max(peaks) - before))
        bill.cost = cost


def _wait() -> None:
    """Wait for an accelerator, which goes on while the clock is read."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


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
