"""SISA-DP: shards and slices as SISA has them, and networks that are published under noise.

Liu, Ma, Liu, Liu, Jiang, Ma, Yu and Ren, "Learn to Forget: Machine Unlearning
via Neuron Masking", IEEE TDSC 2022, https://arxiv.org/abs/2003.10933, compare with it under this
name. It joins SISA (Bourtoule et al., IEEE S&P 2021) with what Neel, Roth and Sharifi-Malvajerdi,
"Descent-to-Delete", ALT 2021, https://arxiv.org/abs/2007.02923, do to distributed training:
bootstrap samples that are kept up by replacing what is removed, a warm start, and noise.

Departures from the paper, which says no more than that:
    1. Each shard's network is trained on a sample, drawn from the shard with replacement, as
       large as the shard and cut into slices. A removed record's places in it are taken by
       records drawn from what is left of the shard, which leaves the sample as if drawn anew.
    2. A network whose sample changed goes on from where it is (its state without noise, which
       is kept and must be kept secret), through the slices from the first that changed.
    3. Every network is published with Gaussian noise on its parameters. Its deviation is
       Descent-to-Delete's where that formula holds: softmax regression (`linear`) with weight
       decay, one slice, whole-batch gradient descent at a constant rate of at most 2 / (M + m),
       and enough steps. M, m and L follow from the largest norm of a training record, which is
       taken for public. Of k places of the sample that changed, the deviation is k times that
       of one.
    4. Elsewhere no such constants exist, and the deviation is a HEURISTIC: that of the analytic
       Gaussian mechanism, as if what is published moved no farther than the norm of the
       network's update, at most `clip`. The update is not clipped itself: that would undo the
       training. It hides nothing provably. The notes tell which of the two was used and why.
    5. A network whose sample did not change is published as it was, and so is one of whose
       sample only slices changed that come after training's last run, which it never saw. Noise
       drawn anew would average out over publications. An update that moved nothing gets the
       noise of one of norm `clip`.
    6. BatchNorm's statistics get no noise, and slices' runs start with new optimisers. Where a
       removal has so few epochs that no run is left for it, they are all spent on the last slice,
       which shows the whole sample.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from expunge.core import notes, rng
from expunge.core.cost import Cost, priced
from expunge.core.descent_to_delete import (
    Constants,
    analytic_gaussian,
    contraction,
    deviation,
    softmax_regression,
    steps_before,
)
from expunge.core.shards import (
    FEWEST,
    Dealing,
    Layout,
    epochs_by_slice,
    grow,
    most_samples,
    seed_of,
    slice_of,
)
from expunge.core.traces import given, part_of, state_of
from expunge.core.voting import Vote, Voting
from expunge.method import Method, MethodCard, Preset, Sizes
from expunge.models.linear import Linear
from expunge.tasks.categorical import Classification
from expunge.types import Augment, Data, Recipe, Refused, Request, Trace


def bootstrap(rows: Int[Tensor, " shard"], draws: torch.Generator) -> Int[Tensor, " shard"]:
    """Return as many rows, drawn with replacement."""
    return rows[torch.randint(len(rows), (len(rows),), generator=draws)]


def replaced(
    sample: Int[Tensor, " places"],
    gone: Bool[Tensor, " places"],
    left: Int[Tensor, " left"],
    draws: torch.Generator,
) -> Int[Tensor, " places"]:
    """Return the sample with rows drawn from `left` in the places that are `gone`."""
    drawn = left[torch.randint(len(left), (int(gone.sum()),), generator=draws)]
    sample = sample.clone()
    sample[gone] = drawn
    return sample


def largest_norm(network: nn.Module, data: Data) -> float:
    """Return the largest norm of a record as `linear` sees it, with the bias's constant 1."""
    assert isinstance(network, nn.Sequential)
    largest = 0.0
    with priced(), torch.no_grad():
        for batch in data.batches(256):
            seen = network[0](batch.x).flatten(1).double()
            largest = max(largest, float((1 + seen.square().sum(1)).sqrt().max()))
    return largest


@torch.no_grad()
def disturb(network: nn.Module, deviation: float, draws: torch.Generator) -> None:
    """Add Gaussian noise to every parameter, in place."""
    for p in network.parameters():
        p.add_(deviation * torch.randn(p.shape, generator=draws).to(p))


def convex_constants(recipe: Recipe, bound: float) -> Constants | str:
    """Return what the recipe's loss is bounded by, or why it is not strongly convex.

    Args:
        recipe: Of the training.
        bound: Largest norm of a training record.
    """
    model, task, decay = recipe.model, recipe.task, recipe.descent.weight_decay
    if not isinstance(model, Linear) or model.one_vs_rest:
        return f"'{model.card.name}' is not softmax regression, so its loss has no such constants"
    if not isinstance(task, Classification) or task.weights or task.objective != "cross_entropy":
        return "the loss is not the plain mean of cross-entropies"
    if recipe.augment != Augment() or recipe.start is not None:
        return "records are augmented, or training starts from weights of its own"
    if not decay:
        return "without weight decay the loss is not strongly convex"
    if task.outputs > (bound / decay) ** 2:
        return "weight decay is so strong that training starts farther off than it would get"
    return softmax_regression(bound, decay)


def whole_descent(recipe: Recipe, slices: int, records: int) -> str | None:
    """Return why training is not gradient descent at a constant rate, None where it is."""
    descent = recipe.descent
    if slices > 1 or descent.batch_size < records:
        return f"a step is not on all {records} records; take slices=1 and larger batches"
    if descent.optimizer != "sgd" or descent.momentum or descent.precision == "bf16":
        return "steps are not plain gradient descent; take sgd without momentum in fp32"
    if descent.schedule != "constant" or descent.warmup:
        return "the learning rate changes; take a constant one"
    return None


class Formula(NamedTuple):
    """What Descent-to-Delete's deviation takes, but for the budget."""

    constants: Constants
    factor: float
    records: int
    steps: int


def distance(state: dict[str, Tensor], network: nn.Module) -> float:
    """Return the norm of the difference between a state's parameters and a network's."""
    parts = [(state[k] - p.detach().cpu()).double() for k, p in network.named_parameters()]
    return math.sqrt(sum(float(part.square().sum()) for part in parts))


@dataclass(frozen=True, kw_only=True)
class SISADP(Method):
    """Go on training what the removed records had a part in, and publish under noise.

    Attributes:
        shards: Networks, each trained on a sample of its own share of the records.
        slices: Steps in which a network's sample is shown to it.
        vote: Whose posteriors are averaged: the `majority`'s, or those of all (`mean`).
        epochs: Of a removal's training, on the whole sample, at least 1; left out, as many as
            training had. The convex formula needs training to have been the longer one.
        epsilon: Of the noise, in nats.
        delta: Of the noise; left out, one over the square of the shard's number of records.
        clip: Largest norm of an update that the heuristic reckons with.
        noise: Whether the `convex` formula gives the deviation, and is an error where it does
            not hold, or the `heuristic`, or the first where it holds and else the second.
    """

    card = MethodCard(
        name="sisa_dp",
        source="https://arxiv.org/abs/2003.10933",
        needs=("original", "retain", "trace"),
        norms="as in training",
        null=None,
        foreseen="at most",
        quick=False,
        toy={"shards": 2, "slices": 2},
        presets={
            "paper": Preset(
                {"shards": 10, "slices": 100, "epsilon": 16.0},
                "Ma et al., section V; how the noise is calibrated it does not say",
            )
        },
        mechanisms=("train on retain", "add noise"),
    )

    shards: int = 10
    slices: int = 10
    vote: Vote = "majority"
    epochs: int | None = None
    epsilon: float = 16.0
    delta: float | None = None
    clip: float = 0.01
    noise: Literal["auto", "convex", "heuristic"] = "auto"

    def __post_init__(self) -> None:
        self._dealing.check()
        if not (self.epsilon > 0 and self.clip >= 0 and (self.epochs is None or self.epochs >= 1)):
            raise ValueError(
                "expected epsilon > 0, clip >= 0 and epochs >= 1, got "
                f"{self.epsilon}, {self.clip} and {self.epochs}"
            )
        if self.delta is not None and not 0 < self.delta < 1:
            raise ValueError(f"expected delta in (0, 1), got {self.delta}")

    def fresh(self, recipe: Recipe) -> nn.Module:
        members = [recipe.fresh() for _ in range(self.shards)]
        return Voting(members, vote=self.vote, classes=recipe.task.outputs > 0)

    def train(self, recipe: Recipe, data: Data, seed: int) -> tuple[nn.Module, Trace]:
        with rng.fenced(seed):
            voting = cast(Voting, self.fresh(replace(recipe, start=None))).to(data.y.device)
        layout, epochs = self._dealing.lay_out(data, seed), self._epochs(recipe, None)
        bound = math.nan
        if isinstance(recipe.model, Linear):
            bound = largest_norm(voting.members[0], data)
        trace = layout.trace() | {"bound": torch.tensor(bound, dtype=torch.float64)}
        for number in range(self.shards):
            rows = (layout.shard == number).nonzero()[:, 0]
            sample = bootstrap(rows, rng.generator(seed, "sample", number))
            own = seed_of(seed, number)
            *_, network = grow(recipe, data, self._sliced(sample), epochs, own)
            trace |= {f"sample/{number}": sample}
            trace |= {f"secret/{number}/{k}": v for k, v in state_of(network).items()}
            spread = self._deviation(recipe, len(rows), bound, 1, self.clip)
            disturb(network, spread, rng.generator(seed, "noise", number))
            voting.members[number].load_state_dict(network.state_dict())
        return voting.eval(), trace

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        trace = given(request.trace, self.card.name)
        voting, recipe = cast(Voting, model), request.recipe
        layout = Layout.read(trace)
        layout.check(self.shards, self.slices)
        row, bound = layout.among(request.retain), float(trace["bound"])
        empty = self._dismissed(voting, layout, row, recipe, seed)
        told: dict[str, list[float]] = {"deviations": [], "update_norms": []}
        for number in range(self.shards):
            gone = row[trace[f"sample/{number}"]] < 0
            if number in empty or not gone.any():
                continue
            first = int(slice_of(len(gone), self.slices)[gone].min())
            if not any(self._epochs(recipe, None)[first:]):
                continue  # the network was never trained on what is removed
            left = ((layout.shard == number) & (row >= 0)).nonzero()[:, 0]
            draws = rng.generator(seed, "sample", number)
            sample = row[replaced(trace[f"sample/{number}"], gone, left, draws)]
            secret = part_of(trace, f"secret/{number}")
            *_, network = grow(
                recipe,
                request.retain,
                self._sliced(sample),
                self._again(recipe, first),
                seed_of(seed, number),
                done=first,
                state=secret,
            )
            moved = distance(secret, network)
            reach = min(moved, self.clip) if moved else self.clip
            spread = self._deviation(recipe, len(sample), bound, int(gone.sum()), reach)
            told["deviations"].append(spread)
            told["update_norms"].append(moved)
            disturb(network, spread, rng.generator(seed, "noise of a removal", number))
            voting.members[number].load_state_dict(network.state_dict())
        self._tell(told, len(empty), recipe, layout, bound)
        return voting

    def work(self, sizes: Sizes) -> Cost:
        epochs = sizes.epochs if self.epochs is None else self.epochs
        runs, records = epochs_by_slice(epochs, self.slices), sizes.retain + sizes.forget
        samples = most_samples(runs, records)
        if self.epochs and not runs[-1]:  # all epochs may be spent on the last slice
            samples = max(samples, self.epochs * records)
        return Cost(forward=samples, backward=samples)

    @property
    def _dealing(self) -> Dealing:
        return Dealing(self.shards, self.slices)

    def _epochs(self, recipe: Recipe, epochs: int | None) -> list[int]:
        whole = recipe.descent.epochs if epochs is None else epochs
        return epochs_by_slice(whole, self.slices)

    def _again(self, recipe: Recipe, first: int) -> list[int]:
        """Return for how many epochs each slice's run of a removal goes on.

        Args:
            recipe: Of the training.
            first: Slice from which on there is a run.
        """
        epochs = self._epochs(recipe, self.epochs)
        if self.epochs and not any(epochs[first:]):
            epochs[-1] = self.epochs
        return epochs

    def _sliced(self, sample: Tensor) -> list[Tensor]:
        own = slice_of(len(sample), self.slices)
        return [sample[own == number] for number in range(self.slices)]

    def _dismissed(
        self, voting: Voting, layout: Layout, row: Tensor, recipe: Recipe, seed: int
    ) -> set[int]:
        """Take the vote from shards that nothing is left of, and return which they are."""
        sizes = torch.bincount(layout.shard[row >= 0], minlength=self.shards)
        empty = {number for number, size in enumerate(sizes.tolist()) if size < FEWEST}
        for number in sorted(empty):
            voting.dismiss(number)
            with rng.fenced(rng.derive(seed, "dismissed", number)):
                voting.members[number].load_state_dict(recipe.fresh().state_dict())
        return empty

    def _formula(self, recipe: Recipe, records: int, bound: float) -> "Formula | str":
        """Return the convex formula for a shard, or why it does not hold.

        Raises:
            ValueError: Where it does not, and was asked for.
        """
        if self.noise == "heuristic":
            return "the heuristic was asked for"
        found = self._convex(recipe, records, bound)
        if isinstance(found, str) and self.noise == "convex":
            raise Refused(
                f"noise='convex' was asked for, but its formula does not hold here: {found}; or "
                "take noise='auto'"
            )
        return found

    def _convex(self, recipe: Recipe, records: int, bound: float) -> "Formula | str":
        constants = convex_constants(recipe, bound)
        if isinstance(constants, str):
            return constants
        reason = whole_descent(recipe, self.slices, records)
        if reason is not None:
            return reason
        rate, trained = recipe.descent.lr, recipe.descent.epochs
        steps = trained if self.epochs is None else self.epochs
        if not 0 < rate <= constants.rate or not steps:
            return (
                f"expected a rate of at most {constants.rate:.3g}, and steps, got {rate:g} "
                f"and {steps}"
            )
        factor = contraction(constants, rate)
        needed = steps_before(factor, records, steps)
        if trained < needed:
            return (
                f"training has {trained} steps, and {needed:.0f} come before a removal of {steps}; "
                "train for longer, or set fewer epochs for a removal"
            )
        return Formula(constants, factor, records, steps)

    def _deviation(
        self, recipe: Recipe, records: int, bound: float, places: int, moved: float
    ) -> float:
        """Return the noise's standard deviation for a shard.

        Args:
            recipe: Of the training.
            records: In the shard's sample.
            bound: Largest norm of a training record.
            places: How many places of the sample changed.
            moved: Norm of the update that the heuristic reckons with, at most `clip`.
        """
        delta = 1 / records**2 if self.delta is None else self.delta
        formula = self._formula(recipe, records, bound)
        if isinstance(formula, str):
            return analytic_gaussian(self.epsilon, delta, moved)
        return places * deviation(*formula, self.epsilon, delta)

    def _tell(
        self, told: dict[str, list[float]], empty: int, recipe: Recipe, layout: Layout, bound: float
    ) -> None:
        records = torch.bincount(layout.shard).tolist()
        for count in records:
            found = self._formula(recipe, count, bound)
            heuristic = isinstance(found, str)
            notes.add("noise", "heuristic" if heuristic else "convex")
            if heuristic:
                notes.add("why not convex", found)
                break
            notes.add("constants", found.constants._asdict())
        notes.add("deviations", told["deviations"])
        notes.add("update norms", told["update_norms"])
        notes.add("shards without a vote", empty)
