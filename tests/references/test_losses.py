"""Losses and divergences against their definitions, at their bounds, for their symmetries."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from expunge.core import losses
from expunge.core.rng import generator


@pytest.fixture
def pair():
    return torch.randn(2, 50, 7, generator=generator(0))


def test_cross_entropy_is_torchs(pair):
    y = torch.arange(50) % 7
    truth = F.cross_entropy(pair[0], y, reduction="none")
    torch.testing.assert_close(losses.cross_entropy(pair[0], y), truth)


def test_cross_entropy_averages_positions_and_skips_padding():
    logits, y = (
        torch.randn(2, 3, 4, generator=generator(1)),
        torch.tensor([[1, 2, -100], [0, 0, 0]]),
    )
    rows = F.cross_entropy(logits.flatten(0, 1), y.flatten().clamp(min=0), reduction="none").view(
        2, 3
    )
    expected = torch.stack([rows[0, :2].mean(), rows[1].mean()])
    torch.testing.assert_close(losses.cross_entropy(logits, y), expected)


def test_kl_is_torchs_in_this_order_and_not_symmetric(pair):
    p, q = pair
    truth = F.kl_div(q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="none")
    torch.testing.assert_close(losses.kl(p, q), truth.sum(-1))
    assert not torch.allclose(losses.kl(p, q), losses.kl(q, p))
    torch.testing.assert_close(losses.kl(p, p), torch.zeros(50), atol=1e-6, rtol=0)


def test_jensen_shannon_is_scipys_squared(pair):
    p, q = pair.softmax(-1).double().numpy()
    truth = torch.tensor([jensenshannon(a, b) ** 2 for a, b in zip(p, q, strict=True)])
    torch.testing.assert_close(losses.jensen_shannon(*pair).double(), truth, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_jensen_shannon_attains_its_bounds_and_is_symmetric(classes, pair):
    apart = 1000 * torch.eye(classes)[:2]
    one, other = apart[:1], apart[1:]
    assert losses.jensen_shannon(one, other).item() == pytest.approx(math.log(2), abs=1e-6)
    assert losses.jensen_shannon(one, one).item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(losses.jensen_shannon(*pair), losses.jensen_shannon(*pair.flip(0)))


def test_entropy_is_scipys_and_attains_its_bounds(pair):
    truth = torch.tensor(entropy(pair[0].softmax(-1).double().numpy(), axis=1))
    torch.testing.assert_close(losses.entropy(pair[0]).double(), truth, rtol=1e-4, atol=1e-6)
    assert losses.entropy(torch.zeros(1, 7)).item() == pytest.approx(math.log(7))
    assert losses.entropy(1000 * torch.eye(7)[:1]).item() == pytest.approx(0, abs=1e-6)


def modified_by_definition(p, y):
    own = -(1 - p[y]) * math.log(p[y])
    return own - sum(p[k] * math.log(1 - p[k]) for k in range(len(p)) if k != y)


def test_modified_entropy_is_the_papers_equation(pair):
    y = torch.arange(50) % 7
    p = pair[0].double().softmax(-1).tolist()
    truth = [modified_by_definition(row, k) for row, k in zip(p, y.tolist(), strict=True)]
    got = losses.modified_entropy(pair[0].double(), y)
    torch.testing.assert_close(got, torch.tensor(truth).double())


def test_modified_entropy_does_not_depend_on_the_neighbours(pair):
    y = torch.arange(50) % 7
    together = losses.modified_entropy(pair[0], y)
    alone = torch.cat(
        [losses.modified_entropy(pair[0][i : i + 1], y[i : i + 1]) for i in range(50)]
    )
    torch.testing.assert_close(together, alone)


def test_modified_entropy_is_finite_and_right_where_a_model_is_certain():
    sure = torch.tensor([[90.0, 0.0, 0.0]])
    assert losses.modified_entropy(sure, torch.tensor([0])).item() == pytest.approx(0, abs=1e-6)
    # sure and wrong: -log p_y is about 90, and so is -log(1 - p) of the class it said
    assert losses.modified_entropy(sure, torch.tensor([1])).item() == pytest.approx(
        180 - math.log(2), rel=1e-3
    )


def test_confidence_is_the_log_odds_of_the_true_class(pair):
    y = torch.arange(50) % 7
    p = pair[0].double().softmax(-1)[torch.arange(50), y]
    torch.testing.assert_close(losses.confidence(pair[0].double(), y), (p / (1 - p)).log())
