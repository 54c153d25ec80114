"""Audits by shadows against models whose truth is known, and against their own maths."""

import dataclasses

import pytest
import torch

from expunge import stats
from expunge.audit import Answer, Case
from expunge.audits.klom import KLoM
from expunge.audits.lira import LiRA
from expunge.audits.rmia import RMIA
from expunge.audits.u_lira import ULiRA
from expunge.core.descent import train
from expunge.core.klom import klom
from expunge.core.likelihood import likelihood_ratio
from expunge.core.losses import confidence
from expunge.core.ratio import dominated, ratio
from expunge.core.rng import generator
from expunge.lab import Lab, Repeat
from expunge.pool import Shadows
from expunge.subject import Served, WhiteBox

NOISE = 0.3
ATTACKS = [LiRA(shadows=8), LiRA(shadows=8, mode="offline"), RMIA(shadows=8, gamma=1.0)]


class Told(Lab):
    """A lab whose shadows' margins are drawn, not trained: two units higher with a record."""

    def shadows(self, count: int) -> Shadows:
        member = torch.stack([self.pool.half(i) for i in range(count)])
        noise = torch.randn(member.shape, generator=generator(1))
        return Shadows(center(len(self.pool)) + 2.0 * member + NOISE * noise, member)

    def unlearned_shadows(self, count: int) -> Shadows:
        return self.shadows(count).at(self._asked)


def center(n):
    """Return how hard each record of the pool is: much more than membership matters."""
    return torch.linspace(-4, 4, n)[torch.randperm(n, generator=generator(2))]


def told(case: Case, *, trained: bool) -> Case:
    """Return the case with a model that has, or has not, been trained on the forget set."""
    lab = Told(request=case.request, test=case.test, seed=0)
    n, classes = len(lab.pool), case.request.task.outputs
    margins = center(n) + NOISE * torch.randn(n, generator=generator(3))
    margins[lab.pool.find(case.request.forget)] += 2.0 * trained
    x, y, _ = lab.pool.data.take(torch.arange(n))
    places = {tuple(record): place for place, record in enumerate(x.tolist())}

    def respond(x):
        rows = torch.tensor([places[tuple(record)] for record in x.tolist()])
        right = margins[rows].sigmoid()[:, None]
        p = ((1 - right) / (classes - 1)).expand(-1, classes)
        return p.scatter(1, y[rows][:, None], right)

    return dataclasses.replace(case, unlearned=Served(respond), lab=lab)


@pytest.fixture
def case(blobs) -> Case:
    box = WhiteBox(blobs.original)
    return Case(original=box, unlearned=box, request=blobs.request, test=blobs.test)


def ask(audit, case) -> Answer:
    return audit.ask(case.unlearned, case, 0)


@pytest.mark.parametrize("audit", [*ATTACKS, ULiRA(shadows=8)], ids=lambda a: a.card.name)
def test_a_memorised_set_is_found_and_a_set_never_trained_on_is_not(audit, case):
    found, clean = (ask(audit, told(case, trained=trained)) for trained in (True, False))
    assert found.headline > 0.95
    assert found.null.excludes(found.headline)
    assert not clean.null.excludes(clean.headline)


def test_one_threshold_for_all_records_finds_less(case):
    case = told(case, trained=True)
    sets = case.request.forget, case.nonmembers
    plain = [case.unlearned.score(data, case.request.task, confidence, 0) for data in sets]
    assert float(stats.auc(*plain)) < 0.9


def test_scores_are_those_of_the_maths_on_the_forget_set(case):
    case = told(case, trained=True)
    lab, forget = case.lab, case.request.forget
    target = case.unlearned.score(forget, case.request.task, confidence, 0)
    known = lab.shadows(8).at(lab.pool.find(forget))
    answer = ask(LiRA(shadows=8, variance="record"), case)
    assert torch.equal(answer.arrays["scores"], likelihood_ratio(target, *known, variance="record"))
    assert torch.equal(answer.arrays["index"], forget.index)
    z = ratio(
        case.unlearned.score(case.test, case.request.task, confidence, 0),
        *lab.shadows(8).at(lab.pool.find(case.test)),
    )
    answer = ask(RMIA(shadows=8), case)
    assert torch.equal(answer.arrays["scores"], dominated(ratio(target, *known), z, 2.0))


def test_members_and_strangers_are_judged_by_one_variance(case):
    case = told(case, trained=True)
    sets = case.request.forget, case.nonmembers
    target = torch.cat([case.unlearned.score(d, case.request.task, confidence, 0) for d in sets])
    known = case.lab.shadows(8).at(case.lab._asked)
    whole = likelihood_ratio(target, *known, variance="fixed")
    answer = ask(LiRA(shadows=8), case)
    assert torch.equal(torch.cat(answer.records), whole)


def test_records_that_all_score_alike_are_warned_about(case):
    case = told(case, trained=True)
    assert any("same score" in w for w in ask(RMIA(shadows=8, gamma=1e9), case).warnings)
    assert not any("same score" in w for w in ask(RMIA(shadows=8, gamma=1.0), case).warnings)


@pytest.mark.parametrize("cls", [LiRA, ULiRA, RMIA])
def test_fewer_shadows_than_two_on_a_side_are_refused(cls):
    with pytest.raises(ValueError, match="at least 4 shadows"):
        cls(shadows=3)


@pytest.mark.parametrize("wrong", [{"gamma": 0.0}, {"gamma": float("nan")}, {"a": 1.5}])
def test_settings_of_rmia_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match="expected gamma above 0 and a in"):
        RMIA(**wrong)


def test_a_target_whose_answers_are_not_finite_is_refused(case):
    case = told(case, trained=True)
    broken = WhiteBox(torch.nn.Linear(6, 6))
    with torch.no_grad():
        broken.net.weight.fill_(torch.nan)
    for audit in (LiRA(shadows=8), RMIA(shadows=8), ULiRA(shadows=8)):
        with pytest.raises(ValueError, match=r"the target's .* not finite"):
            audit.ask(broken, case, 0)


# KLoM


@pytest.fixture(scope="module")
def many(made) -> Case:
    blobs = made["classification"]
    recipe, retain = blobs.request.recipe, blobs.request.retain
    brief = dataclasses.replace(recipe, descent=dataclasses.replace(recipe.descent, epochs=2))
    request = dataclasses.replace(blobs.request, recipe=brief)
    again = Repeat("retraining", lambda number: train(brief, retain, 50 + number))
    return Case(
        original=WhiteBox(blobs.original),
        unlearned=WhiteBox(train(brief, retain, 50)),
        request=request,
        test=blobs.test,
        lab=Lab(request=request, test=blobs.test, seed=3, unlearn=again),
    )


def test_klom_is_its_maths_on_the_labs_models_and_its_floor_stands_beside(many):
    audit = KLoM(models=4, halvings=3)
    answer = ask(audit, many)
    request, lab = many.request, many.lab
    assert lab is not None

    def said(models, data):
        return torch.stack([m.score(data, request.task, confidence, 0) for m in models])

    group = [many.unlearned, *lab.each("unlearned", 3)]
    retrained = list(lab.each("retrained", 4))
    for name, data in (("forget", request.forget), ("retain", request.retain), ("test", many.test)):
        each = klom(said(group, data), said(retrained, data))
        assert answer.values[name] == pytest.approx(float(each.mean()))
        assert answer.values[f"{name}_95%"] == pytest.approx(float(each.quantile(0.95)))
        assert answer.values[f"floor_{name}"] > 0
    assert answer.headline == answer.values["forget"]
    # All are retrained models: what is told of them is of the floor's size.
    assert answer.headline == pytest.approx(answer.values["floor_forget"], rel=0.5)
    assert f"{answer.values['floor_forget']:.3f}" in answer.warnings[0]


def test_copies_of_the_original_are_farther_than_the_floor(many):
    answer = KLoM(models=4).ask(many.original, many, 0)
    assert answer.headline > answer.values["floor_forget"]
    assert answer.values["p_permutation"] < 0.05
    assert KLoM(models=4).ask(many.unlearned, many, 0).values["p_permutation"] > 0.05


def test_klom_refuses_settings_that_show_no_distribution():
    for wrong in ({"models": 1}, {"bins": 1}, {"halvings": 0}, {"deals": 0}):
        with pytest.raises(ValueError, match="one shows no distribution"):
            KLoM(**wrong)
