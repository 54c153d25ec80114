"""Measure claims, print them, write them with the hardware beside this file."""

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks import (
    challenge,
    fisher,
    forgetting_quality,
    forsaken,
    memory,
    packed,
    recall,
    relearn,
    saliency,
    shadows,
    sisa,
    training,
    unlearning_cost,
)
from benchmarks.timing import Claim

HERE = Path(__file__).parent
PREFACE = """# Benchmarks

Written by `make bench`. Each line is a ratio of two things that were run in turn, in one
process run, on one machine; more is better but for memory and costs. Absolute times depend on
the machine and are left out.

"""
HEAD = """| compared | median | min to max | repeats | target | | how |
|---|---|---|---|---|---|---|"""
PARTS: dict[str, Callable[[], list[Claim]]] = {
    "training": training.claims,
    "packed": packed.claims,
    "fisher": fisher.claims,
    "memory": memory.claims,
    "forgetting_quality": forgetting_quality.claims,
    "saliency": saliency.claims,
    "recall": recall.claims,
    "shadows": shadows.claims,
    "relearn": relearn.claims,
    "sisa": sisa.claims,
    "unlearning_cost": unlearning_cost.claims,
    "challenge": challenge.claims,
    "forsaken": forsaken.claims,
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


def page(parts: dict[str, dict[str, Any]]) -> str:
    """Return the tables as Markdown, each part with the machine it was measured on."""
    sections = []
    for name, part in parts.items():
        machine = "; ".join(f"{key}: {value}" for key, value in part["hardware"].items())
        sections.append(f"## {name}\n\n{HEAD}\n" + "\n".join(part["rows"]) + f"\n\n{machine}")
    return PREFACE + "\n\n".join(sections) + "\n"


def main(names: list[str]) -> int:
    """Run the named parts, or all, and write them down beside those measured before."""
    unknown = sorted(set(names) - PARTS.keys())
    if unknown:
        print(f"unknown part {unknown[0]}; known: {', '.join(PARTS)}", file=sys.stderr)
        return 2
    kept = HERE / "RESULTS.json"
    parts: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    met = True
    for name in names or PARTS:
        print(f"measuring {name} ...", file=sys.stderr)
        machine, start = hardware(), time.perf_counter()
        claims = PARTS[name]()
        machine["seconds"] = round(time.perf_counter() - start)
        parts[name] = {
            "hardware": machine,
            "rows": [claim.row() for claim in claims],
            "claims": [claim.plain() for claim in claims],
        }
        print("\n".join(claim.row() for claim in claims))
        met = met and all(claim.met for claim in claims)
    ordered = {name: parts[name] for name in PARTS if name in parts}
    kept.write_text(json.dumps(ordered, indent=2) + "\n")
    (HERE / "RESULTS.md").write_text(page(ordered))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
