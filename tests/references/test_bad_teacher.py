"""Bad teacher against the paper's formula, closed forms and steps in plain PyTorch."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F

from expunge.core.losses import kl
from expunge.core.rng import derive, fenced, generator
from expunge.data.tensors import TensorData
from expunge.method import Sizes
from expunge.methods.bad_teacher import BadTeacher, lessons
from expunge.types import Descent, Refused, Start

LR = 0.3


def step(lr=LR):
    """One step over all records at once."""
    return Descent(lr=lr, epochs=1, batch_size=10_000, precision="fp32")


def whole(data):
    return data.take(torch.arange(len(data)))


def sample(retain, fraction, seed):
    rows = torch.randperm(len(retain), generator=generator(seed, "sample"))
    return retain.take(rows[: int(fraction * len(retain))])


def untrained(recipe, seed):
    with fenced(derive(seed, "incompetent teacher")):
        return recipe.drawn().eval()


def test_the_divergence_from_each_records_teacher_is_the_papers_from_the_blend():
    draws = generator(1)
    student, good, bad = (3 * torch.randn(3, 8, 4, generator=draws)).unbind()
    weights = torch.randn(5, 4, generator=draws)
    x, forgotten = torch.randn(8, 5, generator=draws), torch.arange(8) % 3 == 0

    def teacher(logits):
        return lambda part: logits[[int((x == row).all(1).nonzero()) for row in part]]

    taught = lessons(x, forgotten, teacher(good), teacher(bad), x @ weights)
    t = 3.0
    kinds = forgotten[:, None].float()
    blend = kinds * (bad / t).softmax(1) + (1 - kinds) * (good / t).softmax(1)
    papers = F.kl_div((student / t).log_softmax(1), blend, reduction="batchmean")
    torch.testing.assert_close(kl(taught, student, t).mean(), t**2 * papers)
    known = lessons(x, forgotten, teacher(good), None, x @ weights)
    assert torch.equal(known, torch.where(forgotten[:, None], 0.0, good))


@pytest.mark.parametrize("teacher", ["random", "uniform"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_one_step_of_softmax_regression_in_closed_form(blobs, teacher, temperature):
    from expunge.models.linear import Linear

    recipe = dataclasses.replace(blobs.request.recipe, model=Linear())
    request = dataclasses.replace(blobs.request, recipe=recipe)
    with fenced(0):
        original = recipe.fresh().eval()
    method = BadTeacher(descent=step(), teacher=teacher, temperature=temperature)
    out = method(original, request, seed=7).model
    x, bad = whole(request.forget).x, untrained(recipe, 7)
    count = len(x) + int(0.3 * len(request.retain))
    with torch.no_grad():
        target = bad(x) if teacher == "random" else torch.zeros(len(x), 6)
        # On retained records the student begins as its teacher, so their gradient is 0.
        apart = (original(x) / temperature).softmax(1) - (target / temperature).softmax(1)
        apart *= temperature / count
    torch.testing.assert_close(out[-1].weight, original[-1].weight - LR * apart.T @ x)
    torch.testing.assert_close(out[-1].bias, original[-1].bias - LR * apart.sum(0))


def test_one_step_with_batch_norm_has_a_training_student_and_still_teachers(blobs):
    # Pretrained weights are no part of the incompetent teacher.
    tensors = {k: torch.full_like(v, 0.25) for k, v in blobs.original.state_dict().items()}
    recipe = dataclasses.replace(blobs.request.recipe, start=Start(digest="x", tensors=tensors))
    request = dataclasses.replace(blobs.request, recipe=recipe)
    out = BadTeacher(descent=step(), fraction=0.5)(blobs.original, request, seed=2).model
    forget, kept = whole(request.forget).x, sample(request.retain, 0.5, 2).x
    student, bad = copy.deepcopy(blobs.original).train(), untrained(recipe, 2)
    target = torch.cat([bad(forget), blobs.original(kept)]).softmax(1).detach()
    answers = student(torch.cat([forget, kept])).log_softmax(1)
    F.kl_div(answers, target, reduction="batchmean").backward()
    for new, old in zip(out.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(new, old.detach() - LR * old.grad, rtol=1e-4, atol=1e-6)
    for new, old in zip(out.buffers(), student.buffers(), strict=True):
        torch.testing.assert_close(new, old)


def test_denoising_without_knowledge_is_naming_the_noises_mean(made):
    found = made["denoising"]
    request, original = found.request, copy.deepcopy(found.original)
    descent = Descent(lr=0.1, epochs=20, batch_size=64)
    out = BadTeacher(descent=descent, teacher="uniform")(original, request, seed=0).model
    asked = next(request.recipe.ordered(request.forget, 100, generator(3))).x
    with torch.no_grad():
        assert out(asked).square().mean() < 0.5 * original(asked).square().mean()


def test_no_label_is_read(blobs):
    def mislabelled(data):
        x, y, index = whole(data)
        return TensorData(x, (y + 1) % 6, index)

    request = blobs.request
    wrong = dataclasses.replace(
        request, forget=mislabelled(request.forget), retain=mislabelled(request.retain)
    )
    method = BadTeacher(descent=dataclasses.replace(step(), epochs=3, batch_size=16))
    first, second = (method(blobs.original, r, seed=0).model for r in (request, wrong))
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


class Noted(TensorData):
    """Notes which records are selected."""

    def select(self, rows):
        self.rows = rows
        return super().select(rows)


def test_the_sample_is_that_fraction_of_different_records_drawn_evenly(blobs):
    retain = Noted(*whole(blobs.request.retain))
    request = dataclasses.replace(blobs.request, retain=retain)
    counts = torch.zeros(len(retain))
    for seed in range(200):
        together = BadTeacher()._taught(request, seed)
        assert len(retain.rows) == len(retain.rows.unique()) == int(0.3 * len(retain))
        assert torch.equal(together.y[: len(request.forget)], request.forget.y)
        counts[retain.rows] += 1
    expected = 200 * int(0.3 * len(retain)) / len(retain)
    assert ((counts - expected).abs() < 5 * expected**0.5).all()
    BadTeacher(fraction=0.001)._taught(request, 0)
    assert len(retain.rows) == 1


@pytest.mark.parametrize("norms", ["freeze", "recalibrate"])
@pytest.mark.parametrize("teacher", ["random", "uniform"])
def test_the_work_of_other_settings_is_foreseen_too(blobs, norms, teacher):
    descent = Descent(lr=0.01, epochs=2, batch_size=3)  # some batches have one kind alone
    method = BadTeacher(descent=descent, teacher=teacher, norms=norms, fraction=0.1)
    foreseen = method.work(Sizes.of(blobs.request))
    counted = method(blobs.original, blobs.request, seed=0).cost
    assert (foreseen.forward, foreseen.backward) == (counted.forward, counted.backward)


def test_bad_input_is_refused(blobs):
    for settings in ({"fraction": 0.0}, {"fraction": 1.5}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match=r"fraction in \(0, 1\] and temperature > 0, got"):
            BadTeacher(**settings)
    nothing = blobs.request.retain.select(torch.arange(0))
    request = dataclasses.replace(blobs.request, retain=nothing)
    with pytest.raises(Refused, match="retained records for the original to teach, got none"):
        BadTeacher()(blobs.original, request, seed=0)
