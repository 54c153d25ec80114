"""Forsaken: a sparse mask on the weights, under which forgotten records look never trained on.

Liu, Ma, Liu, Liu, Jiang, Ma, Yu and Ren, "Learn to Forget: Machine Unlearning
via Neuron Masking", IEEE Transactions on Dependable and Secure Computing 2022, https://arxiv.org/abs/2003.10933

One minimisation, over a perturbation of the weights: the divergence from the non-members'
posterior P to the perturbed network's, on the forget set, plus a penalty on each weight's change
times omega, how much the retained records mind (equations 5 and 6). The difference of the weights
is the mask, `Mask.between` the two models.

What the paper leaves open, and departures from it:
    1. Its generator of mask gradients is the optimiser itself. One mask is sought with the
       weights fixed; `mode="incremental"` reads Algorithm 1 to the letter instead, a mask after
       another, each found from where the last one left. Its coefficient only rescales the
       penalty where one mask is sought, and is `step` where many are.
    2. The divergence is KL(P ‖ network), averaged over records: the other way round it has
       nearly no slope on what is memorised.
    3. P is the mean posterior of the non-members of the class that the network gives the
       record; few of them are shrunk towards all, with the largest entry in that class's place.
       Of a sequence model it is the mean at each position. Poisoned records take the posterior of
       clean ones that are answered rightly (`target="clean"`).
    4. By default OWL-QN minimises, which knows of the kinks of absolute values. With
       `profile="paper"` it is L-BFGS by automatic differentiation, which stays at no mask at all
       where the penalty outweighs most gradients, and never makes an entry exactly 0.
    5. By default omega is at least a tenth of its mean: a weight that no record of a small probe
       minds would be free to go anywhere.
    6. By default it stops when the divergence has fallen to a quarter, and goes back to the last
       iterate within the `budget` of accuracy on the probe. The paper names no rule.
    7. Batches are added up, so that a forget set may be of any size. Memory beside the network
       is twice the history and eight more rows of as many numbers as it has weights, and eight
       further ones with `profile="paper"`, whose optimiser keeps copies of its own.
    8. Non-members are compared with the training records by content, which reads these once:
       what else is done grows with the forget set alone.
"""

import copy
import logging
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from expunge.core import lbfgs, notes, owlqn
from expunge.core.cost import Cost, paused
from expunge.core.descent import show
from expunge.core.masked import Masked, Target
from expunge.core.owlqn import Iterate, Limits, largest_weight
from expunge.core.posterior import NONE, by_class, by_position, sums_by_class, sums_by_position
from expunge.core.rng import generator
from expunge.core.sample import unknown
from expunge.core.state import mode, without_cudnn
from expunge.data.strata import draw
from expunge.method import Method, MethodCard, Preset, Search, Sizes
from expunge.types import Data, Refused, Request

log = logging.getLogger(__name__)

ENOUGH = 5  # non-members of a class, below which their mean is shrunk
LEAST = 32  # records of a probe: of fewer, omega is mostly 0
LOOKED = 128  # most of them that answer after every iteration: time is that of the forget set
OVERLAP = 0.05  # share of non-members that may be training records by chance, and are left out
ENDED = 1e-6  # relative decrease of the objective in an iteration after which there is no other
STILL = 0.99  # share of the divergence that is left where nothing was forgotten


def weigh(
    omega: Float[Tensor, " p"], penalty: float, floor: float, reduction: Literal["sum", "mean"]
) -> Float[Tensor, " p"]:
    """Return what each weight's change is multiplied by.

    Args:
        omega: How much the retained records mind a change.
        penalty: Lambda.
        floor: Least omega, as a share of its mean.
        reduction: Whether changes are added up or averaged.
    """
    share = penalty / (len(omega) if reduction == "mean" else 1)
    return omega.clamp(min=floor * float(omega.double().mean())).mul_(share)


def relative(gradient: Float[Tensor, " p"], weights: Float[Tensor, " p"], share: float) -> float:
    """Return how large the penalty is beside what holds that share of the weights at 0.

    A weight stays at 0 where its gradient is no larger than its weight in the penalty. Above 1
    more than that share of them stay there at first.
    """
    ratio = gradient.abs().div_(weights).nan_to_num_(nan=0.0)
    middle = float(ratio.kthvalue(max(1, round(share * len(ratio)))).values)
    return 1 / middle if middle else float("inf")


@dataclass(frozen=True, kw_only=True)
class Forsaken(Method):
    """Seek a sparse change of the weights under which forgotten records look never trained on.

    A search that ends where it began is told by a warning and by the note `stalled`, and the
    model is returned unchanged: a table of penalties has such rows. The notes have a trace of all
    iterations, `lambda_max`, from which on no weight moves, and `lambda_relative`, the penalty
    beside the one that holds nine tenths of the weights, which can be compared between networks.

    Attributes:
        profile: `robust` minimises by OWL-QN, `paper` by L-BFGS as if absolute values had no
            kinks; they differ in the defaults of `floor`, `stop` and `budget` too.
        mode: Whether one mask is sought (`joint`) or one after another (`incremental`).
        iterations: At most: of the optimiser, or masks one after another.
        inner: Iterations of the optimiser for each of several masks.
        step: What share of each of several masks is taken before the next; ξ in the paper.
        penalty: Of the changes, times omega; λ in the paper.
        omega: Whether omega is measured; without it every weight's is 1, for which the
            paper's penalties are 0.1 and 1.
        floor: Least omega, as a share of its mean; left out 0.1 (`robust`) or 0 (`paper`).
        reduction: Whether the penalty adds changes up or averages them.
        target: Whose posterior is aimed at: of the non-members that the network gives the same
            class as the record (`predicted`), or of all that it answers rightly, which must be
            clean records of the class that poisoned records belong to (`clean`).
        probe: Share of the retained records, of every class alike and at least 32, that omega
            is measured on, and accuracy on at most 128 of them.
        stop: Share of the divergence at the start from which on it ends; left out 0.25
            (`robust`) or 0 (`paper`), which never is.
        budget: Accuracy on the probe that may be lost; left out 0.1 (`robust`) or all (`paper`).
        history: Pairs of steps and gradient changes that curvature is taken from; two rows of
            as many numbers as there are weights each.
        batch_size: Records at once; no part of the result but for rounding.
    """

    card = MethodCard(
        name="forsaken",
        source="https://arxiv.org/abs/2003.10933",
        needs=("original", "retain", "forget", "nonmembers"),
        norms="frozen: read in eval mode, never estimated anew",
        null={"iterations": 0},
        toy={"iterations": 8},
        tasks=("classification", "next_token"),
        foreseen="at most",
        search={"penalty": Search(0.1, 1000.0, log=True)},
        presets={
            "paper": Preset(
                {"profile": "paper", "iterations": 60, "penalty": 10.0},
                "https://arxiv.org/abs/2003.10933, Tables III, V, VII and XVI, whose times are "
                "those of 60 iterations",
            ),
            "paper_blocked": Preset(
                {"profile": "paper", "iterations": 60, "penalty": 100.0},
                "https://arxiv.org/abs/2003.10933, Table VIII, last column",
            ),
        },
        mechanisms=("choose by gradients", "train on forget"),
    )

    profile: Literal["robust", "paper"] = "robust"
    mode: Literal["joint", "incremental"] = "joint"
    iterations: int = 60
    inner: int = 5
    step: float = 1.0
    penalty: float = 10.0
    omega: bool = True
    floor: float | None = None
    reduction: Literal["sum", "mean"] = "sum"
    target: Literal["predicted", "clean"] = "predicted"
    probe: float = 0.005
    stop: float | None = None
    budget: float | None = None
    history: int = 10
    batch_size: int = 256

    def __post_init__(self) -> None:
        if not (self.iterations >= 0 and min(self.inner, self.history, self.batch_size) >= 1):
            raise ValueError(
                "expected iterations >= 0 and inner, history and batch_size >= 1, got "
                f"{self.iterations}, {self.inner}, {self.history} and {self.batch_size}"
            )
        if not (self.penalty >= 0 and (self.floor or 0) >= 0 and 0 < self.step <= 1):
            raise ValueError(
                "expected penalty and floor >= 0 and step in (0, 1], got "
                f"{self.penalty}, {self.floor} and {self.step}"
            )
        if not (0 < self.probe <= 1 and 0 <= (self.stop or 0) < 1 and (self.budget or 0) >= 0):
            raise ValueError(
                "expected probe in (0, 1], stop in [0, 1) and budget >= 0, got "
                f"{self.probe}, {self.stop} and {self.budget}"
            )
        if self.step != 1 and self.mode == "joint":
            raise ValueError(
                "step is about masks one after another; with mode 'joint' it would only rescale "
                "the penalty: leave it out"
            )

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        warnings: list[str] = []
        others = self._nonmembers(request, warnings)
        if not self.iterations:
            return model
        probe = _some(request.retain, self._probed(len(request.retain)), seed)
        with mode(model, training=False), without_cudnn(model):
            masked = Masked(model, request, self.batch_size, seed)
            masked.target = self._aim(masked, request, others, warnings)
            weights = self._weights(masked, probe)
            search = _Search(self, model, request, masked, _some(probe, LOOKED, seed), weights)
            warnings += search.run()
        notes.add("warnings", warnings)
        for text in warnings:
            log.warning("forsaken: %s", text)
        return model

    def resolved(self) -> tuple[float, float, float]:
        """Return floor, stop and budget: those given, or the profile's."""
        own = (self.floor, self.stop, self.budget)
        theirs = (0.1, 0.25, 0.1) if self.profile == "robust" else (0.0, 0.0, float("inf"))
        floor, stop, budget = (b if a is None else a for a, b in zip(own, theirs, strict=True))
        return floor, stop, budget

    def limits(self) -> Limits:
        """Return when one minimisation ends at the latest."""
        iterations = self.iterations if self.mode == "joint" else self.inner
        return Limits(iterations, 3 * iterations + lbfgs.STEP, change=ENDED)

    def _nonmembers(self, request: Request, warnings: list[str]) -> Data:
        """Return the non-members that are none of the training records.

        Raises:
            Refused: Where there are none, or where they are training records.
        """
        if self.target == "clean" and request.forget.y.dim() > 1:
            raise Refused(
                "target 'clean' is for records of one class, but these have an answer at every "
                "position; take 'predicted'"
            )
        given = request.nonmembers
        others = unknown(given, request.forget, request.retain)
        lost = len(given) - len(others)
        if lost > OVERLAP * len(given):
            raise Refused(
                f"{lost} of {len(given)} non-members are training records by their content, so "
                "that forsaken would aim at what the model answers to records it knows; give "
                "records that were never trained on"
            )
        if lost:
            warnings.append(
                f"{lost} of {len(given)} non-members are training records by their content, "
                "and were left out"
            )
        if not len(others):
            raise Refused(NONE)
        return others

    def _aim(self, masked: Masked, request: Request, others: Data, warnings: list[str]) -> Target:
        """Return the posterior for each forgotten record."""
        if request.forget.y.dim() > 1:
            return Target(by_position(sums_by_position(masked.answers(others))).log().float(), None)
        if self.target == "clean":
            return _clean(masked, others)
        sums = sums_by_class(masked.answers(others))
        group = torch.cat([logits.argmax(-1) for logits, _ in masked.answers(request.forget)])
        met = {str(k): int(sums.records[k]) for k in group.unique().tolist()}
        notes.add("nonmembers_by_class", met)
        none = [k for k, count in met.items() if not count]
        if none:
            warnings.append(
                f"no non-member is given class {', '.join(none[:5])}, as forgotten records are; "
                "all non-members stand in, with the largest entry in that class's place"
            )
        return Target(by_class(sums, ENOUGH).log().float(), group)

    def _weights(self, masked: Masked, probe: Data) -> Float[Tensor, " p"]:
        """Return what each weight's change costs."""
        if not self.omega:
            return weigh(masked.nothing().add_(1), self.penalty, 0.0, self.reduction)
        omega = masked.omega(probe)
        zero = float((omega == 0).double().mean())
        notes.add("omega", {"mean": float(omega.double().mean()), "zero": zero})
        return weigh(omega, self.penalty, self.resolved()[0], self.reduction)

    def _probed(self, retain: int) -> int:
        return min(retain, max(LEAST, round(self.probe * retain)))

    def work(self, sizes: Sizes) -> Cost:
        if not self.iterations:
            return Cost()
        masks = self.iterations if self.mode == "incremental" else 1
        evaluations = 1 + masks * self.limits().evaluations
        looks = masks if self.mode == "incremental" else 0  # at the divergence alone
        probe = self._probed(sizes.retain)
        return Cost(
            forward=sizes.nonmembers
            + sizes.forget * (1 + evaluations + looks)
            + min(probe, LOOKED) * (1 + self.iterations)
            + probe * self.omega,
            backward=sizes.forget * evaluations + probe * self.omega,
        )


class _Search:
    """One run: what it has found so far, and what is told of it."""

    def __init__(
        self,
        how: Forsaken,
        model: nn.Module,
        request: Request,
        masked: Masked,
        probe: Data,
        weights: Float[Tensor, " p"],
    ) -> None:
        self._how, self._model, self._request = how, model, request
        self._masked, self._probe, self._weights = masked, probe, weights
        self._minimise = owlqn.minimise if how.profile == "robust" else lbfgs.minimise
        _, self._stop, self._budget = how.resolved()
        names = ("kl", "penalty", "nonzeros", "probe_accuracy", "evaluations")
        self._trace: dict[str, list[float]] = {name: [] for name in names}
        self._left = 0.0  # divergence with what was found
        self._ended = ""

    def run(self) -> list[str]:
        """Change the model; return warnings."""
        largest = self._begin()
        seek = self._joint if self._how.mode == "joint" else self._incremental
        moved = seek()
        stalled = not moved or self._left > STILL * self._trace["kl"][0]
        notes.add("nonzeros", moved)
        notes.add("ended", self._ended)
        notes.add("stalled", stalled)
        notes.add("trace", self._trace)
        return [self._why(moved, largest)] if stalled else []

    def _begin(self) -> float:
        """Measure where it begins; return the penalty from which on no weight moves there."""
        nothing, gradient = self._masked.nothing(), self._masked.nothing()
        self._left = self._masked.smooth(nothing, gradient)
        self._tell(self._left, 0.0, nothing, 1)
        penalty, largest = self._how.penalty, float("inf")
        if penalty:
            largest = penalty * largest_weight(gradient, self._weights)
            notes.add("lambda_relative", relative(gradient, self._weights, 0.9))
        notes.add("lambda_max", largest)
        return largest

    def _tell(self, kl: float, penalty: float, change: Tensor, evaluations: int) -> bool:
        """Add an iteration to the trace; return whether its accuracy is within the budget."""
        accuracy = self._masked.accuracy(self._probe)
        told = (kl, penalty, _moved(change), accuracy, evaluations)
        for name, value in zip(self._trace, told, strict=True):
            self._trace[name].append(value)
        return accuracy >= self._trace["probe_accuracy"][0] - self._budget

    def _over(self, kl: float, *, within: bool) -> bool:
        """Return whether it ends after this iteration, and keep why."""
        if not within:
            self._ended = "budget"
        elif kl <= self._stop * self._trace["kl"][0]:
            self._ended = "forgotten"
        return bool(self._ended)

    def _show(self, change: Tensor | None) -> None:
        """Show a watcher the model, with a change, after the iteration that was told last."""
        if self._request.watch is None:
            return
        with paused():
            shown = copy.deepcopy(self._model)
            if change is not None:
                self._masked.keep(change, shown)
            show(self._request.watch, shown, len(self._trace["kl"]) - 2)

    def _joint(self) -> float:
        """Seek one mask and apply the last iterate within the budget; return what share moved."""
        change, best = self._masked.nothing(), self._masked.nothing()

        def after(here: Iterate) -> bool:
            self._masked.place(here.x)
            within = self._tell(here.smooth, here.penalty, here.x, here.evaluations)
            if within:
                best.copy_(here.x)
                self._left = here.smooth
            self._show(here.x)
            return self._over(here.smooth, within=within)

        ended = self._minimise(
            self._masked.smooth,
            change,
            self._weights,
            self._how.limits(),
            history=self._how.history,
            after=after,
        )
        self._ended = self._ended or ended
        self._masked.keep(best)
        return _moved(best)

    def _incremental(self) -> float:
        """Seek masks one after another, each from where the last left; return what share moved."""
        total = self._masked.nothing()
        for _ in range(self._how.iterations):
            change = self._masked.nothing()
            ended = self._minimise(
                self._masked.smooth,
                change,
                self._weights,
                self._how.limits(),
                history=self._how.history,
            )
            if not bool(change.any()):
                self._ended = ended
                break
            change *= self._how.step
            kl = self._masked.divergence(change)
            within = self._tell(kl, owlqn.penalty(change, self._weights), change, 0)
            if within:
                self._masked.keep(change)
                total += change
                self._left = kl
            self._show(None)
            if self._over(kl, within=within):
                break
        self._ended = self._ended or "iterations"
        return _moved(total)

    def _why(self, moved: float, largest: float) -> str:
        """Return what kept it from forgetting, and what to do."""
        kept = "next to nothing was forgotten" if moved else "the model is returned as it was"
        penalty = self._how.penalty
        if self._trace["kl"][0] < 1e-6:
            return f"{kept}: it answers as if it had never been trained on these records already"
        if self._ended == "budget":
            return (
                f"{kept}: more than {self._budget:g} of the accuracy on the probe would be lost; "
                "raise `budget` or `penalty`"
            )
        if penalty >= largest:
            return (
                f"{kept}: from a penalty of {largest:.3g} on no weight is worth changing, and it "
                f"is {penalty:g}; lower `penalty`"
            )
        if self._how.profile == "paper":
            return (
                f"{kept}: L-BFGS found no lower point, as where the penalty, {penalty:g}, "
                "outweighs most gradients; lower `penalty`, or take profile = 'robust'"
            )
        return f"{kept}: it ended by '{self._ended}'; lower `penalty`, or allow more iterations"


def _some(data: Data, count: int, seed: int) -> Data:
    """Return at most `count` of the records, of every class alike."""
    return data.select(draw(data.y, min(count, len(data)), generator(seed, "probe")))


def _moved(change: Float[Tensor, " p"]) -> float:
    """Return the share of numbers that are not 0."""
    return int(change.count_nonzero()) / max(1, len(change))


def _clean(masked: Masked, others: Data) -> Target:
    """Return the mean posterior of the non-members that are answered rightly, for all records.

    Raises:
        Refused: Where they are of several classes, or none is answered rightly.
    """
    classes = others.y.unique().tolist()
    if len(classes) != 1:
        raise Refused(
            "target 'clean' takes non-members for records of the one class that poisoned records "
            f"belong to, but these are of {len(classes)} classes; give clean records of that "
            "class alone, or take target = 'predicted'"
        )
    right = ((logits[logits.argmax(-1) == y], y) for logits, y in masked.answers(others))
    sums = sums_by_class(right)
    if not int(sums.records.sum()):
        raise Refused(
            f"the model answers none of {len(others)} clean records rightly, so that nothing "
            "tells how it should answer; take target = 'predicted'"
        )
    return Target(by_class(sums, 1)[classes[0]][None].log().float(), None)
