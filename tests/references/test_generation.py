"""Diffusion: noise, sampler, network and attack, against numbers worked out anew."""

import copy
import dataclasses
import math

import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

from expunge import registry, stats
from expunge.audit import Case
from expunge.audits.recovery import Recovery, _null, arm
from expunge.bench.problem import Problem, Training, pose
from expunge.core import diffusion
from expunge.core.cost import metered
from expunge.core.features import deep_layers, read
from expunge.core.rng import derive, generator
from expunge.core.view import View
from expunge.data.forget import AtRandom, OfClass
from expunge.data.tensors import TensorData
from expunge.lab import Lab
from expunge.method import Sizes
from expunge.models.convnet import ConvNet
from expunge.models.denoiser import Denoiser
from expunge.models.mlp import MLP
from expunge.models.unet import UNet
from expunge.subject import Refused, WhiteBox
from expunge.tasks.categorical import Classification
from expunge.tasks.denoising import Denoising
from expunge.types import Batch, Descent, Sets

SHAPE = (1, 8, 8)
TINY = UNet(conditions=3, widths=(16, 16))


class Tells(nn.Module):
    """A denoiser that knows the one record of each class, and so names the noise exactly."""

    def __init__(self, records: torch.Tensor) -> None:
        super().__init__()
        self.records = nn.Parameter(records)

    def forward(self, seen: dict[str, torch.Tensor]) -> torch.Tensor:
        angle = (seen["time"] * math.pi / 2).view(-1, 1, 1, 1)
        return (seen["x"] - angle.cos() * self.records[seen["condition"]]) / angle.sin()


def shapes(train: int = 90) -> Sets:
    """Make 8 x 8 images of a bar on the left, a bar on top or a block, with noise."""
    n, rng = train * 3 // 2, generator(0, "shapes")
    y = torch.arange(n) % 3
    x = torch.zeros(n, *SHAPE)
    x[y == 0, :, :, :3], x[y == 1, :, :3, :], x[y == 2, :, 2:6, 2:6] = 1, 1, 1
    x = (0.8 * x + 0.1 + 0.05 * torch.randn(x.shape, generator=rng)).clamp(0, 1)
    return Sets(TensorData(x[:train], y[:train]), TensorData(x[train:], y[train:]))


FP32 = {"optimizer": "adamw", "precision": "fp32"}  # the fastest for so small a network


def posed(epochs: int = 30) -> Problem:
    descent = Descent(lr=5e-3, epochs=epochs, batch_size=15, schedule="onecycle", **FP32)
    return pose(shapes(), OfClass(classes=(2,)), TINY, Training(descent=descent))


@pytest.fixture(scope="module")
def problem() -> Problem:
    return posed()


@pytest.fixture(scope="module")
def lab(problem: Problem) -> Lab:
    """One shelf for all: the classifier is trained once."""
    return problem.lab(0)


@pytest.fixture(scope="module")
def original(problem: Problem) -> nn.Module:
    return problem.train(0)


@pytest.mark.parametrize("steps", [1, 2, 10, 50, 1000])
def test_the_samplers_noise_is_that_of_training(steps: int) -> None:
    sampler = diffusion.scheduler(steps)
    signal = torch.tensor([math.cos(math.pi / 2 * (k + 1) / (steps + 1)) for k in range(steps)])
    torch.testing.assert_close(sampler.alphas_cumprod, signal**2, rtol=1e-4, atol=1e-8)
    assert sampler.timesteps.tolist() == list(range(steps))[::-1]


def test_a_posed_record_is_what_the_scheduler_makes_of_it() -> None:
    steps, task = 1000, Denoising(mean=0.5, std=0.5)
    x = torch.rand(6, *SHAPE, generator=generator(1))
    posed = task.pose(Batch(x, torch.arange(6), torch.arange(6)), generator(2))
    ticks = torch.tensor([3, 100, 250, 500, 750, 990])
    time = (ticks + 1) / (steps + 1)
    signal, blur = (part.view(-1, 1, 1, 1) for part in diffusion.levels(time))
    ddpm = DDPMScheduler(num_train_timesteps=steps, trained_betas=diffusion.betas(steps).tolist())
    theirs = ddpm.add_noise(2 * x - 1, posed.y, ticks)
    torch.testing.assert_close(signal * (2 * x - 1) + blur * posed.y, theirs, rtol=1e-4, atol=1e-4)
    # The task mixes the same way at the times that it drew.
    assert isinstance(posed.x, dict)
    signal, blur = (part.view(-1, 1, 1, 1) for part in diffusion.levels(posed.x["time"]))
    torch.testing.assert_close(posed.x["x"], signal * (2 * x - 1) + blur * posed.y)


def test_the_loss_is_diffusers_mean_squared_error(problem: Problem) -> None:
    task = problem.recipe.task
    batch = task.pose(problem.request.retain.take(torch.arange(8)), generator(3))
    model = problem.recipe.drawn().eval()
    assert isinstance(batch.x, dict)
    said = model.network(
        batch.x["x"], 1000 * batch.x["time"], class_labels=batch.x["condition"]
    ).sample
    torch.testing.assert_close(task.loss(model, batch), nn.MSELoss()(said, batch.y))


def test_one_step_by_hand() -> None:
    model = TINY.build(SHAPE, 0).eval()
    drawn = diffusion.generate(model, torch.tensor([1]), SHAPE, generator(4), steps=1, bound=1.0)
    x = torch.randn(1, *SHAPE, generator=generator(4))
    with torch.no_grad():
        noise = model({"x": x, "time": torch.tensor([0.5]), "condition": torch.tensor([1])})
    half = math.sqrt(0.5)  # signal and noise are alike half way
    torch.testing.assert_close(drawn, ((x - half * noise) / half).clamp(-1, 1))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_two_steps_by_hand(eta: float) -> None:
    model = TINY.build(SHAPE, 0).eval()
    condition, draws = torch.tensor([2]), generator(5)
    drawn = diffusion.generate(model, condition, SHAPE, generator(5), steps=2, eta=eta)
    x, first = (torch.randn(1, *SHAPE, generator=draws) for _ in range(2))
    high, low = math.pi / 3, math.pi / 6
    with torch.no_grad():
        noise = model({"x": x, "time": torch.tensor([2 / 3]), "condition": condition})
        clean = (x - math.sin(high) * noise) / math.cos(high)
        # Of the posterior of the forward chain, equation 7 of Ho, Jain and Abbeel.
        kept = (math.cos(high) / math.cos(low)) ** 2
        variance = eta * (1 - kept) * math.sin(low) ** 2 / math.sin(high) ** 2
        back = math.sqrt(math.sin(low) ** 2 - variance)
        x = math.cos(low) * clean + back * noise + math.sqrt(variance) * first
        noise = model({"x": x, "time": torch.tensor([1 / 3]), "condition": condition})
    expected = (x - math.sin(low) * noise) / math.cos(low)
    torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 7, 20])
def test_whoever_knows_the_noise_draws_the_records(steps: int) -> None:
    records = torch.rand(3, *SHAPE, generator=generator(6)) * 2 - 1
    condition = torch.tensor([2, 0, 1, 1])
    drawn = diffusion.generate(Tells(records), condition, SHAPE, generator(7), steps=steps)
    torch.testing.assert_close(drawn, records[condition], rtol=1e-3, atol=1e-3)


def test_samples_do_not_depend_on_how_many_are_drawn_together(monkeypatch) -> None:
    model, condition = TINY.build(SHAPE, 0), torch.arange(3).repeat(3)
    whole = diffusion.generate(model, condition, SHAPE, generator(8), steps=3)
    monkeypatch.setattr(diffusion, "AT_ONCE", 2)
    again = diffusion.generate(model, condition, SHAPE, generator(8), steps=3)
    torch.testing.assert_close(whole, again)
    assert model.training


def test_a_network_without_diffusers_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"expunge\[diffusion\]"):
        TINY.build(SHAPE, 0)
    with pytest.raises(ValueError, match=r"expunge\[diffusion\]"):
        diffusion.scheduler(5)


@pytest.mark.parametrize("side", [8, 16, 28, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_unet_gives_back_images_and_heeds_the_class(side: int, channels: int) -> None:
    model = UNet(conditions=4, widths=(8, 8, 16)).build((channels, side, side), 0).eval()
    seen = {"x": torch.rand(2, channels, side, side), "time": torch.full((2,), 0.3)}
    said = [model(seen | {"condition": torch.full((2,), k)}) for k in (0, 3)]
    assert said[0].shape == (2, channels, side, side)
    assert not torch.allclose(said[0], said[1])
    later = model(seen | {"condition": torch.zeros(2).long(), "time": torch.full((2,), 0.4)})
    assert not torch.allclose(said[0], later)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": [12]}, "take 16"),
        ({"widths": []}, "at least one width"),
        ({"conditions": 0}, "at least 1"),
    ],
)
def test_nonsense_networks_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        registry.models.build({"name": "unet", "conditions": 3} | settings)


def test_sides_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(ValueError, match="fewer `widths`"):
        UNet(conditions=3, widths=(8, 8, 8)).build((1, 10, 10), 0)
    with pytest.raises(ValueError, match="its task is 'denoising'"):
        TINY.build(SHAPE, 10)


def test_the_architecture_or_the_training_says_that_the_task_is_denoising() -> None:
    assert posed().recipe.task == Denoising(mean=0.5, std=0.5)
    wanted = Descent(epochs=1)
    plain = pose(shapes(), AtRandom(count=5), MLP(), Training(descent=wanted))
    assert plain.recipe.task == Classification(classes=3)
    own = pose(shapes(), AtRandom(count=5), MLP(), Training(descent=wanted, task="denoising"))
    assert own.recipe.task == Denoising(mean=0.5, std=0.5)
    vectors = registry.data.build({"name": "blobs"}).load()
    few = pose(vectors, AtRandom(count=5), Denoiser(conditions=6), Training(descent=wanted))
    assert few.recipe.task == Denoising()


def test_what_cannot_be_denoised_is_refused() -> None:
    tokens = registry.data.build({"name": "chains"}).load()
    with pytest.raises(ValueError, match="one class for each record"):
        pose(tokens, AtRandom(count=5), Denoiser(conditions=3), Training())
    with pytest.raises(ValueError, match="set conditions = 3"):
        pose(shapes(), AtRandom(count=5), UNet(conditions=2, widths=(8,)), Training())
    with pytest.raises(ValueError, match="leave `weights` out"):
        pose(shapes(), AtRandom(count=5), TINY, Training(weights=(1.0, 1.0, 1.0)))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gradient_ascent", {"descent": {"lr": 1e-3, "epochs": 1}}),
        ("random_label", {"descent": {"lr": 1e-2, "epochs": 1}}),
        ("salun", {"descent": {"lr": 1e-2, "epochs": 1}}),
        ("orthogonal_replay", {"erase": {"epochs": 1}, "descent": {"epochs": 1}}),
        (
            "orthogonal_replay",
            {
                "layers": [
                    "network.down_blocks.1",
                    "network.mid_block",
                    "network.up_blocks.1",
                    "network.conv_out",
                ],
                "weights": [0.0, 0.0, 0.5, 1.0],
                "erase": {"epochs": 1},
                "descent": {"epochs": 1},
            },
        ),
    ],
)
def test_methods_run_on_a_unet_and_cost_what_they_said(problem, original, name, settings) -> None:
    method = registry.methods.build({"name": name} | settings)
    outcome = method(original, problem.request, seed=0)
    foreseen = method.work(Sizes.of(problem.request))
    assert (outcome.cost.forward, outcome.cost.backward) == (foreseen.forward, foreseen.backward)
    before = original.state_dict()
    assert any(not torch.equal(p, before[k]) for k, p in outcome.model.state_dict().items())


def test_the_deep_layers_of_a_unet_are_three_that_run(problem) -> None:
    model = UNet(conditions=3, widths=(8, 16)).build(SHAPE, 0).eval()
    few = problem.request.forget.select(torch.arange(2))
    batch = next(iter(problem.recipe.ordered(few, 2, generator(0))))
    found = deep_layers(model, batch.x)
    assert found == ("network.mid_block.resnets.1", "network.up_blocks.0", "network.conv_act")
    assert all(len(rows) == 2 for rows in read(model, batch.x, found)[1].values())


ATTACK = Recovery(
    descent=Descent(lr=1e-3, epochs=2, batch_size=16, **FP32),
    images=6,
    asked=6,
    draws=2,
    samples=8,
    steps=8,
    classifier=ConvNet(width=4),
    lessons=Descent(lr=0.05, epochs=15, batch_size=16),
    shown=2,
)


def case_of(problem: Problem, original: nn.Module, unlearned: nn.Module, **changes) -> Case:
    made = {"request": problem.request, "test": problem.test, "lab": problem.lab(0)} | changes
    return Case(original=WhiteBox(original), unlearned=WhiteBox(unlearned), **made)


def test_a_class_that_was_only_hidden_comes_back_sooner(problem, original, lab) -> None:
    hidden = copy.deepcopy(original)
    rows = hidden.network.class_embedding.weight.data
    rows[2] = rows[0]  # its slot now draws another class; all else is left
    gentle = Descent(lr=2e-3, epochs=3, batch_size=8, **FP32)
    attack = dataclasses.replace(ATTACK, descent=gentle, tolerance=0.3)
    models = hidden, problem.retrained(0).model
    findings = [attack(case_of(problem, original, m, lab=lab), seed=0) for m in models]
    intact, (covered, never) = findings[0].original, (f.unlearned for f in findings)
    assert intact.values["classifier_accuracy"] == 1
    assert intact.values["recognised_before"] > 0.9
    assert intact.values["rounds_recognised"] == intact.values["rounds_loss"] == 0
    assert covered.values["recognised_before"] == never.values["recognised_before"] == 0
    assert covered.values["rounds_loss"] <= 2
    assert never.values["rounds_loss"] == 4  # not within three
    assert intact.values["loss"] < covered.values["loss"] < never.values["loss"]
    assert covered.headline > never.headline
    assert not any("spoilt" in warning for warning in covered.warnings)


def test_the_answer_is_worked_out_from_its_own_curves(problem, original, lab) -> None:
    answer = ATTACK(case_of(problem, original, original, lab=lab), seed=0).unlearned
    curve, losses = answer.arrays["recognised_by_round"], answer.arrays["loss_by_round"]
    assert len(curve) == len(losses) == 3
    assert answer.headline == pytest.approx(float(curve[1:].mean()))
    assert answer.values["loss"] == pytest.approx(float(losses[1:].mean()))
    assert answer.values["loss_before"] == pytest.approx(float(losses[0]))
    for moment in ("before", "after"):
        grid = answer.arrays[f"samples_{moment}"]
        assert (grid.shape, grid.dtype) == ((3, 2, *SHAPE), torch.uint8)
    # Samples of the block have it: bright within, dark without.
    block = answer.arrays["samples_before"][2].float() / 255
    assert float(block[..., 2:6, 2:6].mean()) > 0.6 > 0.3 > float(block[..., 0].mean())


def test_the_loss_of_the_attack_is_the_mean_over_its_draws(problem, original, lab) -> None:
    mine = arm(problem.test, torch.tensor([2]), 6, 6)
    task, subject = problem.recipe.task, WhiteBox(original)
    asked = mine.asked.take(torch.arange(len(mine.asked)))
    total = 0.0
    for draw in range(2):
        batch = task.pose(asked, generator(derive(0, "noise", draw), "pose"))
        total += float(task.losses(subject.outputs(batch.x), batch.y).mean()) / 2
    answer = ATTACK(case_of(problem, original, original, lab=lab), seed=0).unlearned
    assert answer.values["loss_before"] == pytest.approx(total, rel=1e-5)


def test_the_attackers_images_are_held_out_and_not_those_it_is_judged_by(problem) -> None:
    mine = arm(problem.test, torch.tensor([1, 2]), 4, 5)
    known, asked = set(mine.known.index.tolist()), set(mine.asked.index.tolist())
    assert not known & asked
    assert known | asked <= set(problem.test.index.tolist())
    assert mine.known.y.bincount().tolist() == [0, 4, 4]
    assert mine.asked.y.bincount().tolist() == [0, 5, 5]
    # Of few, no more than half are for learning.
    few = arm(View(problem.test, (problem.test.y == 1).nonzero()[:5, 0]), torch.tensor([1]), 9, 9)
    assert (len(few.known), len(few.asked)) == (2, 3)


def test_withheld_classes_are_taught_in_the_slot_and_say_where_chance_lies() -> None:
    x = torch.zeros(24, *SHAPE)
    x[:12, :, 5:], x[12:, :, :, 6:] = 1, 1
    unseen = TensorData(x, torch.arange(24) // 12)
    problem = posed(epochs=0)
    model = problem.train(0)
    case = case_of(problem, model, model, unseen=unseen)
    others = ATTACK._arms(case)[1:]
    assert [other.slots.tolist() for other in others] == [[2], [2]]
    assert [other.targets.tolist() for other in others] == [[3], [4]]
    assert all(set(data.y.tolist()) == {2} for other in others for data in other[:2])
    answer = ATTACK(case, seed=0).unlearned
    curves = answer.arrays["recognised_unseen_by_round"]
    assert curves.shape == (2, 3)
    assert answer.null is not None
    assert answer.null.value == pytest.approx(float(curves[:, 1:].mean()))
    alone = dataclasses.replace(ATTACK, withheld=1)(case, seed=0).unlearned
    assert alone.null is None
    null = _null([0.1, 0.3, 0.2])  # p is Student's of three, of a reach beyond what is possible
    assert null is not None
    assert null.low == 0.0
    assert null.against(0.2 + stats.spread([0.1, 0.3, 0.2])) == pytest.approx(0.05)
    assert null.against(0.2 + 0.4) == pytest.approx(0.0742, abs=1e-4)
    assert alone.headline == answer.headline


def test_attacks_that_say_nothing_are_refused_or_warned_of(problem, original, lab) -> None:
    part = pose(shapes(), OfClass(classes=(2,), fraction=0.5), TINY, Training())
    with pytest.raises(Refused, match="retained records are of class 2"):
        ATTACK(case_of(part, original, original), seed=0)
    lacking = problem.test.select((problem.test.y != 2).nonzero()[:, 0])
    with pytest.raises(Refused, match="of class 2 there are 0"):
        ATTACK(case_of(problem, original, original, test=lacking), seed=0)
    untaught = dataclasses.replace(ATTACK, lessons=Descent(lr=0.0, epochs=1))
    blank = posed(epochs=0).train(0)
    warned = untaught(case_of(problem, blank, blank), seed=0).unlearned.warnings
    assert any("classifier tells only" in warning for warning in warned)
    spoilt = ATTACK(case_of(problem, original, blank, lab=lab), seed=0)
    assert any("the model is spoilt" in warning for warning in spoilt.unlearned.warnings)
    assert not spoilt.original.warnings
    with pytest.raises(ValueError, match="tolerance in"):
        Recovery(tolerance=1.0)
    with pytest.raises(ValueError, match="at least 1"):
        Recovery(samples=0)


def test_the_plan_counts_what_the_attack_takes(problem, original, lab) -> None:
    case = case_of(problem, original, original, lab=lab)
    judge, (mine,) = ATTACK._judge(case), ATTACK._arms(case)
    with metered() as bill:
        ATTACK._told(case.original, dataclasses.replace(case, lab=None), mine, judge)
    work = ATTACK.work(problem.request, problem.test)
    look = 2 * len(mine.asked) + 8 * 8
    said = 8 + 2 * 3 * 2  # samples that the classifier, which a plan leaves out, is asked about
    # Looks after a round are paused, and so are not counted here.
    assert bill.cost.forward - said == work.forward - 2 * look
    assert bill.cost.backward == work.backward > 0
