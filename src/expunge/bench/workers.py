"""Processes that compute side by side.

Processes and not threads: hooks that count samples, the global generator and its fence are a
process's own. What goes between them are settings and plain facts, over a pipe; results
lie in the store. A worker whose parent is gone ends by itself.
"""

import multiprocessing
import os
import signal
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from expunge.types import Json

START = "spawn"  # a process that was forked after PyTorch started threads, or a GPU, may hang

Facts = Mapping[str, Json]
Fulfil = Callable[[Any], Facts]


def spread(device: str, number: int) -> str:
    """Return the device of a worker: several GPUs are dealt out in turn."""
    if device == "cuda" and torch.cuda.device_count() > 1:
        return f"cuda:{number % torch.cuda.device_count()}"
    return device


class Crew(ABC):
    """Who fulfils orders, for as long as a `with` block lasts."""

    @property
    @abstractmethod
    def free(self) -> bool:
        """Whether another order can be given now."""

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether something was given that was not taken."""

    @abstractmethod
    def give(self, tag: Hashable, order: object) -> None:
        """Hand over an order; the tag tells its result from others'."""

    @abstractmethod
    def take(self) -> tuple[Any, Facts]:
        """Wait for the next result and return it with its tag."""

    def __enter__(self) -> "Crew":
        return self

    @abstractmethod
    def __exit__(self, *_: object) -> None:
        """Send everyone home."""


class Alone(Crew):
    """Fulfils each order in this process, when it is given."""

    def __init__(self, fulfil: Fulfil) -> None:
        self._fulfil = fulfil
        self._done: deque[tuple[Hashable, Facts]] = deque()

    @property
    def free(self) -> bool:
        return not self._done

    @property
    def busy(self) -> bool:
        return bool(self._done)

    def give(self, tag: Hashable, order: object) -> None:
        self._done.append((tag, self._fulfil(order)))

    def take(self) -> tuple[Any, Facts]:
        return self._done.popleft()

    def __exit__(self, *_: object) -> None:
        """Do nothing: nobody else was at work."""


class Processes(Crew):
    """Fulfils orders in several processes, in whatever order they end.

    Args:
        count: How many processes.
        hire: Called once in each with its number, from 0; what it returns fulfils orders.
            A dataclass with a `__call__`, since it has to travel.
    """

    def __init__(self, count: int, hire: Callable[[int], Fulfil]) -> None:
        self._count, self._hire = count, hire
        self._idle: list[Connection] = []
        self._tags: dict[Connection, Hashable] = {}
        self._staff: list[Any] = []

    @property
    def free(self) -> bool:
        return bool(self._idle)

    @property
    def busy(self) -> bool:
        return bool(self._tags)

    def give(self, tag: Hashable, order: object) -> None:
        line = self._idle.pop(0)
        self._tags[line] = tag
        line.send(order)

    def take(self) -> tuple[Any, Facts]:
        line = wait(list(self._tags))[0]
        assert isinstance(line, Connection)
        tag = self._tags.pop(line)
        try:
            facts, error, told = line.recv()
        except EOFError as gone:
            raise RuntimeError(
                "a worker process ended before its work did, perhaps for want of memory; what was "
                "finished is kept: run the command again, with fewer --jobs"
            ) from gone
        if error is not None:
            error.add_note(told)
            raise error
        self._idle.append(line)
        return tag, facts

    def __enter__(self) -> "Processes":
        fresh = multiprocessing.get_context(START)
        for number in range(self._count):
            ours, theirs = fresh.Pipe()
            process = fresh.Process(
                target=_work, args=(theirs, self._hire, number, self._count), daemon=True
            )
            process.start()
            theirs.close()
            self._staff.append(process)
            self._idle.append(ours)
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes, at work or not: what they finished is in the store, whole."""
        for process in self._staff:
            process.terminate()
        for process in self._staff:
            process.join()


def _work(line: Connection, hire: Callable[[int], Fulfil], number: int, count: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told too, and ends this process
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    fulfil: Fulfil | None = None
    while True:
        try:
            order = line.recv()
        except EOFError:
            return
        try:
            fulfil = fulfil or hire(number)
            answer = fulfil(order), None, ""
        except Exception as error:  # noqa: BLE001 it is raised again by the parent
            answer = {}, error, traceback.format_exc()
        try:
            line.send(answer)
        except BrokenPipeError:  # the parent was killed; what was made is in the store
            return
