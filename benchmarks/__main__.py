"""Measure every claim, print the table, write it with the hardware beside this file."""

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks import (
    fisher,
    forgetting_quality,
    memory,
    recall,
    saliency,
    training,
    unlearning_cost,
)
from benchmarks.timing import Claim

HERE = Path(__file__).parent
PARTS: dict[str, Callable[[], list[Claim]]] = {
    "training": training.claims,
    "fisher": fisher.claims,
    "memory": memory.claims,
    "forgetting_quality": forgetting_quality.claims,
    "saliency": saliency.claims,
    "recall": recall.claims,
    "unlearning_cost": unlearning_cost.claims,
}


def processor() -> str:
    """Return the processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    names = info.read_text().splitlines() if info.exists() else []
    found = [line.partition(":")[2].strip() for line in names if line.startswith("model name")]
    return found[0] if found else platform.processor() or platform.machine()


def hardware() -> dict[str, object]:
    """Return what the numbers depend on."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "bf16": torch.cpu._is_avx512_bf16_supported(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
        "load_before": round(os.getloadavg()[0], 2),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def page(claims: list[Claim], machine: dict[str, object]) -> str:
    """Return the table as Markdown."""
    settings = "\n".join(f"- {name}: {value}" for name, value in machine.items())
    rows = "\n".join(claim.row() for claim in claims)
    return f"""# Benchmarks

Written by `make bench`. Each line is a ratio of two things that were run in turn, in one
process run, on one machine; more is better but for memory. Absolute times depend on the
machine and are left out.

| compared | median | min to max | repeats | target | | how |
|---|---|---|---|---|---|---|
{rows}

{settings}
"""


def main(names: list[str]) -> int:
    """Run the named parts, or all; only a whole run is written down."""
    unknown = sorted(set(names) - PARTS.keys())
    if unknown:
        print(f"unknown part {unknown[0]}; known: {', '.join(PARTS)}", file=sys.stderr)
        return 2
    machine, claims, start = hardware(), [], time.perf_counter()
    for name in names or PARTS:
        print(f"measuring {name} ...", file=sys.stderr)
        claims += PARTS[name]()
    seconds = round(time.perf_counter() - start)
    text = page(claims, machine | {"seconds": seconds})
    print(text)
    if not names:
        (HERE / "RESULTS.md").write_text(text)
        record = {"hardware": machine, "claims": [claim.plain() for claim in claims]}
        (HERE / "RESULTS.json").write_text(json.dumps(record, indent=2) + "\n")
    return 0 if all(claim.met for claim in claims) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
