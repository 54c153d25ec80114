"""Boundary shrink and expand: attacks by hand, head surgery, one step each."""

import copy
import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from expunge.api import problem as pose
from expunge.bench.problem import Training
from expunge.core.head import check_classes, cut, find_head, widen
from expunge.core.rng import generator
from expunge.data.tensors import TensorData
from expunge.method import Sizes
from expunge.methods.boundary_expand import BoundaryExpand
from expunge.methods.boundary_shrink import BoundaryShrink, nearest_wrong
from expunge.tasks.categorical import Classification
from expunge.types import Descent, Refused

LR, CLASSES = 0.3, 4
ONE = Descent(lr=LR, epochs=1, batch_size=10_000)
STILL = Descent(lr=0.0, epochs=1)


@pytest.fixture(scope="module")
def trained():
    problem = pose(
        {"name": "blobs", "classes": CLASSES, "train": 60},
        "linear",
        range(12),
        training=Training(descent=Descent(lr=0.1, epochs=5, batch_size=16)),
    )
    return problem, problem.train(0)


@pytest.fixture
def linear(trained):
    problem, original = trained
    return problem.request, copy.deepcopy(original)


def whole(data):
    return data.take(torch.arange(len(data)))


def forbid(y, *further):
    forbidden = F.one_hot(y, CLASSES).bool()
    forbidden[:, list(further)] = True
    return forbidden


def search(model, x, y, forbidden=None, *, eps=0.1, steps=1, clamp=False):
    forbidden = forbid(y) if forbidden is None else forbidden
    return nearest_wrong(model, x, y, forbidden, eps=eps, steps=steps, clamp=clamp)


def weights_of(model):
    head = next(m for m in model.modules() if isinstance(m, nn.Linear))
    return head.weight.detach(), head.bias.detach()


def moved_by_hand(model, x, y, eps):
    """Softmax regression: the loss's slope in x is (p - onehot) W, written out."""
    weight, bias = weights_of(model)
    p = (x @ weight.T + bias).softmax(1)
    return x + eps * ((p - F.one_hot(y, CLASSES).float()) @ weight).sign()


@pytest.mark.parametrize("eps", [0.1, 1.5, 6.0])
def test_one_step_is_the_fast_gradient_sign_method_by_hand(linear, eps):
    request, model = linear
    x, y, _ = whole(request.forget)
    weight, bias = weights_of(model)
    logits = moved_by_hand(model, x, y, eps) @ weight.T + bias
    near = search(model, x, y, eps=eps)
    assert torch.equal(near.flipped, logits.argmax(1) != y)
    right = logits.scatter(1, y[:, None], -torch.inf).argmax(1)
    assert torch.equal(near.classes, right)
    assert near.moved.all()


def test_no_label_is_the_true_class_even_where_the_attack_fails(linear):
    request, model = linear
    x, y, _ = whole(request.retain)
    near = search(model, x, y, eps=1e-4)
    assert not near.flipped.all()
    assert (near.classes != y).all()
    runner_up = model(x).scatter(1, y[:, None], -torch.inf).argmax(1)
    assert torch.equal(near.classes[~near.flipped], runner_up[~near.flipped])


def test_a_search_stops_at_the_first_wrong_class_and_stays_in_its_box(linear):
    request, model = linear
    x, y, _ = whole(request.forget)
    seen = []

    def watched(at):
        seen.append(at.detach().clone())
        return model(at)

    near = search(watched, x, y, eps=4.0, steps=8)
    assert len(seen) == 9
    assert all(((at - x).abs() <= 4.0 + 1e-5).all() for at in seen)
    assert all(((b - a).abs() <= 0.5 + 1e-5).all() for a, b in itertools.pairwise(seen))
    guesses = torch.stack([model(at).argmax(1) for at in seen[1:]])
    for row, (right, path) in enumerate(zip(y, guesses.T, strict=True)):
        left = [g for g in path if g != right]
        assert bool(near.flipped[row]) == bool(left)
        if left:
            assert near.classes[row] == left[0]
    assert near.flipped.any()


@pytest.mark.parametrize(("steps", "nearest"), [(1, 2), (2, 1)])
def test_a_walk_past_one_class_into_another_gives_the_first(steps, nearest):
    def model(x):  # class 1 wins from 1/4 to 3/4, then class 2
        return torch.cat([0 * x, 4 * x - 1, 8 * x - 4, 0 * x - 9], 1)

    near = search(model, torch.zeros(1, 1), torch.tensor([0]), eps=1.0, steps=steps)
    assert near.classes.tolist() == [nearest]


def test_images_stay_within_pixels_and_other_records_do_not():
    draws = torch.Generator().manual_seed(0)
    x, y = torch.rand(6, 1, 2, 2, generator=draws), torch.arange(6) % CLASSES
    model, seen = nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES)), []

    def watched(at):
        seen.append(at.detach())
        return model(at)

    search(watched, x, y, eps=0.7, clamp=True)
    assert seen[-1].min() == 0
    assert seen[-1].max() == 1
    assert ((seen[-1] - x).abs() <= 0.7 + 1e-6).all()
    search(watched, x, y, eps=0.7)
    assert seen[-1].min() < 0


def test_pixels_that_are_not_pixels_are_refused_unless_told():
    request, original = pictures(lambda x: 3 * x)
    with pytest.raises(Refused, match=r"expected pixels in \[0, 1\]"):
        BoundaryShrink()(original, request, seed=0)
    BoundaryShrink(clamp=False)(original, request, seed=0)


def pictures(change, network=None, classes=CLASSES):
    """Return a request of small random images, and an untrained network for them."""
    problem = pose("blobs", "linear", range(10))
    draws = torch.Generator().manual_seed(1)

    def images(n):
        return TensorData(change(torch.rand(n, 1, 4, 4, generator=draws)), torch.arange(n) % 4)

    network = network or nn.Sequential(nn.Flatten(), nn.Linear(16, classes))
    recipe = dataclasses.replace(problem.recipe, task=Classification(classes=classes))
    recipe = dataclasses.replace(recipe, inputs=(1, 4, 4))
    recipe = dataclasses.replace(recipe, model=_given(network))
    parts = {name: images(12) for name in ("retain", "forget", "val", "nonmembers")}
    return dataclasses.replace(problem.request, recipe=recipe, **parts), network.eval()


def _given(network):
    from expunge.models.given import Given

    return Given(module=network, fresh=lambda: copy.deepcopy(network))


class Rounded(nn.Module):
    """Rounds its input, so that no slope comes through; or cuts it off altogether."""

    def __init__(self, change):
        super().__init__()
        self.change, self.layer = change, nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.layer(self.change(x).flatten(1))


@pytest.mark.parametrize("change", [torch.round, torch.Tensor.detach], ids=["rounds", "detaches"])
def test_a_network_without_a_slope_in_its_input_is_refused(change):
    request, original = pictures(lambda x: x, Rounded(change))
    with pytest.raises(Refused, match=r"no gradient in the records.*random_label"):
        BoundaryShrink()(original, request, seed=0)


def test_records_that_are_not_real_numbers_are_refused():
    request, original = pictures(lambda x: x)
    tokens = TensorData((request.forget.x * 8).long(), request.forget.y)
    with pytest.raises(Refused, match=r"real numbers, got numbers of type torch.int64"):
        BoundaryShrink()(original, dataclasses.replace(request, forget=tokens), seed=0)


@pytest.mark.parametrize("method", [BoundaryShrink(), BoundaryExpand()], ids=lambda m: m.card.name)
def test_a_class_that_the_network_has_no_answer_for_is_refused(method):
    request, original = pictures(lambda x: x)
    forget = TensorData(request.forget.x, request.forget.y + CLASSES - 1)
    with pytest.raises(Refused, match=r"the forget set has records of class 4, 5, 6.*0 to 3"):
        method(original, dataclasses.replace(request, forget=forget), seed=0)


def test_padding_and_tasks_without_classes_pass_the_check():
    check_classes(Classification(classes=3), torch.tensor([0, 2, -100]))
    check_classes(Classification(classes=3), torch.randn(4))
    with pytest.raises(Refused, match="class -1"):
        check_classes(Classification(classes=3), torch.tensor([0, -1]))


def test_shrinking_is_one_step_to_labels_found_once(linear):
    request, original = linear
    x, y, _ = whole(request.forget)
    labels = search(original, x, y, eps=1.5).classes
    done = BoundaryShrink(descent=ONE, eps=1.5)(original, request, seed=0)
    F.cross_entropy(original(x), labels).backward()
    for new, old in zip(done.model.parameters(), original.parameters(), strict=True):
        torch.testing.assert_close(new, old - LR * old.grad, rtol=1e-5, atol=1e-7)
    flipped = search(original, x, y, eps=1.5).flipped.float().mean().item()
    assert done.notes["found"] == pytest.approx(flipped)


def test_labels_are_the_originals_whatever_was_taught_since(linear, monkeypatch):
    request, original = linear
    from expunge.methods import boundary_shrink

    calls, asked = [], boundary_shrink.nearest_wrong

    def counted(model, x, *rest, **settings):
        calls.append(len(x))
        return asked(model, x, *rest, **settings)

    monkeypatch.setattr(boundary_shrink, "nearest_wrong", counted)
    BoundaryShrink(descent=Descent(lr=LR, epochs=4, batch_size=5))(original, request, seed=0)
    assert sum(calls) == len(request.forget)


def test_forgotten_classes_are_avoided_and_none_left_is_an_error(trained):
    problem, original = trained
    x, y, _ = whole(problem.request.retain)
    near = search(original, x[y < 2], y[y < 2], forbid(y[y < 2], 0, 1), eps=1.0)
    assert set(near.classes.tolist()) <= {2, 3}
    keep = problem.request.retain
    two = keep.select((keep.y < 2).nonzero()[:, 0])
    method = BoundaryShrink(avoid="forgotten", descent=ONE)
    method(original, dataclasses.replace(problem.request, forget=two), seed=0)
    with pytest.raises(Refused, match=r"leaves no class to give.*avoid='true'"):
        method(original, problem.request, seed=0)


@pytest.mark.parametrize("settings", [{"steps": 3}, {"norms": "update", "steps": 2}])
def test_the_work_of_other_settings_is_foreseen_too(linear, settings):
    request, original = linear
    method = BoundaryShrink(**settings)
    foreseen, counted = method.work(Sizes.of(request)), method(original, request, seed=0).cost
    assert (foreseen.forward, foreseen.backward) == (counted.forward, counted.backward)


def test_expanding_is_one_step_towards_a_class_that_is_cut_off(linear):
    request, original = linear
    x, _, _ = whole(request.forget)
    weight, bias = weights_of(original)
    bound = (6 / (CLASSES + CLASSES + 1)) ** 0.5
    row = bound * (2 * torch.rand(1, CLASSES, generator=generator(0, "row")) - 1)
    wide = torch.cat([weight, row]).requires_grad_()
    long = torch.cat([bias, torch.zeros(1)]).requires_grad_()
    # In a convex problem by hand: the gradient of -log p of the added class.
    p = (x @ wide.T + long).softmax(1)
    back = (p - F.one_hot(torch.full((len(x),), CLASSES), CLASSES + 1)) / len(x)
    out = BoundaryExpand(descent=ONE)(original, request, seed=0).model
    new_weight, new_bias = weights_of(out)
    stepped = wide.detach() - LR * (back.T @ x).detach()
    torch.testing.assert_close(new_weight, stepped[:-1], rtol=1e-5, atol=1e-6)
    stepped = long.detach() - LR * back.sum(0).detach()
    torch.testing.assert_close(new_bias, stepped[:-1], rtol=1e-5, atol=1e-6)


def test_a_watcher_sees_the_network_cut(linear):
    request, original = linear
    widths = []
    watched = dataclasses.replace(
        request, watch=lambda m, _: widths.append(m(whole(request.forget).x).shape[1])
    )
    BoundaryExpand(descent=Descent(lr=0.1, epochs=3))(original, watched, seed=0)
    assert widths == [CLASSES] * 3


class Crossed(nn.Module):
    """Defines its head first; a decoy of the same width is defined and called last."""

    def __init__(self, *, scaled=False, bias=True):
        super().__init__()
        self.answer = nn.Linear(8, CLASSES, bias=bias)
        self.body = nn.Linear(16, 8)
        self.decoy = nn.Linear(8, CLASSES)
        self.scaled = scaled

    def forward(self, x):
        inner = self.body(x.flatten(1)).relu()
        answers = self.answer(inner)
        self.decoy(inner)
        return answers / 2 if self.scaled else answers


def test_the_head_is_what_gives_the_output_not_what_comes_last():
    model = Crossed().train()
    assert find_head(model, torch.rand(2, 1, 4, 4), CLASSES) == "answer"
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())
    assert find_head(nn.Linear(16, CLASSES), torch.rand(1, 16), CLASSES) == ""


def test_a_head_that_cannot_be_widened_is_refused():
    x = torch.rand(1, 1, 4, 4)
    with pytest.raises(Refused, match="none of the 3 that were called gives it"):
        find_head(Crossed(scaled=True), x, CLASSES)
    with pytest.raises(Refused, match=r"row of 7 logits.*shape \(1, 4\)"):
        find_head(Crossed(), x, 7)


@pytest.mark.parametrize("bias", [True, False])
def test_widening_keeps_the_other_rows_and_cutting_gives_them_back(bias):
    model, draws = Crossed(bias=bias), torch.Generator().manual_seed(0)
    before, x = copy.deepcopy(model.state_dict()), torch.rand(3, 1, 4, 4)
    logits = model(x)
    widen(model.answer, draws)
    wide = model(x)
    assert wide.shape == (3, CLASSES + 1)
    torch.testing.assert_close(wide[:, :CLASSES], logits)
    bound = (6 / (8 + CLASSES + 1)) ** 0.5
    assert (model.answer.weight[-1].abs() <= bound).all()
    assert model.answer.weight[-1].std() > bound / 4
    cut(model.answer)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[k], before[k]) for k in before)
    assert model.answer.out_features == CLASSES


def test_with_a_rate_of_zero_the_whole_network_keeps_its_bits():
    request, original = pictures(lambda x: x, Crossed())
    out = BoundaryExpand(descent=STILL)(original, request, seed=0).model
    before, after = original.state_dict(), out.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before)
