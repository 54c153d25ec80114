"""Peak memory of one pass over a stream: does it grow with the set?"""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.timing import Claim
from expunge.data.streams import StreamData
from expunge.models.resnet import ResNet
from expunge.tasks.categorical import Classification
from expunge.types import Augment, Descent, Recipe

SHAPE, SIZE = (3, 32, 32), 256
RECORD = 3 * 32 * 32
SMALL, TIMES, REPEATS = 6_000, 10, 2


class File:
    """Pictures in a file, read one at a time; the answer is the first pixel's."""

    def __init__(self, path: Path) -> None:
        self.handle = os.open(path, os.O_RDONLY)
        self.count = path.stat().st_size // RECORD

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        read = bytearray(os.pread(self.handle, RECORD, row * RECORD))
        return torch.frombuffer(read, dtype=torch.uint8).reshape(SHAPE), read[0] % 10


def high_water() -> int:
    """Return this process's peak memory in bytes, of its own since it was started.

    Linux's `ru_maxrss` would begin at what the parent held, and hide every growth below it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def peak(path: Path) -> int:
    """Read one pass as in training and return the process's peak memory in bytes."""
    recipe = Recipe(
        model=ResNet(width=16),
        inputs=SHAPE,
        task=Classification(classes=10),
        descent=Descent(batch_size=SIZE),
        augment=Augment(crop=4, flip=True),
    )
    data = StreamData(File(path))
    seen = 0
    for batch in recipe.shuffled(data, SIZE, torch.Generator().manual_seed(0)):
        seen += len(batch.y)
    if seen != len(data.y):
        raise AssertionError(f"read {seen} records of {len(data.y)}")
    return high_water()


def measured(path: Path) -> int:
    """Return `peak` of a process of its own: the peak of one never falls."""
    command = [sys.executable, "-m", "benchmarks.memory", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout)


def claims() -> list[Claim]:
    """Measure two sets, one ten times the other."""
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small", Path(folder) / "large"
        draws = np.random.default_rng(0)
        with small.open("wb") as one, large.open("wb") as many:
            for part in range(TIMES):
                pixels = draws.bytes(SMALL * RECORD)
                many.write(pixels)
                if part == 0:
                    one.write(pixels)
        peaks = [(measured(small), measured(large)) for _ in range(REPEATS)]
    megabytes = [round(size / 1e6) for size in peaks[0]]
    return [
        Claim(
            what=f"peak memory of a stream, {TIMES} times the records / as they were",
            ratios=[many / one for one, many in peaks],
            target=1.1,
            at_least=False,
            note=f"{SMALL:,} and {TIMES * SMALL:,} pictures ({TIMES * SMALL * RECORD / 1e6:.0f} "
            f"MB on disk), one pass in training's order; {megabytes[0]} and {megabytes[1]} MB",
        )
    ]


if __name__ == "__main__":
    print(peak(Path(sys.argv[1])))
