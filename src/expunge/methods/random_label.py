"""Random labels on the forget set.

Graves, Nagisetty and Ganesh, "Amnesiac Machine Learning", AAAI 2021 (there as
Unlearning), https://arxiv.org/abs/2010.10981

Departures from the paper:
    1. A wrong answer is never the right one by chance; `avoid="none"` lets it be.
    2. By default wrong answers are drawn anew in every batch, which pushes towards
       uniform outputs; `redraw="once"` has the network memorise one wrong answer each.
    3. By default both sets are taught in turn, not in mixed batches, so that BatchNorm's
       statistics can follow retained records alone.
    4. Labels are of all the task's classes. The code of the Membership Recall Attack draws
       from the first ten only, whatever the data set; its presets here do not.
"""

from dataclasses import dataclass

from torch import nn

from expunge.core.cost import Cost
from expunge.core.descent import descend, settle
from expunge.core.head import check_classes
from expunge.core.relabel import Misleading, mislead_then_teach
from expunge.core.rng import generator
from expunge.method import Method, MethodCard, Preset, Sizes
from expunge.types import Descent, Request

CODE = "https://github.com/rainmilk/mra4mu, scripts/{}/unlearn.sh and unlearn/RL.py"
AS_RUN = {"redraw": "epoch", "avoid": "none", "mixed": True, "balanced": True}


def as_run(folder: str, lr: float, batch_size: int) -> Preset:
    """Return what the authors of the Membership Recall Attack ran on a data set."""
    descent = {"lr": lr, "epochs": 10, "batch_size": batch_size, "weight_decay": 5e-4}
    return Preset({"descent": descent, **AS_RUN}, CODE.format(folder))


@dataclass(frozen=True, kw_only=True)
class RandomLabel(Misleading, Method):
    """Teach wrong answers on the forget set, right ones on the retain set.

    Attributes:
        descent: Its epochs are rounds of one pass over each set.
        redraw: Whether a wrong answer is drawn once, in every epoch or in every batch.
        avoid: Which classes are never drawn: `none`, the record's `true` one, or all that the
            forget set has records of (`forgotten`).
        retain: Whether there is a retain pass; without it accuracy tends to collapse.
        mixed: Whether both sets are shuffled into one pass; else one pass follows the other.
        balanced: Whether an epoch has only as many retained records as forgotten ones, drawn
            anew every time.
        norms: BatchNorm's policy on retained records, and on mixed batches.
        forget_norms: BatchNorm's policy on forget passes.
    """

    card = MethodCard(
        name="random_label",
        source="https://arxiv.org/abs/2010.10981",
        needs=("original", "retain", "forget"),
        norms="frozen on forget passes, updated on retain passes by default",
        null={"descent": {"lr": 0.0}, "retain": False},
        toy={"descent": {"lr": 5e-2}},
        presets={
            "paper": Preset(
                {
                    "descent": {"lr": 8e-2, "epochs": 10, "batch_size": 256, "weight_decay": 5e-3},
                    **AS_RUN,
                },
                "Sui et al., IJCAI 2025, section 5.1, prints momentum and decay alone; the rest "
                "is its code's for CIFAR-10",
            ),
            "authors_code": as_run("cifar10", 8e-2, 256),
            "authors_code_cifar100": as_run("cifar100", 2e-3, 256),
            "authors_code_pet37": as_run("pet37", 5.4e-4, 32),
            "authors_code_flowers102": as_run("flower102", 1e-4, 32),
            "tuned": Preset(
                {"mixed": True},
                "ours, by the gap to retraining on digits: half of three classes, a class, a tenth",
            ),
            "salun_authors": Preset(
                {"descent": {"lr": 0.013, "epochs": 10, "batch_size": 256, "weight_decay": 5e-4}},
                "https://github.com/OPTML-Group/Unlearn-Saliency, README",
            ),
        },
        mechanisms=("relabel", "train on forget", "train on retain"),
    )

    descent: Descent = Descent(lr=1e-2, epochs=5)

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        check_classes(request.task, request.forget.y)
        draws, recipe = generator(seed, "order"), request.recipe
        rounds = mislead_then_teach(model, request, self, self.descent.epochs, draws)
        descend(model, rounds, self.descent, recipe, draws, watch=request.watch)
        settle(model, request.retain, self.norms, self.descent, recipe, draws)
        return model

    def work(self, sizes: Sizes) -> Cost:
        samples = self.epoch(sizes.forget, sizes.retain) * self.descent.epochs
        again = sizes.retain * (self.norms == "recalibrate")
        return Cost(forward=samples + again, backward=samples)
