"""The reminiscence attack on residuals that are planted, and its numbers by hand."""

import copy
import dataclasses
import math

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from expunge import registry, stats
from expunge.audit import Case
from expunge.audits.reminiscence_class import (
    Attack,
    ReminiscenceClass,
    by_chance,
    judged,
    of_class,
    vacated,
)
from expunge.audits.reminiscence_sample import ReminiscenceSample, reminisced, scores_of
from expunge.bench.check import check
from expunge.bench.problem import Training, pose
from expunge.core.cost import metered
from expunge.core.likelihood import likelihood_ratio
from expunge.core.rng import fenced, generator
from expunge.data.tensors import TensorData
from expunge.extraction import extracted
from expunge.lab import Lab
from expunge.membership import RATES, unresolved
from expunge.pool import Shadows
from expunge.shadowing import margins
from expunge.subject import Refused, Served, WhiteBox
from expunge.types import Descent

ATTACK = ReminiscenceClass(trials=10, share=0.4, lr=0.05)


@pytest.fixture(scope="module")
def problem():
    """Return six classes to train on, one of them to be forgotten, and five withheld."""
    blobs = {"name": "blobs", "classes": 11, "train": 440, "distance": 4.0}
    source = registry.data.build({"name": "withheld", "of": blobs, "classes": [6, 7, 8, 9, 10]})
    return pose(
        source.load(),
        registry.forget.build({"name": "class", "classes": [2]}),
        registry.models.build({"name": "mlp", "hidden": [32]}),
        Training(descent=Descent(lr=0.05, epochs=12, batch_size=32, precision="fp32")),
        source=source,
    )


@pytest.fixture(scope="module")
def case(problem) -> Case:
    """Return a case whose unlearned model has forgotten in its head alone."""
    original = problem.train(0)
    hidden = copy.deepcopy(original)
    with torch.no_grad():
        head = [*hidden.modules()][-1]
        assert isinstance(head, nn.Linear)
        head.weight[2], head.bias[2] = 0, -5
    return Case(
        original=WhiteBox(original),
        unlearned=WhiteBox(hidden),
        retrained=(problem.retrained(1),),
        request=problem.request,
        test=problem.test,
        unseen=problem.sets.unseen,
        lab=problem.lab(0),
    )


# class-wise


def test_a_residual_behind_a_cleared_head_is_found_and_a_retrained_model_has_none(case):
    forget = case.request.forget
    hidden = case.unlearned.said(forget, case.request.task)
    assert (hidden[0] != hidden[1]).all()  # by its answers it has forgotten all
    finding = ATTACK(case, seed=0)
    assert finding.unlearned.values["auc"] > 0.97
    assert finding.unlearned.values["t90_gap"] > 3
    (control,) = finding.retrained
    assert control.values["balanced_accuracy"] == pytest.approx(0.5, abs=0.15)
    assert abs(control.values["t90_gap"]) < 2
    assert finding.original.values["t90_forgotten"] == 0


def test_values_are_those_of_the_scores(case):
    answer = ATTACK.ask(case.unlearned, case, 0)
    scores, values = answer.arrays["scores"], answer.values
    member, unseen = scores[0], scores[1:]
    y = [1] * len(member) + [0] * unseen.numel()
    truth = roc_auc_score(y, scores.flatten().numpy())
    assert values["auc"] == pytest.approx(truth)
    cuts = [one.sort().values[min(10, math.ceil(0.95 * 11)) - 1] for one in unseen]
    rest = [max(cut for j, cut in enumerate(cuts) if j != k) for k in range(5)]
    tpr = sum(float((member > cut).double().mean()) for cut in rest) / 5
    fpr = sum(float((unseen[k] > rest[k]).double().mean()) for k in range(5)) / 5
    assert values["tpr"] == pytest.approx(tpr)
    assert values["fpr"] == pytest.approx(fpr)
    assert answer.headline == pytest.approx((tpr + 1 - fpr) / 2)
    times = answer.arrays["t90"].double()
    gaps = times[1:].mean(0) - times[0]
    assert values["t90_gap"] == pytest.approx(float(gaps.mean()))
    assert values["t90_gap_deviation"] == pytest.approx(float(gaps.std()))
    assert answer.arrays["trajectories"].shape == (6, 16)
    low, high = (answer.arrays[f"trajectories_{end}"] for end in ("low", "high"))
    assert (low <= high).all()


def test_summaries_of_resampled_trials_are_those_of_each_draw():
    groups = [torch.randn(3, 7, 10, generator=generator(i)).double() for i in range(6)]
    whole = judged(groups[0], groups[1:])
    one = judged(groups[0][1, 4], [g[1, 4] for g in groups[1:]])
    for name, value in one.items():
        assert whole[name][1, 4] == value


@pytest.mark.parametrize("apart", [0.0, 0.5, 3.0])
def test_a_class_never_trained_on_is_told_by_chance_however_much_classes_differ(apart):
    draws = generator(0)
    pace = apart * torch.randn(4000, 6, 1, generator=draws).double()
    scores = pace + torch.randn(4000, 6, 40, generator=draws).double()
    found = judged(scores[:, 0], [scores[:, k] for k in range(1, 6)])
    error = float(found["balanced_accuracy"].std()) / 4000**0.5
    assert float(found["balanced_accuracy"].mean()) == pytest.approx(0.5, abs=4 * error)
    assert 4 * error < 0.03


def test_chance_is_where_a_class_never_trained_on_would_lie():
    """Each class in turn is the member: with one fast class of four, by hand."""
    slow = torch.arange(20.0).double()
    null = by_chance([slow + 100, slow, slow, slow])
    first = (1 + 1 - 0) / 2  # all of the fast class and none of the others are found
    other = (1 + 0 - 1 / 3) / 2  # none of a slow one, and one of the other three: the fast class
    values = [first, other, other, other]
    assert null.value == pytest.approx(sum(values) / 4)
    assert null.high == pytest.approx(min(1, null.value + stats.spread(values)))
    apart = 0.4  # within [0, 1], and nearer than what 5 % of such classes exceed
    told = stats.beyond(apart, stats.spread(values), 4)
    assert null.against(null.value - apart) == pytest.approx(told)
    assert told > 0.05


def test_arms_differ_in_the_class_alone(case):
    attack = Attack(ATTACK, case.unlearned, case.request, case.unseen)
    arms = [of_class(case.request.forget, 2), *attack.unseen]
    trials = attack._trials(arms, case.request.retain, 2, 3)
    numbers = [set(arm.y.tolist()) for arm in arms]
    assert numbers == [{2}, {0}, {1}, {2}, {3}, {4}]
    for i, trial in enumerate(trials):
        same = trials[i % 3]
        assert torch.equal(trial.retained.rows, same.retained.rows)
        assert trial.seed == same.seed
        assert len(trial.candidates) == len(same.candidates) == 16
        assert set(trial.candidates.y.tolist()) == {2}  # the slot, whatever its own number is
        taken = trial.candidates.data.rows.tolist()
        assert len(set(taken)) == 16
        assert {arms[i // 3].y[row].item() for row in taken} == numbers[i // 3]
    assert not torch.equal(trials[0].retained.rows, trials[1].retained.rows)


def test_one_forgotten_class_is_taught_in_each_slot(problem):
    forget = registry.forget.build({"name": "class", "classes": [2, 5]})
    two = pose(problem.sets, forget, problem.recipe.model, Training(descent=Descent(epochs=1)))
    box = WhiteBox(two.train(0))
    case = Case(
        original=box, unlearned=box, request=two.request, test=two.test, unseen=two.sets.unseen
    )
    few = dataclasses.replace(ATTACK, trials=2)
    answer = few(case, seed=0).unlearned
    assert answer.arrays["scores"].shape == (6, 4)
    alone = Attack(few, box, two.request, two.sets.unseen)
    trials = alone._trials([of_class(two.request.forget, 5)], two.request.retain, 5, 2)
    told = alone._told(box.model, trials, 1, alone._lesson(few.lr))[0]
    assert torch.equal(told.mean(1), answer.arrays["scores"][0, 2:] + answer.arrays["t90"][0, 2:])


def test_the_work_that_is_planned_is_what_is_counted(case):
    for changes in ({}, {"extract": 2}, {"asked": 5, "steps": 9}):
        audit = dataclasses.replace(ATTACK, trials=2, **changes)
        planned = audit.work(case.request, case.test)
        with metered() as bill:
            Attack(audit, case.unlearned, case.request, case.unseen).run()
        assert (bill.cost.forward, bill.cost.backward) == (planned.forward, planned.backward)


def test_few_trials_and_few_classes_are_told(case):
    few = dataclasses.replace(ATTACK, trials=2, steps=2)
    *_, trials, classes = few.ask(case.unlearned, case, 0).warnings
    assert "2 trials on a class" in trials
    assert "at 33 %; it takes at least 19" in trials
    assert "5 classes never trained on" in classes
    assert "the fastest in 17 % of cases and accused" in classes
    enough = dataclasses.replace(few, trials=19).ask(case.unlearned, case, 0).warnings
    assert enough[-1] == classes
    assert not any("trials on a class" in said for said in enough)


def test_trials_in_which_nothing_is_learned_are_told(case):
    still = dataclasses.replace(ATTACK, trials=20, lr=1e-9, steps=2)
    (retrained,) = case.retrained
    (blind, _) = still.ask(retrained, case, 0).warnings
    assert "after none of 2 steps" in blind
    assert "told, nor one of the forgotten class: their scores tie" in blind
    (known,) = still.ask(case.original, case, 0).warnings  # it gives some of them the slot
    assert "5 classes never trained on" in known


# the adaptive attacker, and black boxes


def test_the_surrogates_class_is_unlearned_and_the_forgotten_one_is_not_looked_at(case):
    own = of_class(case.request.retain, 4)
    before = copy.deepcopy(case.unlearned.model.state_dict())
    network = vacated(case.unlearned.model, 4, own, case.request.recipe, 0)
    said, y = WhiteBox(network).said(own, case.request.task)
    assert (said == y).double().mean() < 1 / 6
    after = case.unlearned.model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_the_surrogate_is_drawn_alike_whatever_was_drawn_before(case):
    request, recipe = case.request, case.request.recipe
    dropping = dataclasses.replace(recipe.model, dropout=0.5)
    recipe = dataclasses.replace(recipe, model=dropping)
    network = recipe.fresh()
    states = []
    for seed in (1, 2):
        with fenced(seed):
            gone = vacated(network, 4, of_class(request.retain, 4), recipe, 0)
        states.append(gone.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_rate_is_chosen_without_the_forgotten_class_on_the_first_unseen(case):
    audit = dataclasses.replace(ATTACK, sweep=(1e-6, 0.05), sweep_trials=4, trials=2)
    assert audit.ask(case.unlearned, case, 0).values["lr"] == 0.05
    attack = Attack(audit, case.unlearned, case.request, case.unseen)
    nothing = Attack(audit, case.unlearned, case.request, case.unseen)
    nothing.unseen = []
    gone = dataclasses.replace(case.request, forget=case.request.forget.select(torch.arange(40)))
    x = gone.forget.take(torch.arange(40)).x
    blank = type(gone.forget)(torch.full_like(x, torch.nan), gone.forget.y)
    nothing.request = dataclasses.replace(gone, forget=blank)
    assert nothing._chosen() == attack._chosen()


def test_surrogates_are_other_classes_than_those_that_judge_where_there_are_enough(case):
    for unseen, first in ((3, 3), (4, 0), (5, 0)):
        attack = Attack(
            dataclasses.replace(ATTACK, unseen=unseen), case.unlearned, case.request, case.unseen
        )
        assert [int(arm.y[0]) for arm in attack.surrogates] == [first, first + 1]
        assert len(attack.unseen) == unseen


def test_a_copy_answers_as_the_black_box_does(case):
    retain, recipe = case.request.retain, case.request.recipe
    box = Served(lambda x: case.unlearned.outputs(x).softmax(-1))
    network = extracted(box.outputs, recipe, retain, 12, seed=0)
    mine, theirs = (
        s.score(retain, recipe.task, lambda o, _: o.softmax(-1), 0)
        for s in (WhiteBox(network), box)
    )
    assert float((mine - theirs).abs().mean()) < 0.03
    wrong = Served(lambda x: box.respond(x).roll(1, -1))  # answers, not truths, are learned
    turned = extracted(wrong.outputs, recipe, retain, 12, seed=0)
    said, y = WhiteBox(turned).said(retain, recipe.task)
    assert ((said - 1) % 6 == y).double().mean() > 0.95


def test_a_black_box_is_copied_and_attacked(case):
    box = dataclasses.replace(case, unlearned=Served(lambda x: case.original.outputs(x).softmax(1)))
    with pytest.raises(Refused, match="set `extract` to the number of epochs"):
        ATTACK(box, seed=0)
    audit, request = dataclasses.replace(ATTACK, extract=6, trials=2), case.request
    answer = audit(box, seed=0).unlearned
    copied = extracted(box.unlearned.outputs, request.recipe, request.retain, 6, seed=0)
    alone = dataclasses.replace(audit, extract=0).ask(WhiteBox(copied), case, 0)
    untrained = dataclasses.replace(audit, extract=0).ask(blank(request.recipe), case, 0)
    assert torch.equal(answer.arrays["trajectories"], alone.arrays["trajectories"])
    assert not torch.equal(answer.arrays["trajectories"], untrained.arrays["trajectories"])
    known = case.test.select((case.test.y != 2).nonzero()[:, 0])  # and none was put to the box
    mine, theirs = (one.said(known, request.task)[0] for one in (WhiteBox(copied), box.unlearned))
    assert float((mine == theirs).double().mean()) > 0.9


def blank(recipe) -> WhiteBox:
    """Return an untrained network, the same one whatever was drawn before."""
    with fenced(7):
        return WhiteBox(recipe.drawn().eval())


def queried(request, count, label):
    """Return the request with so many forgotten records among the queries, labelled otherwise."""
    x, y, _ = request.forget.take(torch.arange(count))
    more = TensorData(x, label(y))
    return dataclasses.replace(request, retain=request.retain.join(more))


def test_a_copy_reveals_the_class_where_the_black_boxs_answers_do(case):
    """Records like the forgotten ones are put to it; their labels say nothing of their class."""
    shown = dataclasses.replace(case, request=queried(case.request, 10, lambda y: y + 1))
    (retrained,) = case.retrained
    found = {}
    for name, subject in (
        ("original", case.original),
        ("retrained", retrained),
        ("untrained", blank(case.request.recipe)),
    ):
        box = Served(lambda x, subject=subject: subject.outputs(x).softmax(1))
        found[name] = dataclasses.replace(ATTACK, extract=6, trials=5).ask(box, shown, 0).values
    assert found["original"]["auc"] > 0.97
    assert found["original"]["t90_forgotten"] == 0
    assert found["original"]["t90_gap"] > 5
    for name in ("retrained", "untrained"):  # neither has ever seen the class
        assert found[name]["auc"] < 0.7
        assert found[name]["t90_gap"] < 2


# bad input


def test_what_cannot_be_attacked_is_refused_before_work(case, problem):
    def refused(match, audit=ATTACK, **changes):
        with pytest.raises(Refused, match=match):
            audit.check(dataclasses.replace(case, **changes))

    refused('no withheld classes: .* name = "withheld" with at least 5 classes', unseen=None)
    few = case.unseen.select((case.unseen.y < 3).nonzero()[:, 0])
    refused("needs 5 withheld classes, each to be judged by the others, got 3", unseen=few)
    shared = problem.request.retain.join(problem.request.forget.select(torch.arange(7)))
    request = dataclasses.replace(problem.request, retain=shared)
    refused("7 retained records are of the 1 classes", request=request)
    for size in (2, 5, 7):  # of five, the slot of class 2 may be the one that is gone
        other = WhiteBox(nn.Linear(11, size))
        refused(rf"shape \({size},\), expected 6 answers, .* of class 2", retrained=(other,))
    small = case.unseen.select(torch.cat([(case.unseen.y == k).nonzero()[:9, 0] for k in range(5)]))
    refused("16 candidates.* has 9 records; lower `share`", unseen=small)
    with pytest.raises(Refused, match="no withheld classes"):
        check(dataclasses.replace(problem, sets=problem.sets._replace(unseen=None)), (), (ATTACK,))


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"trials": 0}, "trials, sweep_trials"),
        ({"share": 0.0}, "share and accuracy"),
        ({"accuracy": 1.5}, "share and accuracy"),
        ({"sweep": (0.1, 0.0)}, "rates above 0"),
        ({"cap": 0}, "cap and asked"),
        ({"unseen": 2}, "at least 3 unseen classes"),
        ({"surrogates": 6}, "at least 3 unseen classes"),
    ],
)
def test_settings_without_sense_are_refused(wrong, match):
    with pytest.raises(ValueError, match=match):
        ReminiscenceClass(**wrong)


# sample-wise


def test_the_fine_tuning_is_that_of_a_loop_written_out(blobs):
    data, recipe = blobs.request.retain, blobs.problem.recipe
    descent = Descent(lr=0.05, epochs=2, batch_size=40, weight_decay=5e-4, precision="fp32")
    tuned = reminisced(blobs.original, data, descent, recipe, 3)
    network = copy.deepcopy(blobs.original)
    draws = generator(3, "reminisce")
    for lr in (0.05, 0.025):
        optimizer = torch.optim.SGD(network.parameters(), lr, momentum=0.9, weight_decay=5e-4)
        for _ in range(2):
            for x, y, _ in data.batches(40, draws):
                network.train()
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(x), y).backward()
                optimizer.step()
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tuned.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


class Told(Lab):
    """A lab whose shadows' margins are drawn, not trained: two units higher with a record."""

    def shadows(self, count: int) -> Shadows:
        member = torch.stack([self.pool.half(i) for i in range(count)])
        noise = torch.randn(member.shape, generator=generator(1))
        return Shadows(2.0 * member + 0.3 * noise, member)

    def unlearned_shadows(self, count: int) -> Shadows:
        return self.shadows(count).at(self._asked)


def given(case, before, after, monkeypatch, **settings):
    """Return the answer for a model that has these margins before and after."""
    audit = ReminiscenceSample(shadows=8, **settings)
    right = torch.zeros(len(case.request.forget)).double()
    told = {"before": before, "after": after, "right_before": right, "right_after": right + 1}
    monkeypatch.setattr(ReminiscenceSample, "_margins", lambda *_: told)
    lab = Told(request=case.request, test=case.test, seed=0)
    return audit.ask(case.unlearned, dataclasses.replace(case, lab=lab), 0)


@pytest.fixture
def samples(blobs) -> Case:
    box = WhiteBox(blobs.original)
    return Case(original=box, unlearned=box, request=blobs.request, test=blobs.test)


def noisy(case, shift, seed):
    """Return margins like those of models that have, or have not, seen the forget set."""
    sizes = len(case.request.forget), len(case.nonmembers)
    margin = 0.3 * torch.randn(sum(sizes), generator=generator(seed))
    margin[: sizes[0]] += shift
    return margin


def test_the_gain_is_what_was_not_there_before(samples, monkeypatch):
    before, after = noisy(samples, 0.0, 5), noisy(samples, 0.5, 6)
    answer = given(samples, before, after, monkeypatch)
    values, arrays = answer.values, answer.arrays
    sizes = len(samples.request.forget), len(samples.nonmembers)
    y = [1] * sizes[0] + [0] * sizes[1]
    lab = Told(request=samples.request, test=samples.test, seed=0)
    known = lab.shadows(8).at(lab._asked)
    areas = {
        (when, mode): roc_auc_score(y, likelihood_ratio(margin, *known, mode=mode).numpy())
        for when, margin in (("before", before), ("after", after))
        for mode in ("online", "offline")
    }
    assert values["auc"] == answer.headline == pytest.approx(areas["after", "online"])
    assert values["auc_before"] == pytest.approx(areas["before", "online"])
    assert values["auc_offline"] == pytest.approx(areas["after", "offline"])
    gain = {mode: areas["after", mode] - areas["before", mode] for mode in ("online", "offline")}
    assert values["gain"] == pytest.approx(gain["online"])
    assert values["gain_offline"] == pytest.approx(gain["offline"])
    assert gain["online"] > 0.2
    assert answer.exact["gain"].excludes(0.0)
    assert torch.allclose(arrays["margin_change"], (after - before)[: sizes[0]])
    assert values["margin_change"] == pytest.approx(float((after - before)[: sizes[0]].mean()))
    assert values["forget_accuracy_regained"] == 1
    online, offline = (likelihood_ratio(after, *known, mode=m) for m in ("online", "offline"))
    assert torch.equal(arrays["scores"], online[: sizes[0]])
    assert torch.equal(arrays["scores_offline"], offline[: sizes[0]])
    assert not torch.equal(arrays["roc_tpr"], arrays["roc_offline_tpr"])


def test_a_model_that_fine_tuning_does_not_move_gains_nothing(samples, monkeypatch):
    margin = noisy(samples, 0.0, 5)
    values = given(samples, margin, margin, monkeypatch).values
    assert values["gain"] == values["gain_offline"] == values["margin_change"] == 0


def test_too_few_shadows_for_a_rate_are_told_with_the_least_that_would_do(samples, monkeypatch):
    margin = noisy(samples, 0.0, 5)
    quiet, warned = (
        given(samples, margin, margin, monkeypatch, rate=rate) for rate in (0.25, 0.02)
    )
    assert not any("Gaussian" in said for said in quiet.warnings)
    (said,) = [said for said in warned.warnings if "Gaussian" in said]
    assert "8 shadow models" in said
    assert "rate of 2 % by themselves" in said
    assert said.endswith("the least that would do is 100")
    assert "tpr_at_2%_fpr" in warned.values


def test_too_few_non_members_for_the_rate_asked_about_are_told(samples, monkeypatch):
    margin = noisy(samples, 0.0, 5)
    count = len(samples.nonmembers)
    answer = given(samples, margin, margin, monkeypatch, rate=1e-4)
    (said,) = [said for said in answer.warnings if "cannot resolve" in said]
    assert said.startswith(f"{count} records never trained on cannot resolve")
    assert "rate of 0.01 % and 0.1 %" in said
    assert said.endswith("hold out at least 10,000")
    assert unresolved(5000) == ()
    (said,) = unresolved(5000, (*RATES, 1e-4))
    assert "rate of 0.01 %:" in said


def test_shadows_that_have_unlearned_are_asked_for(samples, monkeypatch):
    audit = ReminiscenceSample(shadows=6, shadowed="unlearned")
    assert (audit.needs.shadows, audit.needs.unlearned_shadows) == (0, 6)
    margin = noisy(samples, 2.0, 5)
    plain, other = (
        given(samples, margin, margin, monkeypatch, shadowed=kind)
        for kind in ("trained", "unlearned")
    )
    assert torch.equal(plain.arrays["scores"], other.arrays["scores"])  # here they are the same


def test_scores_of_every_kind_are_kept_apart():
    rng = generator(2)
    told = {name: torch.randn(30, generator=rng) for name in ("before", "after")}
    member = (torch.arange(8)[:, None] + torch.arange(30)) % 2 == 0
    known = Shadows(torch.randn(8, 30, generator=rng), member)
    scores = scores_of(told, known, "fixed")
    expected = [("after", "online"), ("before", "online"), ("after", "offline")]
    for row, (when, mode) in zip(scores, expected, strict=False):
        truth = likelihood_ratio(told[when], *known, mode=mode, variance="fixed")
        assert torch.equal(row, truth)


def test_the_fine_tuning_sees_retained_records_only_and_its_work_is_counted(samples):
    audit = ReminiscenceSample(shadows=4, descent=Descent(epochs=2, batch_size=32))
    lab = Lab(request=samples.request, test=samples.test, seed=0)
    case = dataclasses.replace(samples, lab=lab)
    sets = samples.request.forget, samples.nonmembers
    planned = audit.work(samples.request, samples.test)
    with metered() as bill:
        told = audit._margins(samples.unlearned, case, sets)
    assert bill.cost.backward == planned.backward == 4 * len(samples.request.retain)
    assert planned.forward <= bill.cost.forward <= planned.forward + 2 * len(sets[0])
    request, network = samples.request, samples.unlearned.model
    alone = reminisced(network, request.retain, audit.descent, request.recipe, 0)
    said, y = WhiteBox(alone).said(request.forget, request.task)
    assert torch.equal(told["right_after"], (said == y).double())


def test_a_black_boxs_copy_is_what_is_tuned_and_told_by_sample(samples):
    audit = ReminiscenceSample(shadows=4, extract=10, descent=Descent(epochs=1, batch_size=32))
    request, lab = samples.request, Lab(request=samples.request, test=samples.test, seed=0)
    case, sets = dataclasses.replace(samples, lab=lab), (samples.request.forget, samples.nonmembers)
    box = Served(lambda x: samples.original.outputs(x).softmax(1))
    with pytest.raises(Refused, match="set `extract` to the number of epochs"):
        dataclasses.replace(audit, extract=0).check(dataclasses.replace(case, unlearned=box))
    told = audit._margins(box, case, sets)
    copied = extracted(box.outputs, request.recipe, request.retain, 10, seed=0)
    alone = dataclasses.replace(audit, extract=0)._margins(WhiteBox(copied), case, sets)
    assert all(torch.equal(told[name], alone[name]) for name in told)
    # Of records that were not put to the box, the copy is sure where the box is.
    truth = margins(samples.original, case, sets, 0)
    untrained = margins(blank(request.recipe), case, sets, 0)
    alike, by_chance = (
        float(torch.stack([one, truth]).corrcoef()[0, 1]) for one in (told["before"], untrained)
    )
    assert alike > 0.75
    assert by_chance < 0.4
    assert float(told["right_before"].mean()) > 0.5  # chance is a sixth


def test_a_copy_reveals_of_samples_what_the_black_boxs_answers_do(samples):
    """Two boxes differ in what they answer of forgotten records; the labels are of neither."""
    lab = Told(request=samples.request, test=samples.test, seed=0)
    request = queried(samples.request, 20, lambda y: (y + 1) % 6)
    case = dataclasses.replace(samples, request=request, lab=lab)
    audit = ReminiscenceSample(shadows=8, extract=20, descent=Descent(epochs=1, batch_size=32))
    known, y, _ = samples.request.forget.take(torch.arange(20))

    def served(turned: int) -> Served:
        def answer(x):
            others, same = samples.original.outputs(x).softmax(1), (x[:, None] == known).all(2)
            told = nn.functional.one_hot((y[same.int().argmax(1)] + turned) % 6, 6)
            return torch.where(same.any(1)[:, None], 0.9 * told + 0.1 / 6, others)

        return Served(answer)

    right, wrong = (audit.ask(served(turned), case, 0) for turned in (0, 3))
    assert right.arrays["scores"].mean() > 5
    assert wrong.arrays["scores"].mean() < -5
    assert right.headline > wrong.headline + 0.1
    assert right.values["forget_accuracy"] > wrong.values["forget_accuracy"]


@pytest.mark.parametrize("wrong", [{"shadows": 3}, {"extract": -1}, {"rate": 0.0}])
def test_sample_settings_without_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        ReminiscenceSample(**wrong)
