"""Relearning, and what lies inside: against slow loops, closed forms and a planted residual."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

from expunge import registry
from expunge.audit import Case
from expunge.audits.pseudo_convergence import PseudoConvergence, speaks
from expunge.audits.relearn_time import RelearnTime
from expunge.bench.problem import Training, pose
from expunge.core import geometry, rng
from expunge.lab import Lab
from expunge.models.linear import Linear
from expunge.models.mlp import MLP
from expunge.relapse import Goal, relapse
from expunge.subject import Refused, WhiteBox
from expunge.types import Descent
from tests.conftest import images

PLAIN = Descent(lr=0.05, epochs=3, batch_size=16, momentum=0.9)


def test_relapse_is_training_on_with_one_optimiser_epoch_after_epoch(blobs) -> None:
    request = blobs.request
    whole = request.retain.join(request.forget)
    network = blobs.problem.recipe.fresh().eval()
    found = relapse(network, request.forget, whole, request.recipe, PLAIN, Goal(), records=40)

    learner = copy.deepcopy(network)
    optimizer = torch.optim.SGD(learner.parameters(), 0.05, 0.9)
    draws = rng.generator(0, "relapse")
    epochs = [whole.select(torch.randperm(len(whole), generator=draws)[:40]) for _ in range(3)]
    everything = request.forget.take(torch.arange(len(request.forget)))
    losses = []
    for number in range(4):
        learner.eval()
        loss = nn.functional.cross_entropy(learner(everything.x), everything.y)
        losses.append(loss.item())
        if number < 3:
            learner.train()
            for batch in epochs[number].batches(16, draws):
                optimizer.zero_grad()
                nn.functional.cross_entropy(learner(batch.x), batch.y).backward()
                optimizer.step()
    assert found.loss.tolist() == pytest.approx(losses, rel=1e-4)
    assert not found.reached
    assert found.epochs == 3


def test_relapse_stops_at_its_goal_and_survives_a_rate_that_diverges(blobs) -> None:
    request, original = blobs.request, blobs.original
    args = request.forget, request.retain, request.recipe
    at_once = relapse(original, *args, PLAIN, Goal(accuracy=0.0))
    assert (at_once.epochs, at_once.reached) == (0, True)
    wild = dataclasses.replace(PLAIN, lr=1e30)
    never = relapse(original, *args, wild, Goal(loss=1e-9))
    assert not never.reached
    assert never.loss[-1] == float("inf")
    assert never.diverged
    assert len(never.loss) == 2  # in the first of three
    assert never.epochs == 3


@pytest.mark.parametrize("name", ["relearn_time", "pseudo_convergence"])
def test_relearning_that_diverges_counts_as_never_and_is_warned_of(blobs, name) -> None:
    wild = dataclasses.replace(PLAIN, lr=1e30)
    box = WhiteBox(blobs.problem.recipe.fresh().eval())
    case = Case(
        original=WhiteBox(blobs.original), unlearned=box, request=blobs.request, test=blobs.test
    )
    if name == "relearn_time":
        found = RelearnTime(loss=1e-9, records=40, descent=wild)(case, seed=0).unlearned
        assert found.values["reached"] == 0
        times = found.headline
    else:
        found = PseudoConvergence(records=40, relearn=wild, pieces=2)(case, seed=0).unlearned
        times = found.values["relearn"]
    assert times == 3
    assert any("relearning diverged in epoch 1" in said for said in found.warnings)


def test_the_anamnesis_index_is_one_time_over_the_mean_of_others(blobs) -> None:
    lab = Lab(request=blobs.request, test=blobs.test, seed=5)
    case = Case(
        original=WhiteBox(blobs.original),
        unlearned=WhiteBox(copy.deepcopy(blobs.original)),
        retrained=lab.retrained(3),
        request=blobs.request,
        test=blobs.test,
    )
    audit = RelearnTime(loss=0.05, records=40, descent=PLAIN)
    found = audit(case, seed=0)
    times = [answer.headline for answer in found.retrained]
    assert found.unlearned.values["anamnesis"] == pytest.approx(
        (1 + found.unlearned.headline) / (1 + sum(times) / 3)
    )
    for i, answer in enumerate(found.retrained):
        others = [t for j, t in enumerate(times) if j != i]
        assert answer.values["anamnesis"] == pytest.approx((1 + times[i]) / (1 + sum(others) / 2))
    known = dataclasses.replace(audit, loss=None)(case, seed=0)
    assert known.original.headline == 0  # it knows them as well as it did


def test_without_right_answers_relearning_needs_a_loss(made) -> None:
    denoising = made["denoising"]
    case = Case(
        original=WhiteBox(denoising.original),
        unlearned=WhiteBox(denoising.original),
        request=denoising.request,
        test=denoising.test,
    )
    with pytest.raises(Refused, match="give `loss`"):
        RelearnTime()(case, seed=0)


def test_silhouettes_equal_a_slow_loop() -> None:
    draws = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 4, generator=draws), torch.arange(30) % 3
    found = geometry.silhouettes(x, y)
    for i in range(30):
        apart = (x - x[i]).double().norm(dim=1)
        means = [apart[(y == k) & (torch.arange(30) != i)].mean() for k in range(3)]
        own = means.pop(int(y[i]))
        nearest = min(means)
        assert float(found[i]) == pytest.approx(
            float((nearest - own) / max(own, nearest)), abs=1e-5
        )
    with pytest.raises(Refused, match="two classes"):
        geometry.silhouettes(x, torch.zeros(30).long())


def test_a_probe_tells_what_is_there_and_nothing_of_noise() -> None:
    draws = torch.Generator().manual_seed(0)
    y = torch.arange(200) % 4
    noise = torch.randn(200, 8, generator=draws)
    told = nn.functional.one_hot(y, 8) * 6.0 + noise
    known, asked = (told[:120], y[:120]), (told[120:], y[120:])
    assert geometry.probe(known, asked).mean() > 0.95
    blind = geometry.probe((noise[:120], y[:120]), (noise[120:], y[120:]))
    assert blind.mean() < 0.45


def test_the_barrier_is_the_rise_above_the_straight_line() -> None:
    def network(weight: float) -> nn.Linear:
        layer = nn.Linear(1, 1, bias=False)
        layer.weight.data.fill_(weight)
        return layer

    data = images(2, 4).train
    one, other = network(-1.0), network(1.0)

    def bump(m: nn.Module) -> float:
        return float(1 - m.weight.square())  # pyright: ignore

    height, line = geometry.barrier(one, other, bump, data, 4)
    assert line.tolist() == pytest.approx([0, 0.75, 1, 0.75, 0])
    assert height == pytest.approx(1)
    assert geometry.barrier(one, one, bump, data, 4)[0] == 0
    tilted = geometry.barrier(one, other, lambda m: float(m.weight), data, 4)  # pyright: ignore
    assert tilted[0] == pytest.approx(0, abs=1e-6)
    assert geometry.distance(one, other) == pytest.approx(2)


def test_densities_overlap_wholly_with_themselves_and_not_with_what_is_far() -> None:
    draws = torch.Generator().manual_seed(0)
    group = torch.randn(100, 2, generator=draws).double()
    assert geometry.overlap(group, [group]) == pytest.approx(1)
    assert geometry.overlap(group, [group + 50]) < 1e-3
    assert 0.3 < geometry.overlap(group, [group + 50, group + torch.tensor([1.0, 0.0])]) < 0.9


def test_a_sign_speaks_only_beyond_retraining_and_towards_the_original() -> None:
    others = [{"probe": 0.50}, {"probe": 0.52}, {"probe": 0.51}]
    original = {"probe": 0.95}
    assert speaks({"probe": 0.9}, others, original, "probe")
    assert not speaks({"probe": 0.52}, others, original, "probe")
    assert not speaks({"probe": 0.1}, others, original, "probe")


def test_retrained_models_that_happen_to_agree_do_not_make_every_difference_a_sign() -> None:
    others = [{"probe": 0.668, "probe_error": 0.02, "relearn": 30.0}] * 2
    original = {"probe": 0.95, "relearn": 0.0}
    assert not speaks({"probe": 0.688, "probe_error": 0.02}, others, original, "probe")
    assert speaks({"probe": 0.73, "probe_error": 0.02}, others, original, "probe")
    assert not speaks({"relearn": 29.0}, others, original, "relearn")
    assert speaks({"relearn": 20.0}, others, original, "relearn")


def test_points_on_a_line_have_no_density_to_overlap() -> None:
    draws = torch.Generator().manual_seed(0)
    cloud = torch.randn(40, 2, generator=draws).double()
    still = torch.zeros(5, 2).double()
    for flat in (cloud[:1], cloud[:2], still):
        assert math.isnan(geometry.overlap(flat, [cloud]))
        assert math.isnan(geometry.overlap(cloud, [flat]))
        assert geometry.overlap(cloud, [flat, cloud]) == pytest.approx(1)


def test_a_probe_that_knows_one_class_alone_is_refused() -> None:
    x, y = torch.randn(6, 3), torch.zeros(6).long()
    with pytest.raises(Refused, match="to teach a probe, got 6 of one"):
        geometry.probe((x, y), (x[:1], y[:1] + 1))


@pytest.mark.parametrize(
    ("audit", "wrong", "match"),
    [
        (RelearnTime, {"asked": 0}, r"at least 1 forgotten record, got asked = 0"),
        (RelearnTime, {"records": 1}, r"at least 2 records in an epoch.* got 1 and 100"),
        (PseudoConvergence, {"records": 1}, r"at least 2 records in an epoch.* got 1"),
        (PseudoConvergence, {"alpha": 2.0}, r"alpha in \[0, 1\), got 2.0: .* any accuracy"),
        (PseudoConvergence, {"alpha": 1.0}, r"alpha in \[0, 1\), got 1.0"),
        (PseudoConvergence, {"alpha": -0.1}, r"alpha in \[0, 1\), got -0.1"),
        (PseudoConvergence, {"plane": 3}, r"at least 4, got 3"),
        (PseudoConvergence, {"kept": 0}, r"at least 1 of forgotten, kept"),
    ],
)
def test_settings_without_sense_are_refused(audit, wrong, match) -> None:
    with pytest.raises(ValueError, match=match):
        audit(**wrong)


def test_one_forgotten_record_is_looked_into_too(blobs) -> None:
    request = blobs.request
    one = dataclasses.replace(request, forget=request.forget.select(torch.arange(1)))
    box = WhiteBox(blobs.original)
    case = Case(original=box, unlearned=box, request=one, test=blobs.test)
    audit = PseudoConvergence(records=32, relearn=PLAIN, pieces=2, plane=20)
    values = audit(case, seed=0).unlearned.values
    assert values["probe"] in (0, 1)
    assert -1 <= values["silhouette"] <= 1
    assert math.isnan(values["plane_variance"])  # of one point
    assert math.isnan(values["plane_overlap"])


def test_layers_are_looked_for_in_every_model_before_any_work(blobs) -> None:
    box = WhiteBox(blobs.original)
    case = Case(original=box, unlearned=box, request=blobs.request, test=blobs.test)
    with pytest.raises(Refused, match="unknown layer 'nope' of a Sequential"):
        PseudoConvergence(layer="nope").check(case)
    flat = dataclasses.replace(blobs.problem.recipe, model=Linear()).drawn()
    shallow = dataclasses.replace(case, retrained=(WhiteBox(flat),))
    with pytest.raises(Refused, match="before its last layer, but it has none"):
        PseudoConvergence().check(shallow)


@pytest.fixture(scope="module")
def forgotten() -> Case:
    """A class forgotten by clearing its row of the head alone: all that is inside is left."""
    problem = pose(
        images(4, 160),
        registry.forget.build({"name": "class", "classes": [1]}),
        registry.models.build({"name": "mlp", "hidden": [32, 16]}),
        Training(descent=Descent(lr=0.05, epochs=15, batch_size=32)),
    )
    original = problem.train(0)
    cleared = copy.deepcopy(original)
    head = cleared[-1]
    assert isinstance(head, nn.Linear)
    head.weight.data[1] = 0
    head.bias.data[1] = -20
    return Case(
        original=WhiteBox(original),
        unlearned=WhiteBox(cleared),
        retrained=tuple(problem.retrained(seed) for seed in range(1, 6)),
        request=problem.request,
        test=problem.test,
    )


def test_a_cleared_head_over_untouched_layers_is_flagged(forgotten: Case) -> None:
    audit = PseudoConvergence(records=32, relearn=PLAIN, pieces=2, tolerance=0.05, nats=0.7)
    found = audit(forgotten, seed=0)
    mine = found.unlearned
    assert mine.values["accuracy_forget"] == 0
    assert mine.values["matched"] == 1
    assert mine.headline >= 1
    assert "still inside" in mine.warnings[0]
    assert mine.values["weight_distance"] > 0
    assert found.original.headline == 0  # its outputs do not match retraining's
    assert found.original.values["matched"] == 0
    assert sum(answer.headline > 0 for answer in found.retrained) <= 1
    assert found.unlearned.values["relearn"] <= min(a.values["relearn"] for a in found.retrained)


def test_a_network_of_another_shape_has_no_line_to_the_original(forgotten: Case) -> None:
    wider = dataclasses.replace(forgotten.request.recipe, model=MLP(hidden=(8, 8)))
    case = dataclasses.replace(forgotten, unlearned=WhiteBox(wider.fresh().eval()))
    found = PseudoConvergence(records=32, relearn=PLAIN, pieces=2)(case, seed=0)
    assert "barrier" not in found.unlearned.values
    assert "weight_distance" not in found.unlearned.values
    assert found.original.values["barrier"] == 0
    assert found.original.values["weight_distance"] == 0
