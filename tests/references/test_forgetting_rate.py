"""The forgetting rate: its arithmetic by hand, its oracles against other ways to the same."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch
from scipy.stats import fisher_exact
from torch import nn

from expunge import api
from expunge.audit import Answer, Case
from expunge.audits import forgetting_rate
from expunge.audits.forgetting_rate import ForgettingRate, pair, rates
from expunge.bench import judging
from expunge.bench.problem import Training
from expunge.bench.stages import training
from expunge.core import embedding
from expunge.core.losses import PADDING
from expunge.core.oracle import Quality, apart, fit_trees, library, top_posteriors
from expunge.core.rng import generator
from expunge.core.sample import distinct
from expunge.core.voting import Voting
from expunge.core.white_box import Encoders, find_layer, read_signals
from expunge.data.split import Holdout
from expunge.data.tensors import TensorData
from expunge.lab import Lab, in_packs
from expunge.methods.finetune import Finetune
from expunge.stats import Interval
from expunge.study.estimate import mean_answer
from expunge.subject import Refused, Served, WhiteBox
from expunge.types import Descent

FAST = ForgettingRate(trees=10)


def said(before: int, after: int, count: int) -> torch.Tensor:
    """Return pairs of which so many are called members before, and so many after."""
    order = torch.arange(count)
    return pair(order < before, order < after)


def as_floats(values):
    return {name: float(value) for name, value in values.items()}


def test_the_papers_example():
    got = as_floats(rates(said(90, 10, 100), said(50, 50, 60)))
    assert got["fr"] == pytest.approx(80 / 90)
    assert (got["bt"], got["bf"], got["af"]) == (90, 10, 90)
    assert got["cfr"] == 0


@pytest.mark.parametrize(("before", "after", "rate"), [(40, 10, 0.75), (40, 50, -0.25), (40, 0, 1)])
def test_the_catastrophic_rate_falls_below_nought_where_more_are_known(before, after, rate):
    assert float(rates(said(5, 5, 9), said(before, after, 60))["cfr"]) == pytest.approx(rate)


def test_forgetting_none_all_and_less_than_none():
    for after, rate in ((90, 0), (0, 1), (100, -1 / 9)):
        got = rates(said(90, after, 100), said(1, 1, 1))
        assert float(got["fr"]) == pytest.approx(rate)


def test_a_rate_of_nothing_is_not_a_number():
    got = as_floats(rates(said(0, 10, 100), said(0, 3, 60)))
    assert np.isnan(got["fr"])
    assert np.isnan(got["cfr"])
    assert (got["bt"], got["bf"], got["af"]) == (0, 100, 90)


def test_it_is_the_loop_over_records_whatever_dimensions_lead():
    draws = generator(0, "said")
    flags = torch.rand(2, 2, 3, 4, 25, generator=draws) < 0.6
    got = rates(pair(*flags[0]), pair(*flags[1]))
    for i in range(3):
        for j in range(4):
            before, after = flags[0, :, i, j].tolist()
            bt = bf = af = kept = lost = 0
            for b, a in zip(before, after, strict=True):
                bt, bf, af = bt + b, bf + (not b), af + (not a)
            for b, a in zip(*flags[1, :, i, j].tolist(), strict=True):
                kept, lost = kept + b, lost + b - a
            assert float(got["fr"][i, j]) == pytest.approx((af - bf) / bt)
            assert float(got["cfr"][i, j]) == pytest.approx(lost / kept)


def test_the_largest_posteriors_are_sorted_whatever_their_class():
    logits = torch.tensor([[0.1, 0.2, 0.6, 0.1], [0.7, 0.05, 0.05, 0.2]]).log()
    got = top_posteriors(logits, torch.tensor([0, 1]))
    torch.testing.assert_close(got, torch.tensor([[0.6, 0.2, 0.1], [0.7, 0.2, 0.05]]).double())
    assert top_posteriors(logits[:, :2], torch.tensor([0, 1])).shape == (2, 2)


def test_of_a_sequence_they_are_averaged_where_an_answer_is_wanted():
    draws = generator(1, "sequence")
    logits = torch.randn(5, 7, 6, generator=draws)
    y = torch.randint(6, (5, 7), generator=draws)
    y[:, 3:] = PADDING
    y[2, 5] = 1
    got = top_posteriors(logits, y)
    for i in range(5):
        rows = [p for p, answer in zip(logits[i].softmax(-1), y[i], strict=True) if answer >= 0]
        each = [sorted(row.tolist(), reverse=True)[:3] for row in rows]
        expected = [sum(column) / len(each) for column in zip(*each, strict=True)]
        assert got[i].tolist() == pytest.approx(expected, abs=1e-6)


def test_the_oracles_quality_by_hand():
    member = torch.tensor([True] * 10 + [False] * 30)
    called = torch.tensor([True] * 7 + [False] * 3 + [True] * 6 + [False] * 24)
    got = Quality.of(called, member)
    assert got == (7, 10, 24, 30)
    assert got.accuracy == 31 / 40
    assert got.precision == 7 / 13
    assert (got.recall, got.tnr) == (0.7, 0.8)
    expected = fisher_exact([[7, 3], [6, 24]], alternative="greater")
    assert got.p_chance == pytest.approx(expected.pvalue)
    assert Quality.of(torch.ones(40).bool(), member).p_chance == 1
    assert np.isnan(Quality.of(torch.zeros(40).bool(), member).precision)


def test_records_are_held_out_of_either_side():
    member = torch.arange(100) < 20
    held = apart(member, 0.25, "x")
    assert (int((held & member).sum()), int((held & ~member).sum())) == (5, 20)
    assert torch.equal(held, apart(member, 0.25, "x"))


def test_trees_are_those_of_xgboost_called_directly():
    xgboost = library()
    draws = generator(2, "trees")
    member = torch.rand(400, generator=draws) < 0.3
    points = torch.rand(400, 3, generator=draws) + 0.3 * member[:, None]
    weight = np.where(member, 400 / (2 * int(member.sum())), 400 / (2 * int((~member).sum())))
    matrix = xgboost.DMatrix(points.numpy(), label=member.int().numpy(), weight=weight)
    settings = {"objective": "binary:logistic", "max_depth": 3, "eta": 0.1, "tree_method": "hist"}
    model = xgboost.train(settings | {"nthread": 1, "seed": 0}, matrix, num_boost_round=30)
    asked = torch.rand(200, 3, generator=draws)
    says = fit_trees(points, member, trees=30, depth=3, rate=0.1)
    expected = model.predict(xgboost.DMatrix(asked.numpy())) > 0.5
    assert says(asked).tolist() == expected.tolist()
    assert 0 < says(asked).sum() < 200


def test_without_xgboost_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(Refused, match=r"expunge\[boost\]"):
        library()


class Told(Lab):
    """A lab with a shadow that is sure of its own half, and of nothing else."""

    def said_by_shadow(self, number, about, score):
        sure = torch.tensor([0.98, 0.01, 0.01]), torch.tensor([0.5, 0.3, 0.2])
        half = self.pool.half(number)[:, None]
        wide = 0.01 * torch.rand(len(half), 1, generator=generator(number))
        return torch.where(half, *sure) - wide


def answering(sure, classes=6):
    """Return a function that is sure of the records in `sure`, and of no others."""
    known = {tuple(row.tolist()) for data in sure for x, _, _ in data.batches(64) for row in x}

    def respond(x):
        rows = [0.98 if tuple(row.tolist()) in known else 0.5 for row in x]
        top = torch.tensor(rows)
        second = torch.where(top > 0.9, 0.01, 0.3)
        others = (1 - top - second) / (classes - 2)
        return torch.stack([top, second, *[others] * (classes - 2)], 1)

    return Served(respond)


@pytest.fixture
def told(blobs) -> Case:
    request = blobs.request
    return Case(
        original=answering([request.retain, request.forget]),
        unlearned=answering([request.retain]),
        retrained=(answering([request.retain]),),
        request=request,
        test=blobs.test,
        lab=Told(request=request, test=blobs.test, seed=0),
    )


def ask(audit, case) -> Answer:
    return audit(case, seed=0).unlearned


def test_a_model_that_is_sure_of_its_own_records_alone_forgets_all(told):
    finding = FAST(told, seed=0)
    values = finding.unlearned.values
    n = len(told.request.forget)
    assert (values["fr"], values["cfr"], values["bt"], values["af"]) == (1, 0, n, n)
    assert finding.original.headline == 0
    assert finding.retrained[0].headline == 1
    assert finding.unlearned.null == Interval(1, 1, 1)
    assert finding.unlearned.warnings == ()
    assert values["oracle_accuracy"] == values["oracle_recall"] == values["oracle_tnr"] == 1


def test_damage_shows_in_the_catastrophic_rate(told):
    half = told.request.retain.select(torch.arange(0, len(told.request.retain), 2))
    values = ask(FAST, dataclasses.replace(told, unlearned=answering([half]))).values
    assert values["fr"] == 1
    assert values["cfr"] == pytest.approx(0.5, abs=0.01)


def test_the_rate_is_counted_record_by_record_in_any_order(told):
    forget = told.request.forget
    some = forget.select(torch.arange(7))
    case = dataclasses.replace(told, unlearned=answering([told.request.retain, some]))
    answer = ask(FAST, case)
    assert answer.headline == pytest.approx(1 - 7 / len(forget))
    assert answer.arrays["member_after"].tolist() == [i < 7 for i in range(len(forget))]
    turned = dataclasses.replace(case.request, forget=forget.select(torch.arange(19, -1, -1)))
    assert ask(FAST, dataclasses.replace(case, request=turned)).headline == answer.headline


def test_a_rate_of_nothing_is_told_as_such_everywhere(told):
    case = dataclasses.replace(told, original=answering([told.request.retain]))
    finding = FAST(case, seed=0)
    assert np.isnan(finding.unlearned.headline)
    assert finding.verdict == "cannot tell"
    assert finding.unlearned.null is None
    assert "called none of 20 forget records a member" in str(finding)
    assert "not defined for every model" in str(finding)
    record = finding.record()
    assert record["unlearned"]["values"]["fr"] is None
    assert record["unlearned"]["values"]["cfr"] == 0
    json.dumps(record, allow_nan=False)
    three = dataclasses.replace(case, retrained=case.retrained * 3)
    json.dumps(FAST(three, seed=0).record(), allow_nan=False)
    assert FAST(three, seed=0).verdict == "cannot tell"
    assert mean_answer([record["unlearned"]], "fr", "seeds") is None  # what a page prints as —


def test_a_resample_of_nothing_does_not_spoil_the_interval(told):
    one = told.request.forget.select(torch.arange(1))
    case = dataclasses.replace(told, original=answering([told.request.retain, one]))
    interval = ask(FAST, case).intervals["fr"]
    assert interval == Interval(1, 1, 1)  # the one record is known before and not after


def untrained(orders):
    for order in orders:
        yield order.recipe.drawn()


@pytest.fixture
def case(blobs) -> Case:
    box = WhiteBox(blobs.original)
    lab = Lab(request=blobs.request, test=blobs.test, seed=3, train=untrained)
    return Case(original=box, unlearned=box, request=blobs.request, test=blobs.test, lab=lab)


def test_an_oracle_no_better_than_chance_is_warned_about(case):
    finding = FAST(case, seed=0)
    assert any("no better than chance" in w for w in finding.unlearned.warnings)
    assert "no better than chance" in str(finding)
    assert finding.unlearned.values["oracle_p_chance"] > 0.05
    assert finding.unlearned.headline == 0


def test_a_model_whose_answers_are_not_finite_is_refused(case):
    broken = nn.Linear(6, 6)
    nn.init.constant_(broken.weight, torch.nan)
    with pytest.raises(ValueError, match="20 of 20 records have answers that are not finite"):
        FAST.ask(WhiteBox(broken), case, 0)


def test_one_shadow_is_trained_and_its_answers_are_kept(case):
    trained = []

    def counted(orders):
        trained.extend(orders)
        return in_packs(orders)

    lab = dataclasses.replace(case.lab, train=counted)
    case = dataclasses.replace(case, lab=lab)
    for audit in (FAST, dataclasses.replace(FAST, depth=2)):
        ask(audit, case)
    assert len(trained) == 1
    expected = WhiteBox(next(in_packs([lab.order("shadow", 0)])))
    got = lab.said_by_shadow(0, {"top posteriors": 3}, top_posteriors)
    again = expected.score(lab.pool.data, case.request.task, top_posteriors, 0)
    torch.testing.assert_close(got, again)
    ask(dataclasses.replace(FAST, shadows=2), case)
    assert len(trained) == 2


def test_the_oracle_is_made_once_for_all_models(case, monkeypatch):
    made = []

    def counted(*given, **settings):
        made.append(settings)
        return fit_trees(*given, **settings)

    monkeypatch.setattr(forgetting_rate, "fit_trees", counted)
    case = dataclasses.replace(case, unlearned=WhiteBox(nn.Linear(6, 6)))
    FAST(case, seed=0)
    FAST(case, seed=1)
    assert len(made) == 1


def test_it_learns_from_no_record_of_the_forget_set_nor_a_copy(blobs):
    request = blobs.request
    data = request.retain.join(request.forget).join(blobs.test).join(request.forget)
    lab = Lab(
        request=request,
        test=blobs.test,
        seed=0,
        records=dataclasses.replace(Lab(request=request, seed=0).pool, data=data),
    )
    box = WhiteBox(blobs.original)
    case = Case(original=box, unlearned=box, request=request, test=blobs.test, lab=lab)
    rows = FAST._rows(case)
    known = len(request.retain)
    expected = [*range(known), *range(known + 20, known + 20 + len(blobs.test))]
    assert rows.tolist() == expected
    alike = blobs.test.select(torch.arange(10, 30))
    case = dataclasses.replace(case, alike=alike)
    kind = dataclasses.replace(FAST, records="alike")._rows(case)
    assert kind.tolist() == [known + 20 + i for i in range(10, 30)]


def test_the_plan_trains_the_shadow_that_the_audit_asks_for(blobs):
    problem = blobs.problem
    order = problem.shadowing.order("shadow", 0)
    stages = judging.further(problem, Finetune(), 0, [ForgettingRate()])
    assert [s.key for s in stages] == [training("", *order).key]
    assert judging.further(problem, Finetune(), 0, [ForgettingRate(oracle="white_box")]) == ()


@pytest.mark.parametrize(
    ("audit", "message"),
    [
        (ForgettingRate(oracle="sequence"), "oracle='black_box' or oracle='white_box'"),
        (ForgettingRate(tested=0.02), "tried on"),
    ],
)
def test_a_case_that_it_is_not_for_is_refused(case, audit, message):
    with pytest.raises(Refused, match=message):
        audit.check(case)


@pytest.mark.parametrize(
    "wrong",
    [
        {"trees": 0},
        {"shadows": 0},
        {"tested": 1.0},
        {"rate": 0.0},
        {"retained": 0},
        {"embed": -1},
        {"oracle": "white_box", "records": "alike"},
    ],
)
def test_settings_without_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=r"expected|a white box"):
        ForgettingRate(**wrong)


def test_signals_are_the_gradient_of_each_record_alone(blobs):
    model, task, data = blobs.original, blobs.request.task, blobs.test
    name = find_layer(model, data)
    got = read_signals(model, name, data, task)
    layer = model.get_submodule(name)
    for i in range(0, len(data), 7):
        x, y, _ = data.take(torch.tensor([i]))
        loss = task.losses(model(x), y).sum()
        (expected,) = torch.autograd.grad(loss, [layer.weight])
        product = got["activations"][i, None] * got["error"][i, :, None]
        torch.testing.assert_close(product, expected, rtol=1e-4, atol=1e-7)
        assert float(got["loss"][i]) == pytest.approx(loss.item(), rel=1e-5)
        assert int(got["label"][i]) == int(y)


@pytest.fixture(scope="module")
def memorised() -> Case:
    """Classes that lie on top of each other: what the network knows it knows by heart."""
    problem = api.problem(
        {"name": "blobs", "classes": 16, "train": 320, "distance": 1.0},
        {"name": "mlp", "hidden": [128]},
        {"name": "random", "count": 60},
        training=Training(descent=Descent(lr=0.1, epochs=20, batch_size=20)),
        holdout=Holdout(val=0.4, nonmembers=0.4),
    )
    original = problem.train(0)
    return Case(
        original=WhiteBox(original),
        unlearned=problem.retrained(1),
        retrained=(problem.retrained(2),),
        request=problem.request,
        test=problem.test,
        lab=problem.lab(0),
    )


WHITE = ForgettingRate(
    oracle="white_box", tested=0.4, encoders=Encoders(epochs=30, filters=4, widths=(32, 16))
)


def test_a_white_box_tells_what_is_known_by_heart(memorised):
    finding = WHITE(memorised, seed=0)
    values = finding.unlearned.values
    assert values["oracle_accuracy"] > 0.8
    assert values["oracle_p_chance"] < 1e-6
    check_between_controls(finding)
    again = WHITE(dataclasses.replace(memorised, original=_again(memorised.original)), seed=1)
    assert again.unlearned.values == values


def check_between_controls(finding):
    """Check that retraining forgets most of the set and none of the rest, and the original none."""
    assert finding.original.headline == finding.original.values["cfr"] == 0
    assert finding.unlearned.headline > 0.5
    assert abs(finding.unlearned.headline - finding.retrained[0].headline) < 0.25
    assert abs(finding.unlearned.values["cfr"]) < 0.2
    assert finding.unlearned.warnings == ()


def test_a_black_box_learns_it_from_a_shadow(memorised):
    finding = ForgettingRate(trees=50)(memorised, seed=0)
    assert finding.unlearned.values["oracle_accuracy"] > 0.7
    check_between_controls(finding)
    assert not finding.unlearned.null.excludes(finding.unlearned.headline)


def _again(subject):
    """Return the same model, of which nothing has been learned yet."""
    return WhiteBox(subject.model)


def test_a_white_box_asks_of_no_retained_record_that_it_knows(memorised):
    asked = WHITE._retained(memorised)
    known, outside = WHITE._inside(memorised)
    assert not set(asked.index.tolist()) & set(known.index.tolist())
    assert len(asked) == len(memorised.request.retain) // 2
    assert known.y.bincount().tolist() == outside.y.bincount().tolist()


def test_a_white_box_learns_nothing_from_planted_records(memorised):
    """They are of the forget set's kind: it would learn the kind, and call all else members."""
    request = memorised.request
    strange = TensorData(torch.full((30, *request.retain.shape), 9.0), torch.zeros(30).long())
    planted = dataclasses.replace(
        memorised,
        request=dataclasses.replace(request, nonmembers=strange),
        alike=strange,
    )
    known, outside = WHITE._inside(planted)
    assert {*outside.index.tolist()} <= {*request.val.index.tolist()}
    assert len(known) == len(outside)
    free = dataclasses.replace(planted, alike=None)
    assert any((x == 9).all(1).any() for x, _, _ in WHITE._inside(free)[1].batches(256))


def test_a_white_box_refuses_networks_that_vote(memorised):
    network = memorised.original.model
    voting = WhiteBox(Voting([network, network], vote="majority", classes=True))
    with pytest.raises(Refused, match=r"gradient of one last layer.* take oracle='black_box'"):
        WHITE.check(dataclasses.replace(memorised, unlearned=voting))


def test_a_white_box_refuses_what_has_no_weights_or_no_last_layer(memorised):
    served = Served(lambda x: memorised.original.outputs(x).softmax(-1))
    with pytest.raises(Refused, match="gradients and needs the model's weights"):
        WHITE.check(dataclasses.replace(memorised, unlearned=served))
    odd = WhiteBox(nn.Sequential(nn.Linear(16, 16), nn.Softmax(-1)))
    with pytest.raises(ValueError, match="one of its linear"):
        WHITE.check(dataclasses.replace(memorised, original=odd))


def test_pictures_are_of_the_same_records_before_and_after(told):
    plain, audit = FAST, dataclasses.replace(FAST, embed=6)
    answer = ask(audit, told)
    arrays = answer.arrays
    assert arrays["embedding_group"].tolist() == [0] * 6 + [1] * 6 + [2] * 6
    for name in ("joint_before", "joint_after", "apart_before", "apart_after"):
        assert arrays[f"embedding_{name}"].shape == (18, 2)
    assert answer.values["near_training_before"] == 1
    assert answer.values["near_training_after"] == 0
    rest = {k: v for k, v in answer.values.items() if not k.startswith("near")}
    assert rest == ask(plain, told).values
    assert ask(audit, told).arrays["embedding_joint_after"].equal(arrays["embedding_joint_after"])


def test_in_one_plane_what_has_not_moved_stays_by_its_own():
    draws = generator(0, "plane")
    before = torch.randn(40, 3, generator=draws)
    after = before.clone()
    after[30:] += 20
    places = embedding.moved(before, after)
    step = (places["joint_after"] - places["joint_before"]).norm(dim=1)
    assert step[:30].max() < step[30:].min()
    torch.testing.assert_close(embedding.tsne(before), places["apart_before"])
    assert embedding.tsne(torch.ones(9, 3)).abs().max() == 0


def test_nearness_is_to_centroids_and_ties_count_half():
    first, second = torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [6.0]])
    points = torch.tensor([[0.0], [2.9], [3.0], [9.0]])
    assert embedding.nearer(points, first, second) == 2.5 / 4


def test_the_oracle_for_sequences_sees_secret_positions_alone(made):
    held = made["next_token"]
    request, test = held.request, _distinct(held.test, held.request.retain)
    box = WhiteBox(held.original)
    lab = Lab(request=request, test=test, seed=0, train=untrained)
    case = Case(original=box, unlearned=box, request=request, test=test, lab=lab)
    audit = ForgettingRate(oracle="sequence", trees=5, tested=0.5)
    assert ask(audit, case).headline == 0
    with pytest.raises(Refused, match="for next_token take oracle='sequence'"):
        FAST.check(case)
    pool = lab.pool.data
    (model,) = untrained([lab.order("shadow", 0)])
    rows = lab.said_by_shadow(0, {"top posteriors": 3}, top_posteriors)
    assert rows.shape == (len(pool), 3)
    assert not torch.allclose(rows, WhiteBox(model).score(pool, request.task, top_posteriors, 0))


def test_of_a_sequence_copies_are_one_record_and_of_classes_each_is_one(made, told):
    held = made["next_token"]
    test = _distinct(held.test, held.request.retain)
    once = distinct(held.request.forget)
    often = once.select(torch.arange(len(once)).repeat(3))
    answers = []
    for forget in (once, often):
        request = dataclasses.replace(held.request, forget=forget)
        box = WhiteBox(held.original)
        lab = Lab(request=request, test=test, seed=0, train=untrained)
        case = Case(original=box, unlearned=box, request=request, test=test, lab=lab)
        answers.append(ask(ForgettingRate(oracle="sequence", trees=5, tested=0.5, embed=4), case))
    assert {len(answers[1].arrays[k]) for k in ("member_before", "member_after", "index")} == {
        len(once)
    }
    assert answers[1].values["bt"] + answers[1].values["bf"] == len(once)
    assert answers[1].arrays["index"].tolist() == once.index.tolist()
    rows = torch.arange(5).repeat(2)
    request = dataclasses.replace(told.request, forget=told.request.forget.select(rows))
    answer = ask(FAST, dataclasses.replace(told, request=request))
    assert answer.values["bt"] + answer.values["bf"] == len(answer.arrays["index"]) == 10


def _distinct(test, retain):
    """Return the test records whose like is not among the retained ones."""
    known = {tuple(row.tolist()) for x, _, _ in retain.batches(64) for row in x}
    fresh = [
        i for i, row in enumerate(next(test.batches(999)).x) if tuple(row.tolist()) not in known
    ]
    chosen = test.select(torch.tensor(fresh))
    assert isinstance(chosen, TensorData)
    return chosen
