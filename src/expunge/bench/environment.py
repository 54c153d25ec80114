"""Where a result was computed: recorded beside it, never part of a key."""

import os
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from expunge.types import Json

LIBRARIES = ("expunge", "torch", "numpy", "scipy", "scikit-learn", "safetensors", "datasets")


@cache
def environment() -> Json:
    """Return hardware and versions as plain data."""
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "hardware": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count(),
            "memory_bytes": _memory(),
            "accelerator": accelerator,
            "system": f"{platform.system()} {platform.machine()}",
        },
        "versions": {"python": platform.python_version()} | {n: version(n) for n in LIBRARIES},
    }


def _processor() -> str:
    cpus = Path("/proc/cpuinfo")
    if cpus.exists():
        for line in cpus.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, AttributeError):  # systems that do not tell
        return None
