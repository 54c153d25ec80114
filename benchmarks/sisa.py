"""SISA trains only the slices again that a removal concerns: samples counted, not timed.

The formulas are those of Bourtoule et al., "Machine Unlearning", IEEE S&P 2021,
https://arxiv.org/abs/1912.03817, for records removed by chance.
"""

import dataclasses

import torch

from benchmarks.timing import Claim
from expunge import api
from expunge.bench.problem import Training
from expunge.core.cost import metered
from expunge.methods.sisa import SISA
from expunge.types import Descent, Request, Trace

RECORDS, SHARDS, EPOCHS = 1200, 3, 21
SLICES = (1, 6, 20)


def slicing(epochs: int, records: int, slices: int) -> float:
    """Return the samples that the removal of one record costs on average, of its one shard."""
    return epochs * records * (2 * slices + 1) / (3 * slices)


def batch(records: int, shards: int, requests: int) -> float:
    """Return how many records are trained on again on average, after removals at once."""
    return records * (1 - (1 - 1 / shards) ** requests) - requests


def sequence(records: int, shards: int, requests: int) -> float:
    """Return how many records are trained on again on average, after removals one by one."""
    return requests * (records / shards - 1) - requests * (requests - 1) / (2 * shards)


def without(request: Request, row: int, trace: Trace) -> Request:
    """Return the request to remove one record of the training set."""
    data = request.retain.join(request.forget)
    rest = torch.arange(len(data)) != row
    retain, forget = data.select(rest.nonzero()[:, 0]), data.select(torch.tensor([row]))
    return dataclasses.replace(request, retain=retain, forget=forget, trace=trace)


def claims() -> list[Claim]:
    """Count the samples of training and of removals, one from every slice of a shard."""
    problem = api.problem(
        {"name": "blobs", "train": RECORDS},
        "linear",
        {"name": "random", "count": 1},
        training=Training(descent=Descent(lr=0.05, epochs=EPOCHS, batch_size=100)),
    )
    found = []
    data = problem.request.retain.join(problem.request.forget)
    for slices in SLICES:
        method = SISA(shards=SHARDS, slices=slices)
        with metered() as bill:
            original, trace = method.train(problem.recipe, data, 0)
        again = []
        for number in range(slices):
            here = (trace["shard"] == 0) & (trace["slice"] == number)
            request = without(problem.request, int(here.nonzero()[0]), trace)
            again.append(method(original, request, seed=0).cost.backward)
        whole, average = bill.cost.backward / SHARDS, sum(again) / slices
        foreseen = slicing(EPOCHS, RECORDS // SHARDS, slices)
        found.append(
            Claim(
                what=f"SISA, {slices} slices: samples of training a shard / of a removal from it",
                ratios=[whole / average],
                target=None if slices == 1 else 0.98 * EPOCHS * RECORDS / SHARDS / foreseen,
                note=f"{whole:,.0f} and {average:,.0f} samples, counted; the formula has "
                f"{foreseen:,.0f}, a ratio of {EPOCHS * RECORDS / SHARDS / foreseen:.3f}, and 1.5 "
                f"with slices without end; {SHARDS} shards of {RECORDS // SHARDS} records, epochs: "
                f"{EPOCHS}; the other shards are not trained",
            )
        )
    return found
