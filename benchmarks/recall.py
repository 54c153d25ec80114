"""The recall attack: asking again only the model that was trained, against asking both."""

import torch
from torch import Tensor

from benchmarks.timing import Claim, interleaved, ratios
from benchmarks.unlearning_cost import problem
from expunge.audits.membership_recall import Attack, MembershipRecall
from expunge.subject import Subject, WhiteBox

REPEATS = 3
AUDIT = MembershipRecall(rounds=1, recalls=5, recall_epochs=1, distil_epochs=1, batch_size=64)


class Forgetful(Attack):
    """Asks teacher and student before every choice of images, as published code does."""

    def _train(self, learner: Subject, teachers: Tensor, students: Tensor, lr: float) -> None:
        del teachers, students
        both = self._probabilities(self.teacher), self._probabilities(self.student)
        super()._train(learner, *both, lr)


def claims() -> list[Claim]:
    """Measure the choice of images; one epoch on each choice, so that it weighs the most."""
    posed = problem()
    model, recipe = WhiteBox(posed.train(0)), posed.recipe
    images = posed.request.forget.join(posed.test)

    def attack(kind: type[Attack]) -> Tensor:
        return kind(AUDIT, model, images, recipe).run()["after"]

    if not torch.equal(attack(Attack), attack(Forgetful)):
        raise AssertionError("the two ways recall different labels; expected the same")
    seconds = interleaved(
        {"ours": lambda: attack(Attack), "both": lambda: attack(Forgetful)}, REPEATS
    )
    return [
        Claim(
            what="recall attack, both models asked before every choice / only what changed",
            ratios=ratios(seconds["both"], seconds["ours"]),
            target=1.1,
            note=f"closed case, {len(images)} pictures, resnet18 width 16; the same labels",
        )
    ]
