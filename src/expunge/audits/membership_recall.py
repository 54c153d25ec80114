"""Membership recall: a student learns the forgotten classes from the model that forgot them.

Sui, Hu, Cao, Liu, Usman, Lai and Zhang, "Recalling The Forgotten Class Memberships:
Unlearned Models Can Be Noisy Labelers to Leak Privacy", IJCAI 2025,
https://arxiv.org/abs/2506.19486

The unlearned model labels forget and test images; its labels are taken for noisy ones.
Rounds alternate between two steps: a student is distilled from the teacher on mixed images,
and then trained on the images of whose class teacher and student are surest, as many for
every class. Where the weights are at hand, the teacher is trained on those images too.

Departures from the paper:
    1. Every phase of training has an optimiser of its own. The authors' rate restarts with
       every set of sure images, and so does this one; their moments do not.
    2. The student's part in a mixed label is held fixed; `detach=False` lets the gradient
       through the target, as in the authors' code.
    3. Prediction images are forget and test records, and both are reported. A recalled
       label is no evidence by itself: a model that was never shown the forget records may
       know their classes. So the retrained model is attacked alike, and beside every number
       stands what fresh BatchNorm statistics do to the model without any training.
"""

import copy
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from expunge.audit import Answer, Audit, AuditCard, Case
from expunge.config import plain
from expunge.core.cost import Cost
from expunge.core.descent import Pass, descend
from expunge.core.rng import derive, fenced, generator
from expunge.core.sample import some
from expunge.core.state import norms_of, recalibrate
from expunge.data.relabelled import Relabelled
from expunge.stats import Interval, by_class, confusion
from expunge.subject import Access, Refused, Subject, WhiteBox
from expunge.types import (
    Architecture,
    Augment,
    Batch,
    Data,
    Descent,
    Json,
    Preset,
    Recipe,
    Request,
    Schedule,
    Start,
    Task,
    each,
)

Reach = Literal["distilled", "closed", "open"]

GROUPS = ("forget", "test")
SOURCE = "https://arxiv.org/abs/2506.19486, tables 6 and 7"
CODE = "https://github.com/rainmilk/mra4mu, scripts"


def smoothed(p: Float[Tensor, "n c"], amount: float) -> Float[Tensor, "n c"]:
    """Return probabilities after Laplace smoothing: none of them is 0 (equation 6)."""
    return (p + amount) / (1 + p.shape[1] * amount)


def surest(
    joint: Float[Tensor, "n c"], count: int, *, exclusive: bool = False
) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"]]:
    """Return the `count` records that are surest of each class, and those classes.

    Args:
        joint: How sure both models are of each class, of each record.
        count: Records for each class, or all of them where they are fewer.
        exclusive: Whether a record stands for its likeliest class only; a class may then
            have fewer than `count`. Otherwise it may stand for several.
    """
    if exclusive:
        likeliest = joint.argmax(1, keepdim=True)
        joint = torch.full_like(joint, -1.0).scatter(1, likeliest, joint.gather(1, likeliest))
    count = min(count, len(joint))
    best = joint.topk(count, dim=0)
    kept = (best.values >= 0).T.flatten()
    classes = torch.arange(joint.shape[1], device=joint.device).repeat_interleave(count)
    return best.indices.T.flatten()[kept], classes[kept]


def mixed(
    x: Float[Tensor, "n ..."], alpha: float, draws: torch.Generator
) -> Float[Tensor, "n ..."]:
    """Return each record blended with another of the batch, itself the larger part."""
    share = beta(alpha, len(x), draws)
    share = torch.maximum(share, 1 - share).to(x).view(-1, *[1] * (x.dim() - 1))
    other = torch.randperm(len(x), generator=draws).to(x.device)
    return share * x + (1 - share) * x[other]


def beta(alpha: float, count: int, draws: torch.Generator) -> Float[Tensor, " count"]:
    """Draw from the symmetric beta distribution: a gamma draw's share of two."""
    shape = torch.full((2, count), alpha)
    ratio = torch._standard_gamma(shape, generator=draws)  # pyright: ignore[reportPrivateImportUsage]
    # Two draws of a small shape may both round to 0; their share is then even.
    return torch.nan_to_num(ratio[0] / ratio.sum(0), nan=0.5)


class Published(NamedTuple):
    """What one table of the paper says of a data set, and what its scripts say."""

    tau: tuple[float, float]
    student_lr: tuple[float, float]
    teacher_lr: tuple[float, float]
    batch_size: int


PUBLISHED = {
    "cifar10": Published((0.6, 0.6), (1e-4, 5e-5), (5e-5, 5e-5), 256),
    "cifar10_open": Published((0.05, 0.1), (1e-4, 1e-4), (5e-5, 5e-5), 256),
    "cifar100": Published((0.6, 0.6), (2e-4, 2e-4), (1e-4, 1e-4), 256),
    "cifar100_open": Published((0.05, 0.05), (2e-4, 2e-4), (1e-4, 1e-4), 256),
    "pet37": Published((0.05, 0.05), (2e-4, 2e-4), (1e-4, 1e-4), 64),
    "pet37_open": Published((0.05, 0.05), (2e-4, 2e-4), (1e-4, 2e-4), 64),
    "flowers102": Published((0.05, 0.05), (2e-4, 2e-4), (1e-4, 1e-4), 32),
    "flowers102_open": Published((0.05, 0.05), (1e-4, 2e-4), (1e-4, 1e-4), 32),
}
SCRIPTS: Mapping[str, Json] = {  # what the scripts do on every data set, whatever the paper says
    "laplace": 0.02,
    "smoothing": 0.25,
    "first": "teacher",
    "detach": False,
    "rounding": "nearest",
}


def _presets() -> dict[str, Preset]:
    """Return `paper_...` and `authors_code_...` for each data set and case."""
    made = {}
    for name, row in PUBLISHED.items():
        reach = {"case": "open" if name.endswith("_open") else "closed"}
        for i, (kind, extra, source) in enumerate(
            (("paper", {}, SOURCE), ("authors_code", SCRIPTS, CODE))
        ):
            rates = {"student_lr": row.student_lr[i], "teacher_lr": row.teacher_lr[i]}
            settings = reach | {"tau": row.tau[i], "batch_size": row.batch_size} | rates
            made[f"{kind}_{name}"] = Preset(settings | dict(extra), source)
    return made


@dataclass(frozen=True, kw_only=True)
class MembershipRecall(Audit):
    """Can a student recall the forgotten labels from the answers of the unlearned model?

    Attributes:
        case: `closed` asks the model and trains a student; `open` trains the model too, and
            what is recalled is recalled by the model itself; `distilled` is the ablation:
            a student without the sure images.
        student: The student's architecture; None is the model's own.
        weights: What the student starts from: `start`, the weights that the original
            started from, if any; `scratch`; or a safetensors file.
        tau: Share of the prediction images that are taken for sure, over all classes.
        student_lr: Learning rate of the student (AdamW).
        teacher_lr: Learning rate of the unlearned model, in the open case.
        batch_size: Records per step.
        weight_decay: Of both.
        rounds: Times that both steps are taken.
        distil_epochs: Epochs of the first step in each round.
        recalls: Times in each round that the sure images are chosen anew.
        recall_epochs: Epochs over each choice, in which the rate falls by a tenth each.
        warmup: Rounds in which the teacher's labels are taken as they are.
        mixup: Of the beta distribution that mixes images; 0 leaves them as they are.
        label_mixing: Of the beta distribution that mixes the teacher's labels with the
            student's; 0 takes the teacher's as they are.
        laplace: Smoothing of the probabilities whose product says how sure both are.
        smoothing: Of the labels of the sure images.
        first: Which of both is trained first on the sure images, in the open case.
        detach: Whether the student's part in a mixed label is held fixed.
        exclusive: Whether a record may be sure of one class only.
        rounding: Of the number of sure images per class; it is at least one.
        records: At most so many forget and so many test records are put to the model,
            drawn at random; None puts all.
        seed: Of the student's head, of the mixing and of the order. It is the attack's
            own, so that all models are attacked alike and controls only once.
    """

    card = AuditCard(
        name="membership_recall",
        source="https://arxiv.org/abs/2506.19486",
        access=Access.QUERIES,
        alone=True,
        tasks=("classification",),
        decides=True,
        unit="fraction of forget records whose label is recalled",
        quick=False,
        trains=True,
        toy={"rounds": 2, "distil_epochs": 2, "recalls": 1, "recall_epochs": 1, "tau": 0.5},
        presets=_presets(),
    )

    case: Reach = "closed"
    student: Architecture | None = None
    weights: str = "start"
    tau: float = 0.6
    student_lr: float = 1e-4
    teacher_lr: float = 5e-5
    batch_size: int = 256
    weight_decay: float = 5e-4
    rounds: int = 3
    distil_epochs: int = 5
    recalls: int = 5
    recall_epochs: int = 5
    warmup: int = 1
    mixup: float = 0.2
    label_mixing: float = 0.75
    laplace: float = 0.01
    smoothing: float = 0.05
    first: Literal["student", "teacher"] = "student"
    detach: bool = True
    exclusive: bool = False
    rounding: Literal["up", "nearest"] = "up"
    records: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.tau <= 1:
            raise ValueError(
                f"expected tau in (0, 1], got {self.tau}; at 0 no image would be sure, and "
                "case='distilled' is the attack without them"
            )
        if min(self.rounds, self.distil_epochs, self.recalls, self.recall_epochs) < 1:
            raise ValueError("expected rounds, distil_epochs, recalls and recall_epochs >= 1")
        if self.records is not None and self.records < 1:
            raise ValueError(f"expected records >= 1 or none, got {self.records}")

    def check(self, case: Case) -> None:
        super().check(case)
        if self.case == "open":
            for subject in (case.unlearned, case.original, *case.retrained):
                if subject.access < Access.WEIGHTS:
                    raise Refused(
                        "membership_recall with case='open' trains the model and needs its "
                        f"weights, but a {type(subject).__name__} gives "
                        f"{subject.access.name.lower()} only; take case='closed'"
                    )
        asked = sum(map(len, self.asked(case.request, case.test)))
        classes = case.request.task.outputs
        if asked < classes:
            raise Refused(
                f"membership_recall needs at least one prediction image per class, got {asked} "
                f"for {classes} classes; forget more records, hold more out, or raise `records`"
            )

    def asked(self, request: Request, test: Data) -> tuple[Data, Data]:
        """Return the forget and the test records that are put to the model."""
        return some(request.forget, self.records, "forget"), some(test, self.records, "test")

    def work(self, request: Request, test: Data) -> Cost:
        images = sum(map(len, self.asked(request, test)))
        steps = self.rounds * self.distil_epochs
        distilled, sure, looks = steps * images, 0, 5  # two of them for the statistics
        if self.case != "distilled":
            learners = 2 if self.case == "open" else 1
            classes = request.task.outputs
            choice = classes * min(images, self.sure(images, classes))
            sure = self.rounds * self.recalls * self.recall_epochs * choice * learners
            looks += self.rounds * (1 + self.recalls * learners)
        forward = 2 * distilled + sure + looks * images
        return Cost(forward=forward, backward=distilled + sure)

    def sure(self, images: int, classes: int) -> int:
        """Return how many images are taken for sure of each class: at least one."""
        share = self.tau * images / classes
        return max(1, math.ceil(share) if self.rounding == "up" else round(share))

    def ask(self, subject: Subject, case: Case, seed: int) -> Answer:
        del seed
        forget, test = self.asked(case.request, case.test)
        recipe, images = case.request.recipe, forget.join(test)

        def attack() -> Mapping[str, Tensor]:
            return Attack(self, subject, images, recipe).run()

        about = {"audit": plain(self), "images": images.digest}
        about |= {"subject": subject.digest, "recipe": plain(recipe)}
        if self.weights not in ("start", "scratch"):
            about["weights"] = _file(self.weights).digest
        stored = case.lab is not None and subject.digest is not None
        said = case.lab.keep(about, attack) if case.lab is not None and stored else attack()
        return _answer(said, (forget, test), recipe.task)


class Attack:
    """One attack on one model: what the rounds of training share."""

    def __init__(
        self, audit: MembershipRecall, subject: Subject, images: Data, recipe: Recipe
    ) -> None:
        self.audit, self.images, self.recipe = audit, images, replace(recipe, augment=Augment())
        self.classes = recipe.task.outputs
        self.draws = generator(audit.seed, "recall")
        self.subject = subject
        self.teacher = WhiteBox(copy.deepcopy(subject.model)) if audit.case == "open" else subject
        with fenced(derive(audit.seed, "student")):
            self.student = WhiteBox(self._student().to(images.y.device))
        self.count = audit.sure(len(images), self.classes)

    def run(self) -> dict[str, Tensor]:
        """Return the labels said before, after, and with fresh BatchNorm statistics."""
        told = {"before": self._probabilities(self.subject).argmax(1)}
        if self.subject.access >= Access.WEIGHTS and norms_of(self.subject.model):
            told["renormed"] = self._renormed().argmax(1)
        teachers = self._probabilities(self.teacher)
        for number in range(self.audit.rounds):
            self._distil(mix=number >= self.audit.warmup and self.audit.label_mixing > 0)
            if self.audit.case != "distilled":
                teachers = self._recall(teachers)
        recalled = self.teacher if self.audit.case == "open" else self.student
        return told | {"after": self._probabilities(recalled).argmax(1)}

    def _distil(self, *, mix: bool) -> None:
        """Teach the student, on mixed images, what the teacher says of them."""
        audit, student = self.audit, self.student.model

        def follow(batch: Batch) -> Tensor:
            x = batch.x if audit.mixup == 0 else each(batch.x, self._mix)
            target = self.teacher.outputs(x).float().softmax(1)
            logits = student(x).float()
            if mix:
                own = logits.softmax(1)
                share = beta(audit.label_mixing, len(logits), self.draws).to(logits)[:, None]
                target = share * (own.detach() if audit.detach else own) + (1 - share) * target
            return -(target * logits.log_softmax(1)).sum(1).mean()

        rounds = [[Pass(self.images, follow, "update")]] * audit.distil_epochs
        descend(student, rounds, self._descent(audit.student_lr), self.recipe, self.draws)

    def _recall(self, teachers: Tensor) -> Tensor:
        """Train on the sure images, chosen anew several times; return the teacher's answers.

        Only the model that was just trained is asked again.
        """
        students = self._probabilities(self.student)
        order = {"student": ("student", "teacher"), "teacher": ("teacher", "student")}
        for _ in range(self.audit.recalls):
            for role in order[self.audit.first]:
                if role == "student":
                    self._train(self.student, teachers, students, self.audit.student_lr)
                    students = self._probabilities(self.student)
                elif self.audit.case == "open":
                    self._train(self.teacher, teachers, students, self.audit.teacher_lr)
                    teachers = self._probabilities(self.teacher)
        return teachers

    def _train(self, learner: Subject, teachers: Tensor, students: Tensor, lr: float) -> None:
        audit, model = self.audit, learner.model
        joint = smoothed(teachers, audit.laplace) * smoothed(students, audit.laplace)
        rows, classes = surest(joint, self.count, exclusive=audit.exclusive)
        sure = Relabelled(self.images.select(rows.cpu()), classes)

        def agree(batch: Batch) -> Tensor:
            logits = model(batch.x).float()
            return F.cross_entropy(logits, batch.y, label_smoothing=audit.smoothing)

        # One optimiser for all epochs, whose rate falls from one to the next.
        falling = self._descent(lr, schedule="exponential", epochs=audit.recall_epochs)
        rounds = [[Pass(sure, agree, "update")]] * audit.recall_epochs
        descend(model, rounds, falling, self.recipe, self.draws)

    def _descent(self, lr: float, schedule: Schedule = "constant", epochs: int = 1) -> Descent:
        return Descent(
            optimizer="adamw",
            lr=lr,
            epochs=epochs,
            batch_size=self.audit.batch_size,
            weight_decay=self.audit.weight_decay,
            stride="epoch",
            schedule=schedule,
        )

    def _mix(self, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            raise Refused(
                f"records of {x.dtype} cannot be mixed; set mixup=0 to ask about them as they are"
            )
        return mixed(x, self.audit.mixup, self.draws)

    def _probabilities(self, subject: Subject) -> Float[Tensor, "n c"]:
        """Return what a model says of every prediction image, as it is."""
        outputs = [subject.outputs(x).float().softmax(1) for x, _, _ in self.images.batches(512)]
        return torch.cat(outputs)

    def _renormed(self) -> Float[Tensor, "n c"]:
        """Return what the model says with BatchNorm's statistics of the prediction images."""
        again = copy.deepcopy(self.subject.model)
        recalibrate(again, self.images.batches(self.audit.batch_size))
        return self._probabilities(WhiteBox(again))

    def _student(self) -> nn.Module:
        audit = self.audit
        recipe = replace(self.recipe, model=audit.student or self.recipe.model)
        if audit.weights == "start":
            return recipe.fresh()
        network = recipe.drawn()
        if audit.weights != "scratch":
            _file(audit.weights).load(network)
        return network


def _file(path: str) -> Start:
    try:
        content = Path(path).read_bytes()
        return Start(digest=hashlib.sha256(content).hexdigest(), tensors=load(content))
    except (OSError, SafetensorError) as error:
        raise Refused(
            f"cannot read the student's weights from {path}: {error}; expected 'start', "
            "'scratch', or a safetensors file"
        ) from error


def _summary(*right: Tensor) -> dict[str, Tensor]:
    """Return accuracies after, before and with fresh statistics, and what was gained."""
    kinds = ("after", "before", "renormed")[: len(right) // 2]
    told = {
        f"{kind}_{group}": right[2 * i + j].double().mean(-1)
        for i, kind in enumerate(kinds)
        for j, group in enumerate(GROUPS)
    }
    gains = {f"gain_{g}": told[f"after_{g}"] - told[f"before_{g}"] for g in GROUPS}
    return told | gains


def _answer(said: Mapping[str, Tensor], groups: tuple[Data, Data], task: Task) -> Answer:
    sizes = [len(data) for data in groups]
    right, arrays = [], {"index": groups[0].index.cpu()}
    for kind in ("after", "before", "renormed"):
        if kind not in said:
            continue
        for name, data, labels in zip(GROUPS, groups, said[kind].cpu().split(sizes), strict=True):
            y = data.y.cpu()
            right.append((labels == y).double())
            matrix = confusion(labels, y, task.outputs)
            arrays[f"confusion_{kind}_{name}"] = matrix
            arrays[f"per_class_{kind}_{name}"] = by_class(matrix)
            if name == "forget" and kind != "renormed":
                arrays[kind] = labels
    return Answer.over(_summary, *right, null=_unseen(groups, right), arrays=arrays)


def _unseen(groups: tuple[Data, Data], right: list[Tensor]) -> Interval:
    """Return where records never trained on would put it: test records, class by class.

    Each class's test accuracy counts as often as the class occurs among forget records.
    """
    forget, test = (data.y.cpu() for data in groups)
    center, variance = 0.0, 0.0
    for label, count in zip(*forget.unique(return_counts=True), strict=True):
        same = right[1][test == label]
        share, mean = int(count) / len(forget), float(same.mean()) if len(same) else 0.5
        center += share * mean
        spread = mean * (1 - mean) if len(same) else 0.25
        variance += share**2 * spread * (1 / max(1, len(same)) + 1 / int(count))
    reach = 1.96 * math.sqrt(variance)
    return Interval(center, max(0.0, center - reach), min(1.0, center + reach))
