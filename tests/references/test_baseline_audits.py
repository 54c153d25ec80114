"""Audits without shadow models against other libraries, closed forms and slow loops."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import norm as gauss
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import nn

from expunge import registry
from expunge.audit import Answer, Case
from expunge.audits import label_only
from expunge.audits.activation_distance import ActivationDistance, euclidean
from expunge.audits.label_only import LabelOnly, Spread, augmented, noisy, offsets, robustness
from expunge.audits.loss_attack import attack
from expunge.audits.population import Population
from expunge.audits.update_difference import UpdateDifference, pair_features
from expunge.audits.zero_retrain_forgetting import ZeroRetrainForgetting, as_published, likeness
from expunge.core.attackers import comparable, crossfit, learned_scores
from expunge.core.cost import metered
from expunge.core.descent import train
from expunge.core.rng import derive, generator
from expunge.core.signals import SIGNALS, towards_members
from expunge.data.tensors import TensorData
from expunge.subject import Access, Refused, Served, Table, WhiteBox
from expunge.types import Data

LEARNED = ("logistic_regression", "svc")


def whole(data: Data):
    return data.take(torch.arange(len(data)))


def ask(audit, case: Case, seed: int = 0) -> Answer:
    return audit.ask(case.unlearned, case, seed)


@pytest.fixture
def case(blobs) -> Case:
    box = WhiteBox(blobs.original)
    return Case(original=box, unlearned=box, request=blobs.request, test=blobs.test)


def keys(data: Data) -> set[tuple[float, ...]]:
    return {tuple(row) for row in whole(data).x.flatten(1).tolist()}


def with_answers(case: Case, forget, others) -> Case:
    """Return the case with a model that gives the right class so much, by whether to forget."""
    everything = (case.request.forget, case.request.retain, case.request.val, case.test)
    right = {
        tuple(row): label
        for data in everything
        for row, label in zip(whole(data).x.tolist(), data.y.tolist(), strict=True)
    }
    members, classes = keys(case.request.forget), case.request.task.outputs

    def respond(x):
        rows = []
        for number, row in enumerate(map(tuple, x.tolist())):
            share = forget(number) if row in members else others(number)
            p = torch.full((classes,), (1 - share) / (classes - 1))
            p[right[row]] = share
            rows.append(p)
        return torch.stack(rows)

    return dataclasses.replace(case, unlearned=Served(respond))


def shuffled(case: Case, seed: int = 1) -> tuple[Case, torch.Tensor]:
    """Return the case with its forget set in another order, and that order."""
    order = torch.randperm(len(case.request.forget), generator=generator(seed))
    request = dataclasses.replace(case.request, forget=case.request.forget.select(order))
    other = dataclasses.replace(case, request=request)
    other.__dict__["nonmembers"] = case.nonmembers
    return other, order


def unordered(answer: Answer) -> dict[str, float]:
    """Return the values but balanced accuracy, whose halves are every second record."""
    return {k: v for k, v in answer.values.items() if k != "balanced_accuracy"}


# signals


def test_signals_are_those_of_a_slow_loop_and_know_no_neighbours():
    rng = generator(0)
    logits, y = 3 * torch.randn(12, 4, generator=rng).double(), torch.arange(12) % 4
    found = {name: signal(logits, y) for name, signal in SIGNALS.items()}
    for row, label in enumerate(y.tolist()):
        p = np.exp(logits[row].numpy()) / np.exp(logits[row].numpy()).sum()
        rest = [k for k in range(4) if k != label]
        truth = {
            "loss": -math.log(p[label]),
            "probability": p[label],
            "confidence": math.log(p[label] / (1 - p[label])),
            "entropy": -sum(v * math.log(v) for v in p),
            "modified_entropy": -(1 - p[label]) * math.log(p[label])
            - sum(p[k] * math.log(1 - p[k]) for k in rest),
        }
        for name, value in truth.items():
            assert float(found[name][row]) == pytest.approx(value, rel=1e-9)
            alone = SIGNALS[name](logits[row : row + 1], y[row : row + 1])
            assert float(alone[0]) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("name", SIGNALS)
def test_every_signal_is_turned_towards_sure_and_right_answers(name):
    logits, y = torch.tensor([[6.0, 0, 0], [0.1, 0, 0]]), torch.tensor([0, 0])
    sure, unsure = towards_members(name)(logits, y)
    assert sure > unsure


# attackers


def test_no_record_is_judged_by_an_attacker_that_saw_it():
    n, seen = 60, []

    def judge(known, y, asked):
        assert not set(known[:, 0]) & set(asked[:, 0])
        assert len(known) == len(y)
        seen.extend(asked[:, 0])
        return asked[:, 0]

    features, member = torch.arange(n)[:, None].double(), torch.arange(n) < 20
    judged = crossfit(features, member, judge, 5, 0)
    assert sorted(seen) == list(range(n))
    assert torch.equal(judged.said[:, 0], features[:, 0])
    assert torch.bincount(judged.fold[:20]).tolist() == [4] * 5


def sklearns(kind: str, seed: int, *, standardized: bool):
    return make_pipeline(
        StandardScaler() if standardized else "passthrough",
        {
            "logistic_regression": LogisticRegression(class_weight="balanced", max_iter=1000),
            "svc": SVC(C=3, gamma="auto", class_weight="balanced"),
            "random_forest": RandomForestClassifier(class_weight="balanced", random_state=seed),
        }[kind],
    )


@pytest.mark.parametrize("standardized", [True, False])
@pytest.mark.parametrize("kind", [*LEARNED, "random_forest"])
def test_learned_scores_are_sklearns_put_on_one_scale(kind, standardized):
    rng, member = generator(0), torch.arange(90) < 40
    features = torch.randn(90, 3, generator=rng).double() + member[:, None]
    split = StratifiedKFold(5, shuffle=True, random_state=7)
    x, y = features.numpy(), member.numpy()
    proba = kind != "svc"
    raw = cross_val_predict(
        sklearns(kind, 7, standardized=standardized),
        x,
        y,
        cv=split,
        method="predict_proba" if proba else "decision_function",
    )
    raw = raw[:, 1] if proba else raw
    for _, asked in split.split(x, y):
        raw[asked] = (raw[asked] - raw[asked].mean()) / raw[asked].std()
    found = learned_scores(features, member, kind, 5, 7, standardized=standardized)
    assert np.allclose(found.numpy(), raw, atol=1e-9)


def test_scores_that_are_all_the_same_say_nothing():
    assert comparable(np.full(5, 0.1)).tolist() == [0.0] * 5
    member = torch.arange(40) < 20
    for kind in (*LEARNED, "random_forest"):
        assert learned_scores(torch.zeros(40, 2), member, kind, 5, 0).abs().max() == 0


@pytest.mark.parametrize("kind", LEARNED)
def test_cross_fitted_attackers_attain_their_bounds(kind):
    member = torch.arange(200) < 80
    apart = learned_scores(member[:, None] + 0.0, member, kind, 5, 0)
    assert roc_auc_score(member, apart) == 1.0
    aucs = []
    for seed in range(30):
        noise = torch.randn(200, 1, generator=generator(seed))
        aucs.append(roc_auc_score(member, learned_scores(noise, member, kind, 5, seed)))
    assert np.mean(aucs) == pytest.approx(0.5, abs=3 * np.std(aucs) / math.sqrt(30))


def test_loss_attack_is_still_its_direct_transcription():
    rng, member = generator(3), torch.arange(70) < 30
    signal = torch.randn(70, generator=rng).exp()
    x, y = signal.double().numpy()[:, None], member.numpy()
    found = attack(signal, member, 5, 11)
    split = StratifiedKFold(5, shuffle=True, random_state=11)
    for number, (known, asked) in enumerate(split.split(x, y)):
        center, scale = x[known].mean(), x[known].std()
        model = LogisticRegression(class_weight="balanced").fit(
            (x[known] - center) / scale, y[known]
        )
        sign = np.sign(model.coef_[0, 0])
        assert np.array_equal(found.scores[asked].numpy(), sign * x[asked, 0])
        risk = model.predict_proba((x[asked] - center) / scale)[:, 1]
        assert np.array_equal(found.risk[asked].numpy(), risk)
        assert set(found.fold[asked].tolist()) == {number}


def test_features_no_attacker_can_learn_from_are_refused():
    member = torch.arange(20) < 10
    broken = torch.zeros(20, 2)
    broken[3] = torch.nan
    with pytest.raises(Refused, match="1 of 20 records have features that are not finite"):
        learned_scores(broken, member, "svc", 5, 0)
    with pytest.raises(Refused, match="got 20 and 0"):
        learned_scores(torch.zeros(20, 2), torch.ones(20, dtype=torch.bool), "svc", 5, 0)


# population


def test_a_threshold_on_modified_entropy_is_sklearns_area(case):
    answer = ask(Population(), case)
    scores, member = [], []
    for data, inside in ((case.request.forget, 1), (case.nonmembers, 0)):
        x, y, _ = whole(data)
        for p, label in zip(case.original.outputs(x).double().softmax(1).numpy(), y, strict=True):
            rest = [v for k, v in enumerate(p) if k != label]
            own = (1 - p[label]) * math.log(p[label])
            scores.append(own + sum(v * math.log1p(-v) for v in rest))
            member.append(inside)
    assert answer.headline == pytest.approx(roc_auc_score(member, scores))
    # In single precision p and 1 - p are rounded; the order is what counts.
    assert np.allclose(torch.cat(answer.records), scores, atol=1e-5)


@pytest.mark.parametrize("attacker", ["threshold", *LEARNED])
def test_a_memorised_set_is_found_and_a_like_one_is_not(case, attacker):
    audit = Population(attacker=attacker, signal="confidence")
    found = ask(audit, with_answers(case, lambda i: 0.99, lambda i: 0.6))
    assert found.headline == 1.0
    if attacker == "threshold":  # learned ones are at chance over many sets, not in each
        alike = ask(audit, with_answers(case, *2 * [lambda i: 0.3 + 0.02 * (i % 20)]))
        assert alike.headline == pytest.approx(0.5, abs=0.02)  # rounding breaks ties


def test_forget_records_that_stand_out_the_other_way_are_told_apart_from_members(case):
    strange = with_answers(case, lambda i: 0.1, lambda i: 0.8)
    assert ask(Population(), strange).headline == 0.0
    assert ask(Population(attacker="logistic_regression"), strange).headline == 1.0


def test_the_order_of_the_records_does_not_matter(case):
    other, order = shuffled(case)
    here, there = ask(Population(), case), ask(Population(), other)
    assert unordered(there) == unordered(here)
    assert torch.equal(there.arrays["scores"], here.arrays["scores"][order])
    assert torch.equal(there.arrays["index"], here.arrays["index"][order])


def test_efficacy_is_that_of_the_codes_support_vector_machine():
    audit = registry.audits.build({"name": "population", "preset": "unlearn_sparse"})
    rng = generator(5)
    retain, test = (torch.rand(80, generator=rng) ** power for power in (0.2, 0.8))
    forget = torch.rand(50, generator=rng) ** 0.5
    x = torch.cat([retain, test])[:, None].double().numpy()
    svc = SVC(C=3, gamma="auto", kernel="rbf").fit(x, np.repeat([1, 0], 80))
    truth = svc.predict(forget[:, None].double().numpy())
    assert 5 < truth.sum() < 45
    assert torch.equal(audit.seen(retain, test, forget, 0), torch.from_numpy(truth == 1))


@pytest.mark.parametrize("attacker", ["threshold", *LEARNED])
def test_efficacy_attains_its_bounds(attacker):
    audit = Population(attacker=attacker)
    high, low = 5 + torch.rand(40, generator=generator(0)), torch.rand(40, generator=generator(1))
    assert audit.seen(high, low, high, 0).all()
    assert not audit.seen(high, low, low, 0).any()


def test_efficacy_has_exact_bounds(case):
    answer = ask(Population(), case)
    interval = answer.intervals["mia_efficacy"]
    assert answer.values["mia_efficacy"] == interval.value
    assert interval.low <= interval.value <= interval.high


def test_population_refuses_what_it_cannot_answer(case):
    with pytest.raises(ValueError, match="at least 2 folds"):
        Population(folds=1)
    with pytest.raises(Refused, match="population with 15 folds needs 30 records"):
        Population(attacker="svc", folds=15)(case, seed=0)
    broken = nn.Linear(6, 6)
    nn.init.constant_(broken.weight, torch.nan)
    with pytest.raises(Refused, match="is not finite, probably since"):
        Population().ask(WhiteBox(broken), case, 0)


# label only


def linear(direction: torch.Tensor) -> Served:
    """Return an endpoint that says on which side of a plane a record lies."""
    return Served(lambda x: (x @ direction > 0).long(), Access.LABELS)


def test_answers_under_noise_are_right_as_often_as_the_distance_says():
    record, scale, sigma = torch.tensor([0.3, -0.2]), 0.7, torch.tensor([2.0, 1.0])
    spread = Spread(sigma, torch.full((2,), -99.0), torch.full((2,), 99.0))
    direction = torch.tensor([0.6, 0.8])
    copies = noisy(record, spread, (scale,), 40_000, generator(0))
    side = (copies @ direction > 0).double().mean()
    reach = scale * float((sigma * direction).norm())
    assert float(side) == pytest.approx(gauss.cdf(float(record @ direction) / reach), abs=0.01)


def test_noise_has_the_sizes_asked_for_and_stays_in_the_data():
    x = torch.randn(500, 3, 4, 4, generator=generator(0)) * torch.tensor([1.0, 5, 0])[:, None, None]
    spread = Spread.of(TensorData(x + 1000, torch.zeros(500, dtype=torch.long)))
    y = (x + 1000).double().numpy()
    for name, truth in (("deviation", y.std((0, 2, 3))), ("low", y.min((0, 2, 3)))):
        assert getattr(spread, name).shape == (3, 1, 1)
        assert np.allclose(getattr(spread, name).flatten(), truth, rtol=1e-5)
    wide = Spread(spread.deviation, spread.low - 1e6, spread.high + 1e6)
    first, second = noisy(x[0], wide, (0.5, 2.0), 3000, generator(1)).split(3000)
    # Three channels, the last without any spread.
    sizes = [0.5 * float(spread.deviation[k]) for k in range(3)]
    assert (first - x[0]).std((0, 2, 3)).tolist() == pytest.approx(sizes, rel=0.02)
    assert torch.allclose(second - x[0], 4 * (first - x[0]), atol=1e-4)
    made = noisy(x[0] + 1000, spread, (9.0,), 50, generator(1))
    assert (made >= spread.low).all()
    assert (made <= spread.high).all()


def test_the_spread_of_a_table_is_by_column():
    x = torch.randn(40, 3, generator=generator(0)) * torch.tensor([1.0, 3, 0])
    spread = Spread.of(TensorData(x, torch.zeros(40, dtype=torch.long)))
    assert np.allclose(spread.deviation, x.double().numpy().std(0))
    assert torch.equal(spread.high, x.amax(0))


@pytest.mark.parametrize("pixels", [1, 2, 3])
def test_there_are_four_shifts_a_pixel(pixels):
    every = offsets((pixels,))
    assert len(set(every)) == len(every) == 4 * pixels
    assert all(abs(down) + abs(right) == pixels for down, right in every)


def test_images_are_shifted_as_a_slow_loop_shifts_them():
    image = torch.rand(2, 5, 4, generator=generator(0))
    every = [(0, 0), *offsets((1, 2))]
    truth = []
    for down, right in every:
        moved = torch.zeros_like(image)
        for row in range(5):
            for column in range(4):
                if 0 <= row - down < 5 and 0 <= column - right < 4:
                    moved[:, row, column] = image[:, row - down, column - right]
        truth.append(moved)
    straight = torch.stack(truth)
    assert torch.equal(augmented(image, (1, 2), flip=False), straight[1:])
    both = torch.cat([straight, straight.flip(-1)])[1:]
    assert torch.equal(augmented(image, (1, 2), flip=True), both)


def test_robustness_by_hand():
    right = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 1], [0, 1, 1, 1], [1, 0, 0, 0]]).bool()
    assert robustness(right).tolist() == [1.0, 0.5, 0.0, 0.25]


def test_records_far_from_the_boundary_are_found(case):
    # Forget records lie far from the plane, the others near; both are answered right.
    rng, direction = generator(0), torch.tensor([1.0, 0, 0, 0, 0, 0])

    def at(distance, n):
        x, y = torch.randn(n, 6, generator=rng), torch.arange(n) % 2
        x[:, 0] = (2 * y - 1) * distance
        return TensorData(x, y)

    request = dataclasses.replace(case.request, forget=at(4.0, 30))
    near = dataclasses.replace(case, request=request, test=at(0.3, 40), unlearned=linear(direction))
    answer = ask(LabelOnly(queries=40, scales=(1.0,)), near)
    assert answer.values["auc_unperturbed"] == 0.5
    assert answer.headline == 1.0
    alike = dataclasses.replace(near, test=at(4.0, 40))
    answer = ask(LabelOnly(queries=40, scales=(1.0,)), alike)
    assert not answer.null.excludes(answer.headline)


def test_all_models_are_put_the_same_queries_and_they_are_counted(case):
    heard: list[list[torch.Tensor]] = [[], []]

    def listening(number):
        def respond(x):
            heard[number].append(x)
            return torch.zeros(len(x), dtype=torch.long)

        return Served(respond, Access.LABELS)

    audit = LabelOnly(queries=3, scales=(0.1, 1.0), records=15)
    audit(dataclasses.replace(case, original=listening(0), unlearned=listening(1)), seed=2)
    first, second = map(torch.cat, heard)
    assert torch.equal(first, second)
    assert len(first) == 30 * 7
    assert ask(audit, case).values["queries"] == len(first)
    with metered() as bill:
        ask(audit, case)
    assert (bill.cost.forward, bill.cost.backward) == (len(first), 0)
    assert audit.work(case.request, case.test).forward == len(first)


@pytest.mark.parametrize("perturbation", ["noise", "augmentation"])
def test_images_are_asked_about_alike_in_any_order_and_batches(made, perturbation, monkeypatch):
    images = made["images"]
    box = WhiteBox(copy.deepcopy(images.original))
    case = Case(original=box, unlearned=box, request=images.request, test=images.test)
    audit = LabelOnly(perturbation=perturbation, queries=4, shifts=(1,))
    here = ask(audit, case)
    monkeypatch.setattr(label_only, "AT_ONCE", 5)
    other, order = shuffled(case)
    there = ask(audit, other)
    assert torch.equal(there.arrays["scores"], here.arrays["scores"][order])
    assert unordered(there) == unordered(here)
    assert here.arrays["scores"].std() > 0
    assert audit.work(case.request, case.test).forward == here.values["queries"]


def test_label_only_refuses_what_it_cannot_answer(case, made):
    rows = torch.eye(6)[case.request.forget.y]
    table = dataclasses.replace(case, unlearned=Table.of(case.request.forget, rows))
    with pytest.raises(Refused, match="records that it makes up, of which a Table"):
        LabelOnly()(table, seed=0)
    chatty = Served(lambda x: case.original.outputs(x), Access.LABELS)
    with pytest.raises(Refused, match="expected one class per record"):
        LabelOnly()(dataclasses.replace(case, unlearned=chatty), seed=0)
    with pytest.raises(Refused, match="take perturbation='noise'"):
        LabelOnly(perturbation="augmentation")(case, seed=0)
    images = made["images"]
    box = WhiteBox(images.original)
    shown = Case(original=box, unlearned=box, request=images.request, test=images.test)
    with pytest.raises(Refused, match="smaller `shifts`"):
        LabelOnly(perturbation="augmentation", shifts=(8,))(shown, seed=0)
    forget = case.request.forget
    tokens = TensorData(whole(forget).x.long(), forget.y)
    worded = dataclasses.replace(case, request=dataclasses.replace(case.request, forget=tokens))
    with pytest.raises(Refused, match="no small steps"):
        LabelOnly()(worded, seed=0)
    broken = nn.Linear(6, 6)
    nn.init.constant_(broken.bias, torch.inf)
    with pytest.raises(Refused, match="expected finite outputs"):
        LabelOnly().ask(WhiteBox(broken), case, 0)
    masked = nn.Linear(6, 6)  # one class ruled out leaves another
    nn.init.constant_(masked.bias[:1], -torch.inf)
    assert 0 <= LabelOnly(queries=2).ask(WhiteBox(masked), case, 0).headline <= 1
    x, y, _ = whole(case.test)
    x[0, 0] = torch.inf
    with pytest.raises(Refused, match="values that are not finite"):
        Spread.of(TensorData(x, y))


@pytest.mark.parametrize(
    "wrong",
    [
        {"queries": 0},
        {"scales": ()},
        {"scales": (float("nan"),)},
        {"shifts": (0,)},
        {"shifts": (), "flip": False},
        {"records": 1},
    ],
)
def test_settings_of_label_only_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        LabelOnly(**wrong)


# update difference


def test_features_of_a_pair_by_hand():
    before, after = torch.tensor([[0.5, 0.2, 0.3]]), torch.tensor([[0.1, 0.6, 0.3]])
    truth = {
        "direct_concatenation": [0.5, 0.2, 0.3, 0.1, 0.6, 0.3],
        "sorted_concatenation": [0.2, 0.3, 0.5, 0.6, 0.3, 0.1],
        "direct_difference": [0.4, -0.4, 0.0],
        "sorted_difference": [-0.4, 0.0, 0.4],
        "euclidean_distance": [math.sqrt(0.32)],
    }
    for kind, values in truth.items():
        assert pair_features(before, after, kind)[0].tolist() == pytest.approx(values)


@pytest.mark.parametrize(
    "kind", ["sorted_concatenation", "sorted_difference", "euclidean_distance"]
)
def test_names_of_classes_do_not_matter_where_features_are_sorted(kind):
    rng = generator(0)
    before, after = (torch.randn(20, 5, generator=rng).softmax(1) for _ in range(2))
    order = torch.randperm(5, generator=rng)
    renamed = pair_features(before[:, order], after[:, order], kind)
    assert torch.allclose(renamed, pair_features(before, after, kind))


@pytest.mark.parametrize("attacker", ["logistic_regression", "random_forest"])
def test_update_scores_are_those_of_sklearn_on_the_pairs(case, attacker):
    net = nn.Linear(6, 6)
    nn.init.normal_(net.weight, generator=generator(1))
    case = dataclasses.replace(case, unlearned=WhiteBox(net))
    answer = ask(UpdateDifference(attacker=attacker), case, seed=4)
    x = torch.cat([whole(case.request.forget).x, whole(case.nonmembers).x])
    before, after = (
        m.outputs(x).detach().double().softmax(1).numpy() for m in (case.original, case.unlearned)
    )
    order = before.argsort(1)
    pairs = np.take_along_axis(before - after, order, 1)
    y = np.arange(len(x)) < len(case.request.forget)
    seed = derive(4, "folds") % 2**32
    split = StratifiedKFold(5, shuffle=True, random_state=seed)
    raw = cross_val_predict(
        sklearns(attacker, seed, standardized=True), pairs, y, cv=split, method="predict_proba"
    )[:, 1]
    for _, asked in split.split(pairs, y):
        raw[asked] = (raw[asked] - raw[asked].mean()) / raw[asked].std()
    assert answer.headline == pytest.approx(roc_auc_score(y, raw), abs=1e-9)


@pytest.mark.parametrize(
    ("features", "attacker"),
    [
        ("direct_difference", "logistic_regression"),
        ("sorted_difference", "logistic_regression"),
        ("euclidean_distance", "random_forest"),
    ],
)
def test_what_did_not_change_says_nothing(case, features, attacker):
    audit = UpdateDifference(features=features, attacker=attacker)
    assert ask(audit, case).headline == 0.5
    rounded = Served(lambda x: case.original.outputs(x).softmax(-1) * (1 + 1e-7))
    assert audit.ask(rounded, case, 0).headline == 0.5


@pytest.mark.parametrize("features", ["sorted_difference", "euclidean_distance"])
def test_answers_that_changed_for_forgotten_records_alone_are_found(case, features):
    """Retraining itself is found so, where the original had memorised the records."""
    members = keys(case.request.forget)

    def respond(x):
        p = case.original.outputs(x).softmax(-1)
        known = torch.tensor([tuple(row) in members for row in x.tolist()])
        return torch.where(known[:, None], torch.full_like(p, 1 / 6), p)

    exact = dataclasses.replace(case, unlearned=Served(respond))
    answer = ask(UpdateDifference(features=features), exact)
    assert answer.headline > 0.95
    assert answer.values["auc_before"] == ask(UpdateDifference(), case).values["auc_before"]


def test_update_difference_tells_and_does_not_decide(case):
    assert not UpdateDifference.card.decides
    with pytest.raises(ValueError, match="at least 2 folds"):
        UpdateDifference(folds=1)
    with pytest.raises(Refused, match="update_difference with 15 folds needs 30 records"):
        UpdateDifference(folds=15)(case, seed=0)
    broken = nn.Linear(6, 6)
    nn.init.constant_(broken.weight, torch.nan)
    with pytest.raises(Refused, match="features that are not finite"):
        UpdateDifference().ask(WhiteBox(broken), case, 0)


# zero retrain forgetting


def test_likeness_is_one_minus_scipys_divergence_in_bits():
    rng = generator(0)
    a, b = (2 * torch.randn(15, 7, generator=rng).double() for _ in range(2))
    p, q = (part.softmax(1).numpy() for part in (a, b))
    truth = [1 - jensenshannon(x, y, base=2) ** 2 for x, y in zip(p, q, strict=True)]
    assert likeness(a, b).tolist() == pytest.approx(truth)
    assert torch.allclose(likeness(a, b), likeness(b, a))


def test_likeness_attains_its_bounds_and_the_codes_number_does_not():
    sure = 60 * torch.eye(2).double()
    assert likeness(sure, sure).tolist() == pytest.approx([1.0, 1.0])
    assert likeness(sure, sure.flip(0)).tolist() == pytest.approx([0.0, 0.0], abs=1e-9)
    assert as_published(sure, sure.flip(0)).max() < -10


def test_as_published_is_the_slow_loop_of_the_swapped_divergence():
    a, b = torch.tensor([[1.0, 2.0, -1.0]]), torch.tensor([[0.0, -2.0, 0.5]])
    p, q = (part.double().softmax(1)[0].tolist() for part in (a, b))
    total = 0.0
    for x, y in zip(p, q, strict=True):
        m = (x + y) / 2
        total += 0.5 * m * (math.log(m / x) + math.log(m / y))
    assert float(as_published(a, b)[0]) == pytest.approx(1 - total / 3)


def test_an_untrained_network_is_its_own_likeness_and_work_is_metered(case):
    audit = ZeroRetrainForgetting(teachers=1)
    blank = audit._teacher(case, derive(3, "teacher", 0))
    values = audit.ask(blank, case, 3).values
    assert values["forget"] == pytest.approx(1.0)
    assert values["never_trained"] == pytest.approx(1.0)
    ask(audit, case)  # what the original says is kept from here on
    with metered() as bill:
        ask(ZeroRetrainForgetting(teachers=2), case)
    assert (
        bill.cost.forward == ZeroRetrainForgetting(teachers=2).work(case.request, case.test).forward
    )


def test_teachers_are_averaged(case):
    both = ZeroRetrainForgetting(teachers=2)
    found = ask(both, case).values["forget"]
    x = whole(case.request.forget).x
    mine = case.original.outputs(x)
    each = [
        likeness(mine, both._teacher(case, derive(0, "teacher", i)).outputs(x)).mean()
        for i in range(2)
    ]
    assert each[0] != each[1]
    assert found == pytest.approx(float(sum(each)) / 2, rel=1e-5)
    with pytest.raises(ValueError, match="at least 1 teacher"):
        ZeroRetrainForgetting(teachers=0)


# activation distance


def test_activation_distance_is_numpys_mean_over_retrained_models(case):
    nets = [nn.Linear(6, 6) for _ in range(3)]
    for number, net in enumerate(nets):
        nn.init.normal_(net.weight, generator=generator(number))
    boxes = tuple(map(WhiteBox, nets))
    full = dataclasses.replace(case, unlearned=boxes[2], retrained=boxes[:2])
    for name, data in (("forget", case.request.forget), ("never_trained", case.nonmembers)):
        p = [net(whole(data).x).softmax(1).detach().double().numpy() for net in nets]
        truth = np.mean([np.sqrt(((p[2] - other) ** 2).sum(1)) for other in p[:2]])
        found = ActivationDistance()(full, seed=0)
        assert found.unlearned.values[f"l2_{name}"] == pytest.approx(truth, rel=1e-5)
    assert next(iter(found.unlearned.values)) == "l2_forget"


def test_activation_distance_attains_its_bounds_and_averages_positions():
    sure = 60 * torch.eye(2)
    assert euclidean(sure, sure).tolist() == [0.0, 0.0]
    assert euclidean(sure, sure.flip(0)).tolist() == pytest.approx([math.sqrt(2)] * 2)
    positions = torch.stack([sure, sure.flip(0)])
    mixed = torch.stack([sure, sure])
    assert euclidean(positions, mixed).tolist() == pytest.approx([0.0, math.sqrt(2)])
    half = torch.stack([sure[0], sure[1]])[None], torch.stack([sure[0], sure[0]])[None]
    assert euclidean(*half).tolist() == pytest.approx([math.sqrt(2) / 2])


@pytest.mark.slow
def test_retrained_models_over_many_seeds_are_at_chance(case):
    recipe, retain = case.request.recipe, case.request.retain
    audits = Population(), LabelOnly(queries=8)
    models = [WhiteBox(train(recipe, retain, 1000 + seed)) for seed in range(20)]
    for audit in audits:
        areas = [audit.ask(model, case, 0).headline for model in models]
        assert np.mean(areas) == pytest.approx(0.5, abs=0.1)  # 20 records on a side
