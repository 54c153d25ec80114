"""How fast a denoiser learns again to draw what it was to forget.

The generative form of the reminiscence attack: Xiao, Ye, Hu, Zheng, Hu, Liang, Li and Jiao,
"Reminiscence Attack on Residuals: Exploiting Approximate Machine Unlearning for Privacy",
ICCV 2025, https://arxiv.org/abs/2507.20573

The attacker fine-tunes the unlearned model on images of a class that were never trained on, in the
slot that the class had, and watches how soon samples show it. A class that was only hidden comes
back sooner than one that was never learned.

Departures from the paper, whose text is not public; what is known of it is its code's:
    1. A small denoiser conditioned on classes stands in for Stable Diffusion and persons, and a
       classifier trained here for the score of a face's identity.
    2. Models retrained without the class are attacked alike, in the same slot and on the same
       images: what is compared is the same class, learned once or never. Persons never trained on
       have their part where classes were withheld: each is taught to the model in the slot of the
       first forgotten class.
    3. Retained images are mixed in, as in the attack on classifiers; the code has the candidate's
       images alone.
    4. The score is the mean over rounds of how many samples are recognised, the area under the
       curve. The code has the curve and no rule of decision.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from statistics import fmean
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from expunge import stats
from expunge.audit import Answer, Audit, AuditCard, Case
from expunge.config import plain
from expunge.core.cost import Cost
from expunge.core.descent import Pass, descend, train
from expunge.core.diffusion import check_installed, generate
from expunge.core.relabel import Sample
from expunge.core.relearn import first_at
from expunge.core.rng import derive, fenced, generator
from expunge.core.state import mode
from expunge.core.view import View
from expunge.data.relabelled import Relabelled
from expunge.models.convnet import ConvNet
from expunge.models.mlp import MLP
from expunge.stats import Interval
from expunge.subject import Access, Refused, Subject, WhiteBox
from expunge.tasks.categorical import Classification
from expunge.tasks.denoising import Denoising
from expunge.types import Architecture, Augment, Batch, Data, Descent, Json, Recipe, Request

Told = Mapping[str, Tensor]

WEAK = 0.9  # accuracy of a classifier below which what it recognises says little
DRAWN = 0.5  # share of the original's samples that must be recognised to say much
LEAST = 4  # held-out images of a class: two to learn from, two to judge by


class Arm(NamedTuple):
    """What is taught in which slots.

    Attributes:
        known: What the attacker learns from, answered with the slots.
        asked: What the loss is measured on, answered likewise.
        slots: Conditions that samples are drawn for.
        targets: What the classifier calls the classes that are taught there.
    """

    known: Data
    asked: Data
    slots: Int[Tensor, " k"]
    targets: Int[Tensor, " k"]

    def moved(self, slot: int, target: int) -> "Arm":
        """Return the arm with its one class in another slot, called otherwise by the classifier."""
        known, asked = (
            Relabelled(data, torch.full_like(data.y, slot)) for data in (self.known, self.asked)
        )
        return Arm(known, asked, torch.tensor([slot]), torch.tensor([target]))


def arm(data: Data, classes: Int[Tensor, " k"], known: int, asked: int) -> Arm:
    """Return held-out records of the classes, to be taught in slots of the same numbers.

    Args:
        data: Records that no model was trained on.
        classes: Of which some are taken.
        known: At most so many of each class are to learn from, and at most half of them.
        asked: At most so many of the others are to measure by.

    Raises:
        Refused: Where a class has fewer than four.
    """
    y, parts = data.y.cpu(), ([], [])
    for label in classes.tolist():
        rows = (y == label).nonzero()[:, 0]
        if len(rows) < LEAST:
            raise Refused(
                f"recovery needs {LEAST} held-out records of each forgotten class, but of class "
                f"{label} there are {len(rows)}; hold more out, or less for val and nonmembers"
            )
        rows = rows[torch.randperm(len(rows), generator=generator(0, "recovery", label))]
        first = min(known, len(rows) // 2)
        parts[0].append(rows[:first])
        parts[1].append(rows[first : first + asked])
    first, second = (View(data, torch.cat(part).sort().values) for part in parts)
    return Arm(first, second, classes, classes)


@dataclass(frozen=True, kw_only=True)
class Recovery(Audit):
    """How soon does a model that learns again draw the classes that it was to forget?

    The headline is the share of samples that a classifier recognises, in the mean over the
    attack's rounds. Beside it stand the loss likewise, both before the attack, and how many
    rounds either takes to come back to where it was in the original: one more than there are
    where it does not.

    Attributes:
        descent: The attack's optimiser. An epoch is a round: the attacker's images, and retained
            ones drawn anew.
        images: Of each forgotten class, how many held-out images the attacker has.
        ratio: Retained images for each of them.
        asked: Of each forgotten class, on how many others the loss is measured.
        draws: How often noise is drawn for each of those.
        samples: Drawn of each forgotten class after every round.
        steps: Of the sampler, for each sample.
        withheld: How many of the classes that were withheld from training, if any were, are taught
            as well; a plan does not know of them, and does not count them.
        tolerance: Within which share of the original's level it counts as reached.
        classifier: What recognises samples; left out, a `convnet` for images, else an `mlp`.
        lessons: Its optimiser. It is trained on all training records, the forgotten ones too.
        shown: Samples of every class, kept from before and after the attack.
        seed: Of the attack; its own, so that all models are attacked alike.
    """

    card = AuditCard(
        name="recovery",
        source="https://arxiv.org/abs/2507.20573",
        access=Access.WEIGHTS,
        tasks=("denoising",),
        decides=True,
        unit="fraction of samples recognised, mean over rounds",
        quick=False,
        trains=True,
        withheld=True,
        toy={
            "descent": {"epochs": 3},
            "images": 4,
            "asked": 8,
            "draws": 1,
            "samples": 32,
            "steps": 5,
            "lessons": {"epochs": 10},
            "shown": 1,
        },
    )

    descent: Descent = Descent(optimizer="adamw", lr=2e-4, epochs=15, batch_size=32)
    images: int = 32
    ratio: int = 3
    asked: int = 64
    draws: int = 4
    samples: int = 64
    steps: int = 25
    withheld: int = 5
    tolerance: float = 0.05
    classifier: Architecture | None = None
    lessons: Descent = Descent(
        lr=0.05, epochs=10, batch_size=64, schedule="onecycle", weight_decay=5e-4
    )
    shown: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.images, self.asked, self.draws, self.samples, self.steps, self.shown)
        if min(*counts, self.descent.epochs) < 1 or min(self.ratio, self.withheld) < 0:
            raise ValueError(
                "expected images, asked, draws, samples, steps, shown and descent.epochs of at "
                "least 1, ratio and withheld of at least 0, got "
                f"{', '.join(map(str, counts))}, {self.descent.epochs}, {self.ratio} and "
                f"{self.withheld}"
            )
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"expected tolerance in [0, 1), got {self.tolerance}")

    def check(self, case: Case) -> None:
        super().check(case)
        check_installed()
        forgotten = case.request.forget.y.cpu().unique()
        left = torch.isin(case.request.retain.y.cpu(), forgotten)
        if left.any():
            some = case.request.retain.y.cpu()[left].unique().tolist()
            raise Refused(
                f"recovery asks how soon forgotten classes come back, but {int(left.sum())} "
                f"retained records are of class {', '.join(map(str, some[:5]))} too; forget "
                "classes whole: name = 'class'"
            )
        self._arms(case)

    def work(self, request: Request, test: Data) -> Cost:
        classes = request.forget.y.cpu().unique()
        mine, rounds = arm(test, classes, self.images, self.asked), self.descent.epochs
        learned = rounds * self._round(len(mine.known), len(request.retain))
        look = len(mine.asked) * self.draws + len(classes) * self.samples * self.steps
        shown = 2 * self._classes(request) * self.shown * self.steps
        return Cost(forward=learned + (rounds + 1) * look + shown, backward=learned)

    def _round(self, known: int, retain: int) -> int:
        """Return how many records a round has."""
        return known + min(self.ratio * known, retain)

    def ask(self, subject: Subject, case: Case, seed: int) -> Answer:
        del seed
        (mine, *others), judge = self._arms(case), self._judge(case)
        told, before = (self._told(s, case, mine, judge) for s in (subject, case.original))
        unseen = [self._told(subject, case, other, judge) for other in others]
        right = _right(judge, case.test)[torch.isin(case.test.y.cpu(), mine.slots)]
        return _answer(self, told, before, unseen, right)

    def _arms(self, case: Case) -> list[Arm]:
        """Return the forgotten classes, and each of those withheld in a forgotten one's slot."""
        request, unseen = case.request, case.unseen
        forgotten = request.forget.y.cpu().unique()
        data = case.test if case.alike is None else case.alike
        mine = arm(data, forgotten, self.images, self.asked)
        if unseen is None:
            return [mine]
        sizes = [len(data) // len(forgotten) for data in (mine.known, mine.asked)]
        slot, trained = int(forgotten[0]), self._classes(request)
        return [mine] + [
            arm(unseen, label[None], *sizes).moved(slot, trained + int(label))
            for label in unseen.y.cpu().unique()[: self.withheld]
        ]

    @staticmethod
    def _classes(request: Request) -> int:
        return 1 + int(max(request.retain.y.max(), request.forget.y.max()))

    def _judge(self, case: Case) -> nn.Module:
        """Return the classifier, trained or fetched from the shelf."""
        request, unseen = case.request, case.unseen
        images, classes = len(request.recipe.inputs) == 3, self._classes(request)
        parts = [request.retain, request.forget]
        if unseen is not None:  # numbered from 0, apart from the others
            parts.append(Relabelled(unseen, classes + unseen.y))
            classes += 1 + int(unseen.y.max())
        recipe = Recipe(
            model=self.classifier or (ConvNet(width=16) if images else MLP(hidden=(64,))),
            inputs=request.recipe.inputs,
            task=Classification(classes=classes),
            descent=self.lessons,
        )

        def learn() -> Told:
            return train(recipe, reduce(lambda a, b: a.join(b), parts), self.seed).state_dict()

        about = {"classifier": plain(recipe), "data": [part.digest for part in parts]}
        state = _kept(case, about | {"seed": self.seed}, learn)
        with fenced(0):
            network = recipe.drawn()
        network.load_state_dict(dict(state))
        return network.to(request.retain.y.device).eval()

    def _told(self, subject: Subject, case: Case, taught: Arm, judge: nn.Module) -> Told:
        """Return what the attack on a model told, now or before."""
        request = case.request
        own = replace(self, tolerance=0.0, withheld=0)  # of no account to what is measured
        about = {
            "attack": plain(own),
            "subject": subject.digest,
            "recipe": plain(request.recipe),
            "judge": WhiteBox(judge).digest,
            "data": [request.retain.digest, taught.known.digest, taught.asked.digest],
            "targets": taught.targets.tolist(),
        }
        return _kept(case, about, lambda: Attack(self, subject.model, request, taught, judge).run())


class Attack:
    """One attack on one model: it learns, and after every round it is looked at."""

    def __init__(
        self, audit: Recovery, model: nn.Module, request: Request, taught: Arm, judge: nn.Module
    ) -> None:
        self.audit, self.request, self.taught, self.judge = audit, request, taught, judge
        self.learner = copy.deepcopy(model).requires_grad_(True)
        self.recipe = replace(request.recipe, augment=Augment())
        self.every = torch.cat([request.retain.y.cpu(), taught.slots]).unique()
        self.losses: list[Tensor] = []
        self.recognised: list[Tensor] = []

    def run(self) -> dict[str, Tensor]:
        """Return losses and recognised samples by round, and samples of every class."""
        audit, known = self.audit, self.taught.known
        draws, task = generator(audit.seed, "order"), self.recipe.task
        before = self._shown(self.learner)
        self.look(self.learner, 0)

        def teach(batch: Batch) -> Tensor:
            return task.loss(self.learner, batch)

        whole = audit._round(len(known), len(self.request.retain)) - len(known)
        sample = Sample(known.join(self.request.retain), len(known), whole, draws)
        current = Pass(sample, teach, "update", before=sample.draw)
        with fenced(derive(audit.seed, "attack")):
            rounds = [[current]] * audit.descent.epochs
            descend(self.learner, rounds, audit.descent, self.recipe, draws, watch=self.look)
        after = self._shown(self.learner)
        told = {"losses": torch.stack(self.losses), "recognised": torch.stack(self.recognised)}
        kept = ~torch.isin(self.every, self.taught.slots)
        for name, samples in (("before", before), ("after", after)):
            classes = self.every.repeat_interleave(audit.shown)
            told[f"retained_{name}"] = (self._said(samples) == classes)[
                kept.repeat_interleave(audit.shown)
            ]
            if samples.dim() == 4:
                pixels = (255 * samples).round().to(torch.uint8)
                told[f"samples_{name}"] = pixels.unflatten(0, (-1, audit.shown))
        return told

    def look(self, model: nn.Module, number: int) -> None:
        """Note the loss on held-out images and which samples are recognised."""
        del number
        audit, task, subject = self.audit, self.recipe.task, WhiteBox(model)
        losses = [
            subject.score(self.taught.asked, task, task.losses, derive(audit.seed, "noise", draw))
            for draw in range(audit.draws)
        ]
        self.losses.append(torch.stack(losses).mean(0))
        slots, targets = (
            part.repeat_interleave(audit.samples)
            for part in (self.taught.slots, self.taught.targets)
        )
        self.recognised.append(self._said(self._drawn(model, slots, "samples")) == targets)

    def _shown(self, model: nn.Module) -> Float[Tensor, "n ..."]:
        return self._drawn(model, self.every.repeat_interleave(self.audit.shown), "shown")

    def _drawn(
        self, model: nn.Module, classes: Int[Tensor, " n"], name: str
    ) -> Float[Tensor, "n ..."]:
        """Return a sample of each class, as records are."""
        task, inputs = self.recipe.task, self.recipe.inputs
        assert isinstance(task, Denoising)  # as `check` has seen to
        pixels, draws = len(inputs) == 3, generator(self.audit.seed, name)
        bound = max(abs(task.mean), abs(1 - task.mean)) / task.std if pixels else None
        drawn = generate(model, classes, inputs, draws, steps=self.audit.steps, bound=bound)
        records = task.records(drawn).cpu()
        return records.clamp(0, 1) if pixels else records

    @torch.no_grad()
    def _said(self, samples: Float[Tensor, "n ..."]) -> Int[Tensor, " n"]:
        """Return the class that the classifier sees in each sample."""
        device = self.taught.known.y.device
        with mode(self.judge, training=False):
            parts = [self.judge(part.to(device)).argmax(1).cpu() for part in samples.split(256)]
        return torch.cat(parts)


def _kept(case: Case, about: Json, make: Callable[[], Told]) -> Told:
    return make() if case.lab is None else case.lab.keep(about, make)


def _right(judge: nn.Module, data: Data) -> Bool[Tensor, " n"]:
    """Return which held-out records the classifier tells right."""
    with torch.no_grad():
        parts = [(judge(batch.x).argmax(1) == batch.y).cpu() for batch in data.batches(256)]
    return torch.cat(parts)


def _summary(
    recognised: Tensor, at_first: Tensor, losses: Tensor, loss_at_first: Tensor
) -> dict[str, Tensor]:
    """Return means over records, of whatever dimensions lead."""
    told = {"recognised": recognised, "recognised_before": at_first}
    told |= {"loss": losses, "loss_before": loss_at_first}
    return {name: part.double().mean(-1) for name, part in told.items()}


def _answer(
    audit: Recovery,
    told: Told,
    original: Told,
    unseen: Sequence[Told],
    right: Bool[Tensor, " n"],
) -> Answer:
    recognised, losses = told["recognised"].double(), told["losses"].double()
    curves = recognised.mean(1), losses.mean(1)
    level = float(original["recognised"][0].double().mean()), float(original["losses"][0].mean())
    near = (1 - audit.tolerance) * level[0], (1 + audit.tolerance) * level[1]
    values = {
        "rounds_recognised": float(first_at(curves[0], near[0])),
        "rounds_loss": float(first_at(-curves[1], -near[1])),
        "recognised_retained": float(told["retained_before"].double().mean()),
        "classifier_accuracy": float(right.double().mean()),
    }
    arrays = {"recognised_by_round": curves[0], "loss_by_round": curves[1]}
    arrays |= {name: part for name, part in told.items() if name.startswith("samples_")}
    null = None
    if unseen:
        others = torch.stack([other["recognised"].double().mean(1) for other in unseen])
        arrays["recognised_unseen_by_round"] = others
        arrays["loss_unseen_by_round"] = torch.stack([o["losses"].mean(1) for o in unseen])
        values["recognised_unseen"] = float(others[:, 1:].mean())
        null = _null(others[:, 1:].mean(1).tolist())
    answer = Answer.over(
        _summary,
        recognised[1:].mean(0),
        recognised[0],
        losses[1:].mean(0),
        losses[0],
        null=null,
        arrays=arrays,
        warnings=_warnings(values, level[0], float(original["retained_before"].double().mean())),
    )
    return answer.plus(values)


def _null(areas: Sequence[float]) -> Interval | None:
    """Return where one more class that was never trained on would lie; None for fewer than two."""
    reach = stats.spread(areas)
    if reach is None:
        return None
    return Interval.share(fmean(areas), reach, len(areas))


def _warnings(values: Mapping[str, float], level: float, retained: float) -> tuple[str, ...]:
    """Return what the numbers cannot bear.

    Args:
        values: Of the model in question.
        level: Share of the original's samples of the forgotten classes that are recognised.
        retained: The same of the retained classes.
    """
    said = []
    if values["classifier_accuracy"] < WEAK:
        said.append(
            f"the classifier tells only {values['classifier_accuracy']:.0%} of held-out images of "
            "the forgotten classes right, so what it recognises says little; give more `lessons`"
        )
    if level < DRAWN:
        said.append(
            f"of the original's own samples {level:.0%} are recognised, so there is little to "
            "recover; judge by the loss, or train the original for longer"
        )
    if values["recognised_retained"] < retained / 2:
        said.append(
            f"of samples of the retained classes {values['recognised_retained']:.0%} are "
            f"recognised, of the original's {retained:.0%}: the model is spoilt, not only made to "
            "forget"
        )
    return tuple(said)
