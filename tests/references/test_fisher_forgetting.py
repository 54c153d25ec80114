"""Fisher forgetting: the three Fishers by brute force, and the noise by its formula."""

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expunge.api import problem as pose
from expunge.bench.problem import Training
from expunge.core.cost import Meter, counting
from expunge.core.grads import Fisher, squared_gradients
from expunge.core.rng import generator
from expunge.method import Sizes
from expunge.methods.fisher_forgetting import FisherForgetting, deviations, saturated
from expunge.models.denoiser import Denoiser
from expunge.models.lstm import LSTM
from expunge.models.mlp import MLP
from expunge.tasks.categorical import Classification, NextToken
from expunge.tasks.denoising import Denoising
from expunge.types import Batch, Descent, Refused

RECORDS, CLASSES = 5, 3
CLASSIFY = Classification(classes=CLASSES)


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def records() -> Batch:
    x = torch.randn(RECORDS, 4, generator=draw())
    return Batch(x, torch.arange(RECORDS) % CLASSES, torch.arange(RECORDS))


class Reused(nn.Module):
    """A network that needs a gradient per record: one layer is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(self.one(x).tanh()).tanh())


NETWORKS = {"layered": lambda: MLP(hidden=(6,)).build((4,), CLASSES), "reused": Reused}


def built(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


def by_hand(model: nn.Module, batch: Batch, weigh: Callable[[Tensor, Tensor], Tensor]) -> dict:
    """The mean over records of the sum over classes of weighted squared gradients."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for i in range(RECORDS):
        for answer in range(CLASSES):
            logits = model(batch.x[i : i + 1])
            weight = weigh(logits.softmax(-1)[0], batch.y[i])[answer].detach()
            loss = F.cross_entropy(logits, torch.tensor([answer]))
            parts = torch.autograd.grad(loss, list(model.parameters()))
            for name, part in zip(total, parts, strict=True):
                total[name] += weight * part**2 / RECORDS
    return total


def agree(found: dict, expected: dict, rtol: float = 1e-4, atol: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    for name, one in expected.items():
        scale = float(one.abs().max())
        torch.testing.assert_close(found[name], one, rtol=rtol, atol=atol * scale, msg=name)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_exact_fisher_is_the_sum_over_classes_by_probability(network: str) -> None:
    model = built(NETWORKS[network])
    expected = by_hand(model, records(), lambda p, y: p)
    with counting(meter := Meter()):
        found = squared_gradients(model, CLASSIFY, [records()], "exact")
    agree(found, expected)
    assert (meter.forward, meter.backward) == (RECORDS, CLASSES * RECORDS)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_empirical_fisher_is_that_of_the_right_answer_alone(network: str) -> None:
    model = built(NETWORKS[network])
    expected = by_hand(model, records(), lambda p, y: F.one_hot(y, CLASSES).float())
    with counting(meter := Meter()):
        found = squared_gradients(model, CLASSIFY, [records()])
    agree(found, expected)
    assert (meter.forward, meter.backward) == (RECORDS, RECORDS)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_mean_of_many_drawn_fishers_is_the_exact_one(network: str) -> None:
    model, batch = built(NETWORKS[network]), records()
    times = 4000 if network == "layered" else 100
    many = Batch(batch.x.repeat(times, 1), batch.y.repeat(times), batch.index.repeat(times))
    with counting(meter := Meter()):
        found = squared_gradients(model, CLASSIFY, [many], "monte_carlo", draw())
    expected = squared_gradients(model, CLASSIFY, [batch], "exact")
    # The largest entries' relative error falls as 1 / sqrt(draws), and is near it.
    agree(found, expected, rtol=3 / math.sqrt(times), atol=3 / math.sqrt(times))
    assert (meter.forward, meter.backward) == (len(many.y), len(many.y))


def test_drawn_answers_follow_the_probabilities_and_keep_padding() -> None:
    logits = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]]).log().repeat(20_000, 1)
    y = torch.zeros(len(logits), dtype=torch.long)
    drawn = CLASSIFY.draw(logits, y, torch.rand(len(y), generator=draw()))
    for row, expected in enumerate(((0.1, 0.2, 0.7), (0.5, 0.5, 0.0))):
        shares = torch.bincount(drawn[row::2], minlength=3) / 20_000
        torch.testing.assert_close(shares, torch.tensor(expected), rtol=0, atol=0.012)
    task = NextToken(classes=3)
    padded = torch.tensor([[1, -100]])
    said = task.draw(torch.zeros(1, 2, 3), padded, torch.tensor([[0.99, 0.99]]))
    assert said.tolist() == [[2, -100]]


def test_drawn_noise_makes_the_fisher_of_squares_the_curvature() -> None:
    """Under a Gaussian whose negative log-likelihood is the loss, F is (2 / width) Jᵀ J."""
    task, model = Denoising(), nn.Linear(3, 3, bias=False)
    x = torch.randn(1, 3, generator=draw())
    many = Batch(x.repeat(20_000, 1), torch.zeros(20_000, 3), torch.arange(20_000))
    found = squared_gradients(model, task, [many], "monte_carlo", draw())["weight"]
    torch.testing.assert_close(found, (2 / 3 * x**2).expand(3, 3), rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("model", "task", "batch"),
    [
        (
            lambda: LSTM(hidden=4).build((3,), CLASSES),
            NextToken(classes=CLASSES),
            Batch(torch.ones(2, 3, dtype=torch.long), torch.ones(2, 3).long(), torch.arange(2)),
        ),
        (
            lambda: Denoiser(conditions=CLASSES).build((4,), 0),
            Denoising(),
            Denoising().pose(records(), draw()),
        ),
    ],
)
def test_too_many_answers_are_refused(model, task, batch) -> None:
    with pytest.raises(Refused, match="too many answers"):
        squared_gradients(built(model), task, [batch], "exact")


def test_deviations_by_the_formula() -> None:
    fisher = {"w": torch.tensor([1e-2, 1e-6, 0.0])}
    (half,) = deviations(fisher, alpha=1e-6, exponent=-0.5, clamp=0.1).values()
    torch.testing.assert_close(half, torch.tensor([1e-2, 0.1, 0.1]))
    (quarter,) = deviations(fisher, alpha=1e-10, exponent=-0.25, clamp=0.2).values()
    torch.testing.assert_close(quarter, torch.tensor([1e-2, 0.1, 0.2]))
    assert saturated({"w": half}, 0.1) == pytest.approx(2 / 3)
    assert saturated({"w": quarter}, 0.2) == pytest.approx(1 / 3)
    (none,) = deviations(fisher, alpha=0.0, exponent=-0.5, clamp=0.1).values()
    assert torch.equal(none, torch.zeros(3))


@pytest.fixture(scope="module")
def three():
    """A linear problem of three classes, of which one is forgotten altogether."""
    posed = pose(
        {"name": "blobs", "classes": 3, "train": 60},
        "linear",
        {"name": "class", "classes": ["1"]},
        training=Training(descent=Descent(lr=0.1, epochs=3, batch_size=16)),
    )
    return posed, posed.train(0)


def information(model: nn.Module, problem, fisher: Fisher) -> dict:
    retain = problem.request.retain
    whole = retain.take(torch.arange(len(retain)))
    return squared_gradients(model, problem.request.task, [whole], fisher, draw())


def noise(out: nn.Module, original: nn.Module) -> dict[str, Tensor]:
    pairs = zip(out.named_parameters(), original.parameters(), strict=True)
    return {name: new.detach() - old.detach() for (name, new), old in pairs}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_noise_is_gaussian_with_the_deviations_of_the_formula(three, reduction) -> None:
    problem, original = three
    settings = {"fisher": "exact", "fraction": 1.0, "alpha": 1e-4, "clamp": 0.05}
    method = FisherForgetting(**settings, reduction=reduction, multiplier=3.0, head=2.0)
    times = len(problem.request.retain) if reduction == "sum" else 1
    fisher = {k: times * f for k, f in information(original, problem, "exact").items()}
    spread = {k: (1e-4 / f).sqrt().clamp(max=0.05) for k, f in fisher.items()}
    outcomes = [method(original, problem.request, seed=seed) for seed in range(20)]
    drawn = [noise(outcome.model, original) for outcome in outcomes]
    scaled = torch.stack(
        [torch.cat([(d[name] / (6 * spread[name])).flatten() for name in spread]) for d in drawn]
    )
    count = scaled.numel()
    assert abs(float(scaled.mean())) < 4 / math.sqrt(count)
    assert abs(float(scaled.std()) - 1) < 4 / math.sqrt(2 * count)
    at = sum(int((s >= 0.05).sum()) for s in spread.values())
    assert outcomes[0].notes["saturated"] == pytest.approx(at / scaled.shape[1])


@pytest.mark.parametrize("fisher", get_args(Fisher))
def test_noise_vanishes_with_alpha(three, fisher) -> None:
    problem, original = three
    sizes = []
    for alpha in (0.0, 1e-12, 1e-8):
        method = FisherForgetting(fisher=fisher, alpha=alpha, clamp=1e9, exponent=-0.25)
        parts = noise(method(original, problem.request, seed=0).model, original)
        sizes.append(math.sqrt(sum(float(p.square().sum()) for p in parts.values())))
    assert sizes[0] == 0
    assert sizes[2] == pytest.approx(10 * sizes[1], rel=1e-2)  # the fourth root of 10,000


def test_authors_settings_are_isotropic_noise(three) -> None:
    """With alpha 20 the clamp decides everything: 20 / F is above 1e-6 for any F here."""
    problem, original = three
    preset = FisherForgetting.card.presets["authors_code"].settings
    outcome = FisherForgetting(**preset)(original, problem.request, seed=0)
    assert outcome.notes["saturated"] == 1
    draws = generator(0, "noise")
    for name, part in noise(outcome.model, original).items():
        expected = 20 * 1e-3 * torch.randn(part.shape, generator=draws)
        torch.testing.assert_close(part, expected, rtol=1e-3, atol=1e-6, msg=name)


def test_a_forgotten_classs_row_is_zeroed_on_request_alone(three) -> None:
    problem, original = three
    still = FisherForgetting(alpha=0.0, zero_forgotten=True)
    head = [m for m in still(original, problem.request, seed=0).model.modules()][-1]
    before = [m for m in original.modules()][-1]
    assert isinstance(head, nn.Linear)
    assert isinstance(before, nn.Linear)
    assert float(head.weight[1].detach().abs().sum() + head.bias[1].detach().abs()) == 0
    assert torch.equal(head.weight[[0, 2]], before.weight[[0, 2]])
    assert not FisherForgetting().zero_forgotten


@pytest.mark.parametrize("settings", [{"head": 2.0}, {"fisher": "exact"}, {"fraction": 0.3}])
def test_the_foreseen_work_of_other_settings(three, settings) -> None:
    problem, original = three
    method = FisherForgetting(**settings)
    foreseen = method.work(Sizes.of(problem.request))
    counted = method(original, problem.request, seed=0).cost
    assert (foreseen.forward, foreseen.backward) == (counted.forward, counted.backward)


@pytest.mark.parametrize(
    "settings", [{"exponent": -1.0}, {"alpha": -1.0}, {"clamp": 0.0}, {"fraction": 0.0}]
)
def test_settings_out_of_range_are_refused(settings) -> None:
    with pytest.raises(ValueError, match="expected"):
        FisherForgetting(**settings)


def test_the_head_is_needed_only_where_it_is_treated_otherwise(three) -> None:
    problem, original = three

    class Squared(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) ** 2

    squared = Squared(copy.deepcopy(original))
    method = FisherForgetting(head=2.0)
    with pytest.raises(Refused, match="linear"):
        method.unlearn(squared, problem.request, 0)
    assert dataclasses.replace(method, head=1.0).unlearn(squared, problem.request, 0) is squared
