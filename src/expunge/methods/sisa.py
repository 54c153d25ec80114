"""SISA: sharded, isolated, sliced and aggregated training, of which only a part is done again.

Bourtoule, Chandrasekaran, Choquette-Choo, Jia, Travers, Zhang, Lie and Papernot, "Machine
Unlearning", IEEE S&P 2021, https://arxiv.org/abs/1912.03817

The records are dealt into shards, and a network is trained on each: on its first slice, then
on the first two, and so on. The state after every slice is kept. What is removed concerns one
shard, and of it the slices from the first that loses a record. The networks vote.

Departures from the paper:
    1. A kept state is found by a hash of all that it depends on: the recipe, the seed, and the
       content of the records that are left up to the slice's end. A state whose hash is there
       is used again; what is missing is trained. Removing nothing trains nothing.
    2. Every slice's run has an optimiser and a learning-rate schedule of its own, since states
       hold weights and no momentum.
    3. The posterior is the mean over the networks that voted for the winner (Ma et al., "Learn
       to Forget", https://arxiv.org/abs/2003.10933), with ties decided by the summed posterior;
       `vote="mean"` takes the mean over all.
    4. Records are dealt by risk as in the authors' code, merging clusters until there are as
       many as shards, by a law over positions in the training set, as there, or by class.
    5. Runs on fewer than two records are passed over. A shard with fewer than two records left
       up to its last run has no vote, and its network is drawn anew.
    6. With many slices most runs are of no epochs (of 100 slices and 20 epochs 61 are), and
       their states, which equal the ones before, are kept once. Records of the slices after
       the last run are never trained on.
"""

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import nn

from expunge.config import key
from expunge.core import notes, rng
from expunge.core.cost import Cost
from expunge.core.shards import (
    FEWEST,
    Dealing,
    Layout,
    Sharding,
    addresses,
    contents,
    epochs_by_slice,
    grow,
    most_samples,
    seed_of,
    worked,
)
from expunge.core.traces import affordable, given, part_of, size_of, state_of
from expunge.core.voting import Vote, Voting
from expunge.method import Method, MethodCard, Preset, Sizes
from expunge.types import Data, Recipe, Request, Trace

PAPER = "Ma et al., https://arxiv.org/abs/2003.10933, section V: 10 shards of 100 slices"


@dataclass(frozen=True, kw_only=True)
class SISA(Method):
    """Train again only what the removed records had a part in.

    Attributes:
        shards: Networks, each trained on its own share of the records.
        slices: Steps in which a network's share is shown to it.
        vote: Whose posteriors are averaged: the `majority`'s, or those of all (`mean`).
        sharding: How records are dealt: by chance (`uniform`), or so that those likely to be
            removed are in small shards, by a law over positions in the training set
            (`exponential`, `pareto`: the first are the likeliest) or over classes (`class`).
        shape: Of the exponential law, its rate per training set; of the Pareto law, its tail.
            Left out, 3.0 and 1.16, as in the authors' code.
        risks: For `class`, how likely a record of each class is removed, on any scale.
        limit: GiB that the kept states may take; more is refused before training.
    """

    card = MethodCard(
        name="sisa",
        source="https://arxiv.org/abs/1912.03817",
        needs=("original", "retain", "trace"),
        norms="as in training",
        null=None,
        foreseen="at most",
        quick=False,
        toy={"shards": 2, "slices": 2},
        presets={"paper": Preset({"shards": 10, "slices": 100}, PAPER)},
        mechanisms=("re-initialise weights", "train on retain"),
    )

    shards: int = 10
    slices: int = 10
    vote: Vote = "majority"
    sharding: Sharding = "uniform"
    shape: float | None = None
    risks: tuple[float, ...] = ()
    limit: float = 8.0

    def __post_init__(self) -> None:
        self._dealing.check()

    def fresh(self, recipe: Recipe) -> nn.Module:
        members = [recipe.fresh() for _ in range(self.shards)]
        return Voting(members, vote=self.vote, classes=recipe.task.outputs > 0)

    def train(self, recipe: Recipe, data: Data, seed: int) -> tuple[nn.Module, Trace]:
        epochs = epochs_by_slice(recipe.descent.epochs, self.slices)
        with rng.fenced(seed):
            voting = cast(Voting, self.fresh(replace(recipe, start=None))).to(data.y.device)
        kept = sum(count > 0 for count in epochs)
        affordable(
            size_of(voting) * kept,
            self.limit,
            f"the states after {kept} slices of {self.shards} shards",
            "lower slices or shards",
        )
        layout = self._dealing.lay_out(data, seed)
        trace = layout.trace()
        for number, plan in enumerate(self._plans(recipe, data, layout)):
            if plan.void:
                voting.dismiss(number)
            grown = grow(recipe, data, plan.rows, plan.epochs, seed_of(seed, number))
            for address, count, network in zip(plan.addresses, plan.epochs, grown, strict=True):
                if count:
                    state = state_of(network)
                    trace |= {f"state/{address}/{k}": v for k, v in state.items()}
                voting.members[number].load_state_dict(network.state_dict())
        return voting.eval(), trace

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        trace = given(request.trace, self.card.name)
        voting, recipe, data = cast(Voting, model), request.recipe, request.retain
        plans = self._plans(recipe, data, Layout.read(trace))
        kept = {name.split("/")[1] for name in trace if name.startswith("state/")}
        for number, plan in enumerate(plans):
            if plan.void and voting.counted[number]:
                voting.dismiss(number)
                with rng.fenced(rng.derive(seed, "dismissed", number)):
                    voting.members[number].load_state_dict(recipe.fresh().state_dict())
        again = 0
        for number, plan in enumerate(plans):
            done = plan.done(kept)
            again += sum(count > 0 for count in plan.epochs[done:])
            if done == self.slices:
                continue
            last = [a for a in plan.addresses[:done] if a in kept][-1:]
            state = part_of(trace, f"state/{last[0]}") if last else None
            own = seed_of(seed, number)
            *_, network = grow(recipe, data, plan.rows, plan.epochs, own, done=done, state=state)
            voting.members[number].load_state_dict(network.state_dict())
        runs = sum(count > 0 for plan in plans for count in plan.epochs)
        notes.add("runs", runs)
        notes.add("runs done again", again)
        notes.add("shards without a vote", int((~voting.counted).sum()))
        return voting

    def work(self, sizes: Sizes) -> Cost:
        epochs = epochs_by_slice(sizes.epochs, self.slices)
        samples = most_samples(epochs, sizes.retain + sizes.forget)
        samples = min(samples, sizes.retain * sum(epochs))
        return Cost(forward=samples, backward=samples)

    @property
    def _dealing(self) -> Dealing:
        return Dealing(self.shards, self.slices, self.sharding, self.shape, self.risks)

    def _plans(self, recipe: Recipe, data: Data, layout: Layout) -> list["Plan"]:
        """Return each shard's training on the records of `data`.

        Raises:
            ValueError: Where a layout is that of other settings.
        """
        layout.check(self.shards, self.slices)
        row, content = layout.among(data), contents(data)
        epochs = epochs_by_slice(recipe.descent.epochs, self.slices)
        plans = []
        for number in range(self.shards):
            rows = layout.parts(number, self.slices, row)
            base = key({"recipe": recipe, "seed": seed_of(layout.seed, number)})
            counts = worked(epochs, rows)
            hashes = [[content[r] for r in part.tolist()] for part in rows]
            few = sum(len(part) for part in rows) < FEWEST
            void = few or (any(epochs) and not any(counts))
            plans.append(Plan(rows, counts, addresses(base, hashes, counts), void))
        return plans


@dataclass(frozen=True)
class Plan:
    """How one shard's network is trained.

    Attributes:
        rows: Of each slice's records.
        epochs: Of each slice's run.
        addresses: Of the state after each slice.
        void: Whether too few records are left for any run, so that the network has no vote.
    """

    rows: list[torch.Tensor]
    epochs: list[int]
    addresses: list[str]
    void: bool

    def done(self, kept: set[str]) -> int:
        """Return how many slices, from the first on, need not be trained again."""
        for number, (address, count) in enumerate(zip(self.addresses, self.epochs, strict=True)):
            if count and address not in kept:
                return number
        return len(self.epochs)
