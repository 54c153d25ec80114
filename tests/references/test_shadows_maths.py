"""LiRA, RMIA and KLoM against closed forms and their definitions written out record by record."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy, norm

from expunge import stats
from expunge.core.klom import by_chance, klom
from expunge.core.likelihood import ENOUGH, LEAST, likelihood_ratio
from expunge.core.ratio import dominated, ratio
from expunge.core.rng import generator
from expunge.types import Refused

DOUBLE = torch.double


def normal(*shape, seed=0, mean=0.0, spread=1.0):
    return mean + spread * torch.randn(*shape, generator=generator(seed), dtype=DOUBLE)


def uneven(shadows=12, records=40, seed=0):
    """Return margins, shadows' margins and sides; sides differ in size from record to record."""
    member = torch.rand(shadows, records, generator=generator(seed, "member")) < 0.5
    member[:2], member[2:4] = True, False
    spread = 0.5 + torch.rand(records, generator=generator(seed, "spread"), dtype=DOUBLE)
    margins = normal(shadows, records, seed=seed + 1) * spread + 2 * member
    assert len(member.sum(0).unique()) > 3
    return normal(records, seed=seed + 2), margins, member


def columns(margin, shadows, member):
    """Yield each record's margin in the target, in shadows with it and in shadows without."""
    for i in range(len(margin)):
        column, inside = shadows[:, i].numpy(), member[:, i].numpy()
        yield margin[i].item(), column[inside], column[~inside]


# LiRA


def test_two_gaussians_have_the_ratio_of_their_densities():
    inside, outside = norm(2.0, 1.5), norm(-1.0, 0.8)
    n, at = 20_000, torch.tensor([-2.0, -0.5, 0.0, 1.0, 2.5], dtype=DOUBLE)
    member = torch.arange(2 * n)[:, None].expand(-1, 5) < n
    shadows = torch.cat(
        [normal(n, 5, seed=1, mean=2.0, spread=1.5), normal(n, 5, seed=2, mean=-1.0, spread=0.8)]
    )
    truth = inside.logpdf(at.numpy()) - outside.logpdf(at.numpy())
    assert likelihood_ratio(at, shadows, member).numpy() == pytest.approx(truth, abs=0.1)
    offline = likelihood_ratio(at, shadows, member, mode="offline")
    assert norm.cdf(offline.numpy()) == pytest.approx(outside.cdf(at.numpy()), abs=0.01)


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_its_area_under_the_curve_is_that_of_the_best_test(mode):
    apart, n, shadows = 1.5, 4000, 64
    center = normal(n, seed=1, spread=3.0)  # records differ more than membership does
    member = torch.zeros(shadows, n, dtype=torch.bool)
    member[::2] = True
    margins = normal(shadows, n, seed=2) + center + apart * member
    trained = torch.arange(n) < n // 2
    score = likelihood_ratio(
        normal(n, seed=3) + center + apart * trained, margins, member, mode=mode, variance="fixed"
    )
    best = norm.cdf(apart / math.sqrt(2))
    assert float(stats.auc(score[trained], score[~trained])) == pytest.approx(best, abs=0.02)


def test_online_is_its_definition_record_by_record():
    data = uneven()
    truth = [
        norm.logpdf(at, i.mean(), i.std(ddof=1)) - norm.logpdf(at, o.mean(), o.std(ddof=1))
        for at, i, o in columns(*data)
    ]
    got = likelihood_ratio(*data, variance="record")
    assert got.numpy() == pytest.approx(np.array(truth), rel=1e-10)


def test_offline_is_its_definition_record_by_record():
    data = uneven()
    truth = [norm.cdf(at, o.mean(), o.std(ddof=1)) for at, _, o in columns(*data)]
    got = likelihood_ratio(*data, mode="offline", variance="record")
    assert norm.cdf(got.numpy()) == pytest.approx(np.array(truth), rel=1e-10)


def test_one_variance_is_pooled_within_records_on_either_side():
    data = uneven()
    sides = list(columns(*data))

    def pooled(groups):
        left = np.concatenate([group - group.mean() for group in groups])
        return math.sqrt((left**2).sum() / (len(left) - len(groups)))

    inside, outside = (pooled([side[k] for side in sides]) for k in (1, 2))
    truth = [
        norm.logpdf(at, i.mean(), inside) - norm.logpdf(at, o.mean(), outside) for at, i, o in sides
    ]
    got = likelihood_ratio(*data, variance="fixed")
    assert got.numpy() == pytest.approx(np.array(truth), rel=1e-10)


@pytest.mark.parametrize(("without", "chosen"), [(ENOUGH, "record"), (ENOUGH - 1, "fixed")])
def test_the_variance_is_each_records_own_where_every_side_has_enough_shadows(without, chosen):
    member = torch.ones(2 * ENOUGH, 6, dtype=torch.bool)
    member[:ENOUGH] = False
    member[0, 3] = without < ENOUGH  # one record alone is short of one shadow
    data = normal(6, seed=1), normal(2 * ENOUGH, 6, seed=2), member
    scores = {v: likelihood_ratio(*data, variance=v) for v in ("auto", "record", "fixed")}
    assert torch.equal(scores["auto"], scores[chosen])
    assert not torch.equal(scores["record"], scores["fixed"])
    # Offline the side that is short does not count if it is the other one.
    turned = (data[0], data[1], ~member)
    offline = {v: likelihood_ratio(*turned, mode="offline", variance=v) for v in scores}
    assert torch.equal(offline["auto"], offline["record"])


def test_shadows_that_all_agree_give_a_finite_score_that_still_tells_sides():
    member = torch.tensor([[True], [True], [False], [False]]).expand(-1, 2)
    shadows = torch.where(member, 3.0, 1.0).double()
    score = likelihood_ratio(torch.tensor([3.0, 1.0], dtype=DOUBLE), shadows, member)
    assert score.tolist() == pytest.approx([2 / LEAST**2, -2 / LEAST**2])


# what both attacks refuse

BOTH = pytest.mark.parametrize("attack", [likelihood_ratio, ratio])


@BOTH
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_margins_that_are_not_finite_are_refused(attack, wrong):
    for part, whose in ((0, "the target's"), (1, "the shadows'")):
        data = [tensor.clone() for tensor in uneven()]
        data[part].view(-1)[7] = wrong
        with pytest.raises(Refused, match=rf"1 of {whose} .* not finite"):
            attack(*data)


@BOTH
def test_fewer_than_two_shadows_on_a_side_of_a_record_are_refused(attack):
    margin, shadows, member = uneven()
    for side, name in ((True, "with"), (False, "without")):
        few = member.clone()
        few[:, 5] = not side
        few[0, 5] = side
        with pytest.raises(Refused, match=f"trained {name} each record.*1 of 40.*record 5 has 1"):
            attack(margin, shadows, few)
    few[:, 5] = False  # offline needs no shadow that was trained on it
    attack(margin, shadows, few, mode="offline")
    few[1:, 5] = True
    with pytest.raises(Refused, match="trained without each record"):
        attack(margin, shadows, few, mode="offline")
    with pytest.raises(Refused, match="at least 1 record"):
        attack(margin[:0], shadows[:, :0], member[:, :0])


# RMIA


@pytest.mark.parametrize("gamma", [1.0, 2.0, 1.1, 1 / 3, 7.7])
def test_looked_up_scores_are_those_of_the_matrix_bit_by_bit(gamma):
    z = torch.cat([normal(300, seed=1).exp(), normal(50, seed=2, spread=60.0).exp()])
    z = torch.cat([z, z[:40]])  # ties
    edges, up = gamma * z, torch.full_like(z, torch.inf)
    near = [edges, edges.nextafter(up), edges.nextafter(-up), edges.nextafter(-up).nextafter(-up)]
    x = torch.cat([normal(500, seed=3).exp(), z, *near])
    matrix = (x[:, None] / z[None, :] >= gamma).double().mean(1)
    assert torch.equal(dominated(x, z, gamma), matrix)
    assert 0 < matrix.mean() < 1


@pytest.mark.parametrize("a", [0.0, 0.3, 1.0])
def test_the_ratio_is_its_definition_in_probabilities(a):
    data = uneven()
    online, offline = [], []
    for at, inside, outside in columns(*data):
        p, p_in, p_out = (1 / (1 + np.exp(-v)) for v in (at, inside, outside))
        online.append(p / ((p_in.mean() + p_out.mean()) / 2))
        offline.append(p / (((1 + a) * p_out.mean() + (1 - a)) / 2))
    assert ratio(*data).numpy() == pytest.approx(np.array(online), rel=1e-12)
    got = ratio(*data, mode="offline", a=a)
    assert got.numpy() == pytest.approx(np.array(offline), rel=1e-12)


def test_a_score_by_hand():
    # Probability 0.8 where shadows say 0.5 on average: ratio 1.6. Population ratios 0.5, 0.8, 1.
    def margin(*p):
        return torch.tensor(p, dtype=DOUBLE).logit()

    member = torch.tensor([[True], [True], [False], [False]])
    x = ratio(margin(0.8), margin(0.9, 0.7, 0.1, 0.3)[:, None], member)
    assert x.item() == pytest.approx(1.6)
    z = torch.tensor([0.5, 0.8 - 1e-9, 1.0], dtype=DOUBLE)
    assert dominated(x, z).item() == pytest.approx(2 / 3)


def test_probabilities_that_underflow_still_have_a_ratio():
    member = torch.tensor([[True], [True], [False], [False]]).expand(-1, 3)
    shadows = torch.tensor([900.0, -900.0, -2000.0], dtype=DOUBLE).expand(4, 3)
    target = torch.tensor([900.0, -901.0, -1000.0], dtype=DOUBLE)
    got = ratio(target, shadows, member).log()
    assert got.tolist() == pytest.approx([0.0, -1.0, 300.0])


@pytest.mark.parametrize(
    ("x", "z", "gamma", "said"),
    [
        ([1.0], [], 2.0, "ratio of z"),
        ([math.nan], [1.0], 2.0, "ratio of x"),
        ([1.0], [0.0], 2.0, "ratio of z"),
        ([1.0], [math.inf], 2.0, "ratio of z"),
        ([1.0], [1.0], 0.0, "gamma"),
        ([1.0], [1.0], math.nan, "gamma"),
    ],
)
def test_ratios_that_are_none_are_refused(x, z, gamma, said):
    with pytest.raises(ValueError, match=said):
        dominated(torch.tensor(x), torch.tensor(z), gamma)


def test_a_line_beyond_its_ends_is_refused():
    with pytest.raises(ValueError, match=r"a in \[0, 1\]"):
        ratio(*uneven(), mode="offline", a=1.2)


# KLoM


def test_klom_is_scipys_entropy_of_two_histograms():
    unlearned, retrained = normal(30, 25, seed=1, mean=0.5), normal(50, 25, seed=2, spread=2.0)
    truth = []
    for u, r in zip(unlearned.T.numpy(), retrained.T.numpy(), strict=True):
        low, high = min(u.min(), r.min()), max(u.max(), r.max())
        p, q = (np.histogram(side, 20, (low, high))[0] / len(side) for side in (u, r))
        truth.append(entropy(p, np.where(p > 0, np.maximum(q, 1e-5), q)))
    assert klom(unlearned, retrained).numpy() == pytest.approx(np.array(truth), rel=1e-10)
    assert not torch.allclose(klom(unlearned, retrained), klom(retrained, unlearned))


def test_klom_by_hand():
    def of(first, second, **more):
        got = klom(torch.tensor(first)[:, None], torch.tensor(second)[:, None], **more)
        return got.item()

    assert of([1.0, 2.0, 4.0], [4.0, 2.0, 1.0]) == 0
    assert of([3.0, 3.0], [3.0, 3.0, 3.0]) == 0
    apart = -math.log(1e-5 / (1 + 1e-5))
    assert of([0.0, 0.0], [1.0, 1.0]) == pytest.approx(apart)
    # The largest margin counts, and so do margins beyond the clip.
    assert of([0.0, 1.0], [0.0, 0.0, 0.0, 1.0]) == pytest.approx(0.5 * math.log(4 / 3))
    assert of([-5e5, 7e6], [-100.0, 100.0]) == 0


def test_klom_of_models_that_are_all_alike_is_far_from_zero_when_they_are_few():
    floor = klom(normal(32, 500, seed=1), normal(32, 500, seed=2)).mean()
    assert floor > 0.5


def test_models_dealt_out_anew_are_as_far_apart_as_often_as_chance_has_it():
    def p(seed, shift):
        models = normal(16, 10, seed=seed), normal(16, 10, seed=1000 + seed, mean=shift)
        return by_chance(*models, draws=19, rng=generator(seed))

    alike = torch.tensor([p(seed, 0.0) for seed in range(40)])
    assert alike.mean() == pytest.approx(0.525, abs=0.15)  # even over 0.05, 0.1, ..., 1
    assert (alike <= 0.05).double().mean() <= 0.15
    assert {p(seed, 3.0) for seed in range(5)} == {1 / 20}


@pytest.mark.parametrize(
    ("shape", "wrong", "more", "said"),
    [
        ((1, 3), 0.0, {}, "at least 2 unlearned models"),
        ((4, 3), math.nan, {}, "1 margins of unlearned models are not finite"),
        ((4, 3), 0.0, {"bins": 1}, "at least 2 bins"),
    ],
)
def test_klom_refuses_what_is_no_sample(shape, wrong, more, said):
    unlearned = normal(*shape)
    unlearned[0, 0] = wrong
    with pytest.raises(ValueError, match=said):
        klom(unlearned, normal(4, 3), **more)
