"""Reminiscence attack on a class: was it trained on and unlearned, or never trained on?

Xiao, Ye, Hu, Zheng, Hu, Liang, Li and Jiao, "Reminiscence Attack on Residuals: Exploiting
Approximate Machine Unlearning for Privacy", ICCV 2025, https://arxiv.org/abs/2507.20573

A class is taught to the model in the slot that the forgotten class has left, by a few of its
records. What was learned once comes back within steps; what never was takes longer. The attacker
needs the weights, some records of the class, retained records and the slot, but neither the
original nor shadow models. Steps, rates and sizes are those of the authors' code,
https://github.com/orthogonalunlearning-replay/OUR, since of the paper we know the abstract.

Departures from the paper:
    1. The authors' code compares the mean times of the forgotten class and of a class never
       trained on. Here the time becomes a decision: member if faster than all but a twentieth of
       the trials on each of several classes never trained on. Those are judged by one another.
    2. Every trial has an optimiser and BatchNorm statistics of its own. The code goes on with the
       first arm's momentum in the second.
    3. All classes' records are answered with the slot. The code gives the unseen class its number
       in the whole data set.
    4. All arms have as many candidates, in orders drawn alike, beside the same retained records.
       No curve is smoothed.
    5. How fast a class is learned is its own as well. So original and retrained models are
       attacked alike, with all outputs kept, and the interval where a class never trained on
       would lie is that of the withheld classes, each in turn taken for the forgotten one.
    6. The adaptive attacker's learning rate is chosen on a surrogate: the same model, of which a
       retained class was unlearned by wrong labels and its slot cleared, against withheld classes.
       The forgotten class has no part in it.
    7. A black box is copied by asking it about the retained records; the authors synthesise them.
       A copy learns only what these ask for: where nothing of the forgotten class shows in the
       answers to them it has none of it, and finds nothing.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from expunge import stats
from expunge.audit import Answer, Audit, AuditCard, Case
from expunge.config import plain
from expunge.core.cost import Cost
from expunge.core.descent import Pass, descend
from expunge.core.head import find_head
from expunge.core.relearn import (
    Lesson,
    Trial,
    deal,
    first_at,
    relearn,
    speed,
    threshold,
)
from expunge.core.rng import derive, fenced, generator
from expunge.core.state import device_of
from expunge.core.view import View
from expunge.data.relabelled import Relabelled
from expunge.extraction import check_reach, price, reached
from expunge.stats import Interval
from expunge.subject import Access, Refused, Subject
from expunge.types import Data, Descent, Json, Preset, Recipe, Request, each

CODE = "https://github.com/orthogonalunlearning-replay/OUR"
ADAPTIVE = (
    "share: README of https://github.com/Overunlearning-Replay/Over-unlearningAndReplay; rates: "
    f"{CODE}; twice the steps are our choice"
)
RATES = (0.001, 0.005, 0.006, 0.01, 0.012)  # that the authors' code sweeps
FPR = 0.05  # at most, of the decision

VACATING = Descent(lr=0.01, epochs=5, batch_size=32)
"""How the attacker unlearns a class of his own choice."""


@dataclass(frozen=True, kw_only=True)
class ReminiscenceClass(Audit):
    """Does the model learn the forgotten class again faster than classes never trained on?

    Attributes:
        trials: Attempts on each class, each with other candidates.
        share: Of the forgotten class's records, how many the attacker has.
        retained: Retained records beside each candidate.
        steps: At most so many; a step shows one candidate, none comes twice.
        accuracy: Share of the candidates told at which a class counts as learned.
        cap: Time of a trial that never gets there, or later; None is the number of steps.
        asked: How many candidates are asked about after each step, evenly among those that are
            shown and those that are not; None asks about all.
        lr: Learning rate of the trials (SGD, momentum 0.9, no decay).
        sweep: Learning rates of the adaptive attacker, who takes the one with the best area
            under the ROC curve on a surrogate; left out, `lr` is taken.
        sweep_trials: Attempts on each class of the surrogate.
        surrogates: Withheld classes that the surrogate's class is told from: the next ones after
            the `unseen`, or where there are too few the first of those.
        unseen: Withheld classes that the forgotten one is told from. Where whole classes differ in
            how fast they are learned, fewer than 19 cannot hold false positives at 5 %.
        extract: Epochs for which a copy learns the model's answers on the retained records; the
            copy is attacked then, as that of a black box. 0 attacks the model itself.
        seed: Of all draws: it is the attack's own, so that all models are attacked alike.
    """

    card = AuditCard(
        name="reminiscence_class",
        source="https://arxiv.org/abs/2507.20573",
        access=Access.QUERIES,
        alone=True,
        tasks=("classification",),
        decides=True,
        unit="balanced accuracy at 5 % false positives; 0.5 is chance",
        quick=False,
        trains=True,
        probes=True,
        withheld=True,
        toy={
            "trials": 10,
            "share": 0.5,
            "retained": 4,
            "lr": 0.05,
            "unseen": 4,
            "extract": 2,
        },
        presets={
            "cifar20": Preset({"share": 0.03, "retained": 14}, CODE),
            "cifar100": Preset({"share": 0.2, "retained": 4}, CODE),
            "adaptive_cifar20": Preset(
                {"share": 0.1, "retained": 14, "steps": 150, "sweep": list(RATES)}, ADAPTIVE
            ),
            "adaptive_cifar100": Preset(
                {"share": 0.3, "retained": 4, "steps": 150, "sweep": list(RATES)}, ADAPTIVE
            ),
        },
    )

    trials: int = 40
    share: float = 0.03
    retained: int = 14
    steps: int = 75
    accuracy: float = 0.9
    cap: int | None = None
    asked: int | None = None
    lr: float = 0.01
    sweep: tuple[float, ...] = ()
    sweep_trials: int = 10
    surrogates: int = 2
    unseen: int = 5
    extract: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.trials, self.sweep_trials, self.retained, self.steps)
        if min(counts) < 1 or self.extract < 0:
            raise ValueError(
                "expected trials, sweep_trials, retained and steps >= 1 and extract >= 0, got "
                f"{', '.join(map(str, counts))} and {self.extract}"
            )
        if not (0 < self.share <= 1 and 0 < self.accuracy <= 1):
            raise ValueError(
                f"expected share and accuracy in (0, 1], got {self.share} and {self.accuracy}"
            )
        if min((self.lr, *self.sweep)) <= 0:
            raise ValueError(f"expected learning rates above 0, got {self.lr} and {self.sweep}")
        if (self.cap is not None and self.cap < 1) or (self.asked is not None and self.asked < 1):
            raise ValueError(f"expected cap and asked >= 1, got {self.cap} and {self.asked}")
        if self.unseen < 3 or not 1 <= self.surrogates <= self.unseen:
            raise ValueError(
                "expected at least 3 unseen classes, since classes differ in how fast they are "
                "learned and each is judged by the others, and 1 to as many surrogates; got "
                f"{self.unseen} and {self.surrogates}"
            )

    def check(self, case: Case) -> None:
        super().check(case)
        check_reach(case, self.extract, self.card.name)
        self._check_classes(case)
        self._check_slot(case)

    def _check_classes(self, case: Case) -> None:
        """Refuse what is not a deletion of whole classes beside classes withheld."""
        needed = self.unseen
        if case.unseen is None:
            raise Refused(
                "no withheld classes: the attack cannot be calibrated; give the data as "
                f'name = "withheld" with at least {needed} classes'
            )
        request, counts = case.request, case.unseen.y.cpu().bincount()
        if len(counts) < needed:
            raise Refused(
                f"{self.card.name} needs {needed} withheld classes, each to be judged by the "
                f"others, got {len(counts)}; withhold more"
                + ("" if len(counts) < 3 else ", or lower `unseen`")
            )
        gone = request.forget.y.unique()
        left = int(torch.isin(request.retain.y, gone).sum())
        if left:
            raise Refused(
                f"{self.card.name} teaches a class in the slot that it has left, but {left} "
                f"retained records are of the {len(gone)} classes to be forgotten; forget whole "
                'classes: name = "class" without `fraction`'
            )
        size = self.candidates(request)
        if int(counts[:needed].min()) < size:
            raise Refused(
                f"every class is attacked with {size} candidates, {self.share:g} of the forgotten "
                f"class, but a withheld one has {int(counts[:needed].min())} records; lower `share`"
            )

    def _check_slot(self, case: Case) -> None:
        """Refuse a model whose head has not an output for each class, forgotten ones included."""
        one = case.request.forget.take(torch.arange(1)).x
        wanted, slots = case.request.task.outputs, case.request.forget.y.unique().tolist()
        for subject in (case.unlearned, case.original, *case.retrained):
            known = subject.access >= Access.WEIGHTS  # a stand-in may be elsewhere than the records
            here = device_of(subject.model) if known else case.request.forget.y.device
            outputs = subject.outputs(each(one, lambda part, here=here: part.to(here)))
            if outputs.dim() != 2 or outputs.shape[1] != wanted:
                raise Refused(
                    f"a model answers with shape {tuple(outputs.shape[1:])}, expected {wanted} "
                    f"answers, with the slot of class {', '.join(map(str, slots[:3]))} among them; "
                    "keep the outputs of forgotten classes, in retrained models too, since speeds "
                    "in heads of other sizes do not compare"
                )

    def candidates(self, request: Request) -> int:
        """Return how many records of each class the attacker has: as many of all."""
        sizes = request.forget.y.unique(return_counts=True)[1]
        return max(1, round(self.share * int(sizes.min())))

    def work(self, request: Request, test: Data) -> Cost:
        del test
        size, slots = self.candidates(request), len(request.forget.y.unique())
        steps, asked = min(self.steps, size), min(size, self.asked or size)
        trials = self.trials * slots * (1 + self.unseen)
        surrogates = len(self.sweep) * self.sweep_trials * (1 + self.surrogates)
        runs = (trials + surrogates) * steps
        shown = runs * (1 + self.retained)
        learned = Cost(forward=shown + runs * asked, backward=shown)
        return learned + price(self.extract, len(request.retain))

    def ask(self, subject: Subject, case: Case, seed: int) -> Answer:
        del seed
        unseen = case.unseen
        assert unseen is not None  # a case without has been refused

        def attack() -> Mapping[str, Tensor]:
            return Attack(self, subject, case.request, unseen).run()

        about: dict[str, Json] = {"audit": plain(self), "subject": subject.digest}
        about |= {"recipe": plain(case.request.recipe), "unseen": unseen.digest}
        about |= {part: getattr(case.request, part).digest for part in ("retain", "forget")}
        stored = case.lab is not None and subject.digest is not None
        kept = case.lab.keep(about, attack) if case.lab is not None and stored else attack()
        return self._answer(kept["trajectories"], float(kept["lr"]))

    def _answer(self, trajectories: Float[Tensor, "classes trials steps"], lr: float) -> Answer:
        """Return what the trials tell; the forgotten class comes first."""
        scores = speed(trajectories, self.accuracy, self.cap)
        times = first_at(trajectories, self.accuracy, self.cap).double()

        def summary(*groups: Tensor) -> dict[str, Tensor]:
            return judged(groups[0], groups[1:])

        answer = Answer.over(
            summary,
            *scores,
            null=by_chance([*scores[1:]]),
            arrays={
                "trajectories": trajectories.mean(1),
                "trajectories_low": trajectories.quantile(0.05, dim=1),
                "trajectories_high": trajectories.quantile(0.95, dim=1),
                "scores": scores,
                "t90": times.long(),
            },
            warnings=(*_blind(trajectories), *_warned(trajectories.shape[1], self.unseen)),
        )
        gaps = times[1:].mean(0) - times[0]
        faster = scores[0].mean() > scores[1:].mean(1)
        return answer.plus(
            {
                "t90_forgotten": float(times[0].mean()),
                "t90_never_trained": float(times[1:].mean()),
                "t90_gap": float(gaps.mean()),
                "t90_gap_deviation": float(gaps.std()) if len(gaps) > 1 else float("nan"),
                "faster_than": float(faster.double().mean()),
                "lr": lr,
            }
        )


def judged(
    members: Float[Tensor, "*batch m"], unseen: Sequence[Float[Tensor, "*batch n"]]
) -> dict[str, Tensor]:
    """Return how well thresholds from classes never trained on tell a class from them.

    Trials are of members where they score above the thresholds of all those classes but one: each
    is left out in turn, and its own trials are judged then by the same thresholds. So a class
    that is like them has a balanced accuracy of a half on average, however much classes differ.

    Args:
        members: Scores of the class taken for forgotten.
        unseen: Those of each class never trained on, at least two.
    """
    each = torch.stack([threshold(scores, FPR) for scores in unseen])
    rest = [torch.cat([each[:i], each[i + 1 :]]).amax(0)[..., None] for i in range(len(each))]

    def above(scores: Tensor, level: Tensor) -> Tensor:
        return (scores > level).double().mean(-1)

    tpr = torch.stack([above(members, level) for level in rest]).mean(0)
    fpr = torch.stack([above(*pair) for pair in zip(unseen, rest, strict=True)]).mean(0)
    area = stats.auc(members, torch.cat([*unseen], -1))
    return {"balanced_accuracy": (1 + tpr - fpr) / 2, "tpr": tpr, "fpr": fpr, "auc": area}


def by_chance(unseen: Sequence[Float[Tensor, " n"]]) -> Interval:
    """Return where the balanced accuracy of one more class never trained on lies, at 95 %.

    Each of those at hand is taken for the forgotten one in turn. Few classes make it wide: of a
    handful, how much classes differ cannot be known well.
    """
    values = [
        float(judged(scores, [*unseen[:i], *unseen[i + 1 :]])["balanced_accuracy"])
        for i, scores in enumerate(unseen)
    ]
    center, n = sum(values) / len(values), len(unseen[0])
    reach = max(stats.spread(values) or 0.0, 1.96 * (FPR * (1 - FPR) / n) ** 0.5 / 2)
    return Interval.share(center, reach, len(values))


def _blind(trajectories: Float[Tensor, "classes trials steps"]) -> tuple[str, ...]:
    """Return a warning where no trial on a class never trained on learns anything."""
    steps = trajectories.shape[-1]
    if trajectories[1:].any():
        return ()
    nor = "" if trajectories[0].any() else ", nor one of the forgotten class"
    return (
        f"after none of {steps} steps is a candidate of a class never trained on told{nor}: their "
        "scores tie, and neither how fast such a class is learned is known nor how much classes "
        "differ; raise `steps` or `lr`",
    )


def _warned(trials: int, classes: int) -> tuple[str, ...]:
    """Return a warning where so many trials, or classes, cannot hold the false positive rate."""
    least = round(1 / FPR) - 1
    said = []
    if trials < least:
        said.append(
            f"{trials} trials on a class cannot hold false positives on classes like it at "
            f"{100 * FPR:g} %, but at {100 / (trials + 1):.0f} %; it takes at least {least}"
        )
    if classes < least:
        said.append(
            f"{classes} classes never trained on: where whole classes differ in how fast they are "
            f"learned, one more would be the fastest in {100 / (classes + 1):.0f} % of cases and "
            f"accused; to hold that at {100 * FPR:g} % takes {least} withheld classes"
        )
    return tuple(said)


class Attack:
    """One attack on one model."""

    def __init__(
        self, audit: ReminiscenceClass, subject: Subject, request: Request, unseen: Data
    ) -> None:
        self.audit, self.request, self.recipe = audit, request, request.recipe
        self.steps = min(audit.steps, audit.candidates(request))
        classes = [of_class(unseen, k) for k in range(int(unseen.y.max()) + 1)]
        self.unseen, others = classes[: audit.unseen], classes[audit.unseen :]
        enough = others if len(others) >= audit.surrogates else self.unseen
        self.surrogates = enough[: audit.surrogates]
        self.network = reached(subject, self.recipe, request.retain, audit.extract, audit.seed)

    def run(self) -> dict[str, Tensor]:
        """Return all trajectories, class by class, and the learning rate."""
        lr = self._chosen() if self.audit.sweep else self.audit.lr
        lesson, found = self._lesson(lr), []
        for slot in self.request.forget.y.unique().tolist():
            arms = [of_class(self.request.forget, slot), *self.unseen]
            trials = self._trials(arms, self.request.retain, slot, self.audit.trials)
            found.append(self._told(self.network, trials, len(arms), lesson))
        return {"trajectories": torch.cat(found, 1), "lr": torch.tensor(lr, dtype=torch.double)}

    def _lesson(self, lr: float) -> Lesson:
        audit = self.audit
        return Lesson(lr=lr, steps=self.steps, retained=audit.retained, asked=audit.asked)

    def _trials(self, arms: Sequence[Data], retain: Data, slot: int, count: int) -> list[Trial]:
        """Return so many trials on each arm's class, arm after arm.

        Trials of one number are shown the same retained records, whatever the class.
        """
        seed, size = self.audit.seed, self.audit.candidates(self.request)
        beside = self.steps * self.audit.retained
        made = []
        for arm in arms:
            for number in range(count):
                mine = deal(len(arm), size, generator(seed, "candidates", number))
                theirs = deal(len(retain), beside, generator(seed, "retained", number))
                answers = torch.full((size,), slot).to(retain.y)
                candidates = Relabelled(View(arm, mine), answers)
                made.append(Trial(candidates, View(retain, theirs), derive(seed, "trial", number)))
        return made

    def _told(
        self, network: nn.Module, trials: Sequence[Trial], arms: int, lesson: Lesson
    ) -> Float[Tensor, "arms count steps"]:
        return relearn(network, trials, self.recipe, lesson).unflatten(0, (arms, -1))

    def _chosen(self) -> float:
        """Return the learning rate that tells the surrogate's class best, or soonest of equals."""
        audit, retain = self.audit, self.request.retain
        known = retain.y.unique()
        draw = torch.randint(len(known), (1,), generator=generator(audit.seed, "surrogate"))
        slot = int(known[draw])
        own, others = of_class(retain, slot), View(retain, (retain.y != slot).nonzero()[:, 0])
        network = vacated(self.network, slot, own, self.recipe, audit.seed)
        arms = [own, *self.surrogates]
        trials = self._trials(arms, others, slot, audit.sweep_trials)

        def worth(lr: float) -> tuple[float, float]:
            told = self._told(network, trials, len(arms), self._lesson(lr))
            scores = speed(told, audit.accuracy, audit.cap)
            gap = scores[0].mean() - scores[1:].mean()
            return float(stats.auc(scores[0], scores[1:].flatten())), float(gap)

        return max(audit.sweep, key=worth)


def of_class(data: Data, number: int) -> Data:
    """Return the records of one class."""
    return View(data, (data.y == number).nonzero()[:, 0])


def vacated(network: nn.Module, slot: int, own: Data, recipe: Recipe, seed: int) -> nn.Module:
    """Return a copy that no longer tells a class: its row of the head is cleared, and unlearned.

    Args:
        network: Left as found.
        slot: The class.
        own: Its records, which are given wrong answers.
        recipe: Has the task, and poses the records.
        seed: Of the wrong answers, of the order, and of what the network draws.

    Raises:
        ValueError: Where the network does not end in a linear layer.
    """
    copied, draws = copy.deepcopy(network).requires_grad_(True), generator(seed, "vacate")
    name = find_head(copied, own.take(torch.arange(1)).x, recipe.task.outputs)
    head = copied.get_submodule(name)
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight[slot] = 0
        if head.bias is not None:
            head.bias[slot] = 0
    wrong = Relabelled(own, recipe.task.relabel(own.y, draws))
    teach = Pass(wrong, lambda batch: recipe.task.loss(copied, batch), "update")
    with fenced(derive(seed, "vacate")):
        descend(copied, [[teach]] * VACATING.epochs, VACATING, recipe, draws)
    return copied
