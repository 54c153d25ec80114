"""Orthogonal replay: its losses by slow loops, its steps by hand, its layers on many networks."""

import copy
import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from expunge import registry
from expunge.api import problem as pose
from expunge.bench.problem import Training
from expunge.core.features import check_named, deep_layers, read
from expunge.core.rng import fenced
from expunge.method import Sizes
from expunge.methods.orthogonal_replay import OrthogonalReplay, alignment, decorrelation
from expunge.models.resnet import ResNet
from expunge.tasks.categorical import Classification
from expunge.types import Augment, Descent, Refused

LR = 0.2
NONE = Descent(epochs=0)


@pytest.fixture(scope="module")
def two():
    """Two classes, so that another class is the other one, and two hidden layers."""
    problem = pose(
        {"name": "blobs", "classes": 2, "train": 40},
        {"name": "mlp", "hidden": [6, 5], "batch_norm": False},
        {"name": "random", "count": 10},
        training=Training(descent=Descent(lr=0.1, epochs=5, batch_size=16)),
    )
    return problem, problem.train(0)


def plain(epochs):
    """Steps over all records at once, without momentum."""
    return Descent(lr=LR, epochs=epochs, batch_size=10_000, momentum=0.0)


def whole(data):
    return data.take(torch.arange(len(data)))


def step(model, loss, rate=LR):
    steps = torch.autograd.grad(loss, list(model.parameters()))
    with torch.no_grad():
        for p, g in zip(model.parameters(), steps, strict=True):
            p -= rate * g


def assert_same(a, b, **near):
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, **near)


def spied(request, seen):
    """Return the request with a task that keeps every batch whose loss is taken."""

    class Spy(Classification):
        def loss(self, model, batch):
            seen.append(batch)
            return super().loss(model, batch)

    task = Spy(classes=request.task.outputs)
    return dataclasses.replace(request, recipe=dataclasses.replace(request.recipe, task=task))


# Losses


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def test_decorrelation_is_the_mean_squared_cosine_of_pairs():
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    rows_ = rows.tolist()
    pairs = [cosine(a, b) ** 2 for i, a in enumerate(rows_) for j, b in enumerate(rows_) if i != j]
    assert decorrelation(rows).item() == pytest.approx(sum(pairs) / len(pairs), rel=1e-5)
    scaled = rows * torch.tensor([1.0, 9.0, 0.1, 3.0, 2.0])[:, None]
    assert decorrelation(scaled).item() == pytest.approx(decorrelation(rows).item(), rel=1e-5)


def test_decorrelation_at_its_ends():
    assert decorrelation(torch.eye(4)[:3]).item() == 0
    assert decorrelation(torch.tensor([[1.0, 2.0], [-2.0, -4.0]])).item() == pytest.approx(1)
    assert decorrelation(torch.ones(1, 3)).item() == 0
    dead = torch.zeros(2, 3, requires_grad=True)
    decorrelation(dead).backward()
    assert dead.grad is not None
    assert dead.grad.tolist() == [[0.0] * 3] * 2


def test_alignment_is_the_mean_squared_cosine_with_ones_own_original():
    draws = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 4, 3, generator=draws)
    by_row = [cosine(p, q) ** 2 for p, q in zip(a.tolist(), b.tolist(), strict=True)]
    assert alignment(a, b).item() == pytest.approx(sum(by_row) / 4, rel=1e-5)
    assert alignment(a, -2 * a).item() == pytest.approx(1)
    assert alignment(torch.eye(3), torch.eye(3).roll(1, 0)).item() == 0


# Layers


class Transformer(nn.Module):
    """Blocks of one shape in a list, between an embedding and a head."""

    def __init__(self, depth):
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def convnet(inputs, **settings):
    return registry.models.build({"name": "convnet", "width": 2, **settings}).build(inputs, 3)


def mlp(*hidden):
    return registry.models.build({"name": "mlp", "hidden": list(hidden)}).build((4,), 3)


DEEP = {
    "resnet": (lambda: ResNet(width=2).build((3, 16, 16), 3), (3, 16, 16), ("2.3", "2.5", "2.7")),
    "wrapped": (
        lambda: nn.Sequential(nn.Identity(), ResNet(width=2).build((3, 16, 16), 3)),
        (3, 16, 16),
        ("1.2.3", "1.2.5", "1.2.7"),
    ),
    "convnet": (lambda: convnet((1, 8, 8)), (1, 8, 8), ("3", "7", "11")),
    "falling widths": (lambda: mlp(8, 7, 6, 5), (4,), ("7", "10", "13")),
    "one width": (lambda: mlp(8, 8, 8, 8, 8), (4,), ("7", "13", "16")),
    "one layer": (lambda: mlp(8), (4,), ("4",)),
    "transformer": (lambda: Transformer(5), (6, 4), ("blocks.0", "blocks.2", "norm")),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_layers_are_the_last_blocks_of_the_last_stages(name):
    make, shape, expected = DEEP[name]
    with fenced(0):
        net, x = make(), torch.rand(2, *shape)
    state = copy.deepcopy(net.state_dict())
    assert deep_layers(net, x) == expected
    assert net.training
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks for m in net.modules())
    rows = read(net.eval(), x, expected)[1]
    assert [len(its) for its in rows.values()] == [2] * len(expected)


def test_deep_layers_are_found_on_every_task(posed):
    request = posed.request
    batch = next(request.recipe.ordered(request.forget, 2, torch.Generator()))
    assert 1 <= len(deep_layers(posed.original, batch.x)) <= 3


def test_a_network_of_one_layer_has_no_deep_ones():
    net = registry.models.build({"name": "linear"}).build((4,), 3)
    with pytest.raises(Refused, match="before its last layer, but it has none"):
        deep_layers(net, torch.rand(2, 4))


class Awkward(nn.Module):
    """What can go wrong with a named layer."""

    def __init__(self):
        super().__init__()
        self.pair, self.twice = nn.LSTM(4, 4, batch_first=True), nn.Linear(4, 4)
        self.turned, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = self.pair(x)[0]
        x = self.turned(x.transpose(0, 1)).relu_().transpose(0, 1)
        return self.twice(self.twice(x))


def test_what_a_layer_gave_is_kept_before_it_is_changed_in_place():
    first = nn.Linear(4, 6)
    net = nn.Sequential(first, nn.ReLU(inplace=True), nn.Linear(6, 2))
    x = torch.randn(5, 4)
    outputs, rows = read(net, x, ["0"])
    torch.testing.assert_close(rows["0"], F.linear(x, first.weight, first.bias))
    assert (rows["0"] < 0).any()
    torch.testing.assert_close(outputs, net(x))


def test_layers_that_give_no_row_per_record_are_refused():
    net, x = Awkward(), torch.rand(3, 5, 4)
    _, rows = read(net, x, ["pair"])
    torch.testing.assert_close(rows["pair"], net.pair(x)[0].flatten(1))
    for name, message in (
        ("twice", "it ran 2 times"),
        ("idle", "it ran 0 times"),
        ("turned", r"each of 3 records, got torch.float32 of shape \(5, 3, 4\)"),
    ):
        with pytest.raises(Refused, match=message):
            read(net, x, [name])


def test_unknown_layers_are_refused_with_a_suggestion(two):
    with pytest.raises(Refused, match=r"unknown layer 'paar' .* did you mean 'pair'"):
        check_named(Awkward(), ["twice", "paar"])
    problem, original = two
    with pytest.raises(Refused, match="unknown layer '33'"):
        OrthogonalReplay(layers=("33",))(original, problem.request, seed=0)


# Steps by hand


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        ({}, (1, 1)),
        ({"layers": ("5",)}, (0, 1)),
        ({"weights": (0.5, 2.0)}, (0.5, 2)),
        ({"orthogonality": 0.0}, (0, 0)),
    ],
)
def test_a_class_is_scattered_by_steps_worked_out_by_hand(two, settings, counts):
    problem, original = two
    seen = []
    method = OrthogonalReplay(erase=plain(2), descent=NONE, **settings)
    out = method(original, spied(problem.request, seen), seed=0).model
    expected = copy.deepcopy(original)
    for batch in seen:
        hidden = expected[:4](batch.x)
        layers = hidden, expected[4:6](hidden)
        right = problem.request.forget.y[batch.index.argsort().argsort()]
        assert len(batch.y) == 10
        assert torch.equal(batch.y, 1 - right)
        loss = F.cross_entropy(expected(batch.x), 1 - right)
        for weight, rows in zip(counts, layers, strict=True):
            unit = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
            gram = unit @ unit.T - torch.diag((unit * unit).sum(1))
            loss = loss + 2 * weight * gram.square().sum() / 90
        step(expected, loss)
    assert len(seen) == 2
    assert_same(out, expected, rtol=1e-4, atol=1e-6)


def test_records_are_turned_from_the_original_by_steps_worked_out_by_hand(two):
    problem, original = two
    seen = []
    method = OrthogonalReplay(level="sample", erase=plain(3), descent=NONE)
    out = method(original, spied(problem.request, seen), seed=0).model
    expected = copy.deepcopy(original)
    for x, y, _ in seen:
        loss = 0.1 * F.cross_entropy(expected(x), y)
        for cut in (4, 6):
            now, before = expected[:cut](x), original[:cut](x).detach()
            cosines = (now * before).sum(1) / (now.norm(dim=1) * before.norm(dim=1))
            loss = loss + cosines.square().mean()
        step(expected, loss)
    assert_same(out, expected, rtol=1e-4, atol=1e-6)
    assert {int(y) for batch in seen for y in batch.y} == {0, 1}
    wrong = [batch.y[batch.index.argsort()].tolist() for batch in seen]
    assert wrong[0] != wrong[1]  # drawn anew


def test_replay_shrinks_and_slows_as_said(two):
    problem, original = two
    method = OrthogonalReplay(
        erase=NONE, descent=plain(4), rates=(1.0, 0.5, 0.1), l1=0.03, l1_epochs=2
    )
    out = method(original, problem.request, seed=0).model
    x, y, _ = whole(problem.request.retain)
    expected = copy.deepcopy(original)
    for strength, rate in ((0.03, 1.0), (0.03, 0.5), (0.0, 0.1), (0.0, 0.1)):
        sizes = sum(p.abs().sum() for p in expected.parameters())
        step(expected, F.cross_entropy(expected(x), y) + strength * sizes, rate * LR)
    assert_same(out, expected, rtol=1e-4, atol=1e-6)


def test_the_first_phase_and_clean_epochs_see_records_as_they_are(made):
    found, seen = made["images"], []
    recipe = dataclasses.replace(found.problem.recipe, augment=Augment(crop=2))
    request = spied(dataclasses.replace(found.request, recipe=recipe), seen)
    erase, replay = Descent(lr=1e-3, epochs=2), Descent(lr=1e-3, epochs=3, batch_size=10_000)
    OrthogonalReplay(erase=erase, descent=replay, clean_epochs=2)(found.original, request, seed=0)
    assert len(seen) == 5
    changed = []
    for number, batch in enumerate(seen):
        data = request.forget if number < 2 else request.retain
        order = batch.index.argsort()
        changed.append(not torch.equal(batch.x[order], whole(data).x[data.index.argsort()]))
    assert changed == [False, False, True, False, False]


# The whole


def features(model, request):
    x = whole(request.forget).x
    with torch.no_grad():
        return read(model, x, deep_layers(model, x))[1]


def test_features_end_up_orthogonal(made):
    found = made["images"]
    original = features(found.original, found.request)
    erase = Descent(optimizer="adamw", lr=2e-2, epochs=40)

    def after(level, orthogonality=None):
        method = OrthogonalReplay(
            level=level, orthogonality=orthogonality, erase=erase, descent=NONE
        )
        return features(method(found.original, found.request, seed=0).model, found.request)

    def scattered(rows):
        return sum(float(decorrelation(its)) for its in rows.values())

    def turned(rows):
        return sum(float(alignment(its, original[name])) for name, its in rows.items())

    assert scattered(after("class")) < 0.5 * scattered(after("class", 0.0))
    assert turned(after("sample")) < 0.5 * turned(after("sample", 0.0))


@pytest.mark.parametrize(
    "settings",
    [
        {"level": "class"},
        {"level": "sample", "orthogonality": 0.0},
        {"level": "sample", "erase": NONE},
        {"level": "class", "descent": NONE, "mislead": 0.0},
        {"level": "class", "norms": "recalibrate"},
    ],
    ids=["class", "labels", "replay", "features", "recalibrate"],
)
def test_the_foreseen_work_is_the_work_that_is_counted(settings, posed):
    few = {"erase": Descent(lr=1e-3, epochs=2), "descent": Descent(lr=1e-3, epochs=1)}
    method = OrthogonalReplay(**few | settings)
    foreseen = method.work(Sizes.of(posed.request))
    found = method(posed.original, posed.request, seed=0)
    assert (foreseen.forward, foreseen.backward) == (found.cost.forward, found.cost.backward)
    assert ("layers" in found.notes) == (method.erase.epochs > 0 and method.orthogonality != 0)


def test_one_record_can_be_forgotten(two):
    problem, original = two
    request = dataclasses.replace(
        problem.request, forget=problem.request.forget.select(torch.arange(1))
    )
    for level in ("class", "sample"):
        method = OrthogonalReplay(level=level)
        foreseen, found = method.work(Sizes.of(request)), method(original, request, seed=0)
        assert foreseen.forward == found.cost.forward


def test_the_released_preset_leaves_the_deepest_layer_alone():
    found = registry.methods.build({"name": "orthogonal_replay", "preset": "released"})
    meant = registry.methods.build({"name": "orthogonal_replay", "preset": "class_resnet18"})
    assert found == dataclasses.replace(meant, weights=(1.0, 2.0, 0.0))
    idle = registry.methods.build({"name": "orthogonal_replay", "preset": "released_sample"})
    assert isinstance(idle, OrthogonalReplay)
    assert idle.descent.epochs == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"orthogonality": -1.0}, "orthogonality, mislead, l1 and weights >= 0"),
        ({"orthogonality": 0.0, "mislead": 0.0}, "nothing that moves it"),
        ({"level": "sample", "mislead": 0.0}, "has no slope at the original"),
        ({"weights": (0.0, 0.0)}, "a layer with a weight above 0"),
        ({"rates": ()}, "one at least"),
        ({"clean_epochs": -1}, "clean_epochs >= 0"),
        ({"layers": ("a", "a")}, "each layer once"),
        ({"layers": ("a", "b"), "weights": (1.0,)}, "one weight for each of the 2 layers a, b"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        OrthogonalReplay(**settings)


def test_weights_must_be_as_many_as_the_layers_that_are_found(two):
    problem, original = two
    with pytest.raises(Refused, match="one weight for each of the 2 layers 3, 5, got 3"):
        OrthogonalReplay(weights=(1.0, 2.0, 0.0))(original, problem.request, seed=0)
