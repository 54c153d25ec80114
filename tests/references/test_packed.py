"""Networks trained together, against the same networks trained one after another."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from expunge.core.cost import metered
from expunge.core.descent import Diverged, Pass, descend, train
from expunge.core.packed import (
    Member,
    Stack,
    chain,
    descend_together,
    pays,
    refusal,
    train_together,
)
from expunge.core.rng import generator
from expunge.core.view import View
from expunge.data.tensors import TensorData
from expunge.models.convnet import ConvNet
from expunge.models.given import Given
from expunge.models.mlp import MLP
from expunge.models.resnet import ResNet
from expunge.tasks.categorical import Classification
from expunge.types import Augment, Descent, Recipe

COUNT = 3
SEEDS = [11, 5, 8]
SGD = Descent(lr=0.05, epochs=3, batch_size=16, precision="fp32")
DESCENTS = {
    "momentum": SGD,
    "nesterov": dataclasses.replace(SGD, nesterov=True, weight_decay=0.02, schedule="cosine"),
    "onecycle": dataclasses.replace(SGD, lr=0.1, weight_decay=5e-4, schedule="onecycle"),
    "adamw": dataclasses.replace(SGD, optimizer="adamw", lr=3e-3, weight_decay=0.1),
    "by epoch": dataclasses.replace(SGD, schedule="triangle", stride="epoch"),
}
PERCEPTRONS = {
    f"{kind} {name}": (MLP(hidden=(16, 8), batch_norm=kind == "norms"), descent)
    for kind in ("norms", "plain")
    for name, descent in DESCENTS.items()
    # BatchNorm takes off the bias before it, whose gradient is then rounding alone, and AdamW
    # makes steps of full length of it: two runs of the same sums in other orders part.
    if (kind, name) != ("norms", "adamw")
}


def halves(data, count=COUNT, size=None):
    """Return random subsets, of 57 records for the last batch to be shorter than 16."""
    size = size or 57
    draws = generator(0, "halves")
    return [data.select(torch.randperm(len(data), generator=draws)[:size]) for _ in range(count)]


def recipe_of(made, **changes):
    return dataclasses.replace(made.problem.recipe, **changes)


def assert_equal(ours, theirs, rtol=1e-4, atol=1e-5):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=rtol, atol=atol, msg=name)


def far_apart(first, second):
    return max(
        float((a - b).detach().abs().max())
        for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


def check(recipe, datasets, seeds=SEEDS, **tolerance):
    together = train_together(recipe, datasets, seeds)
    alone = [train(recipe, data, seed) for data, seed in zip(datasets, seeds, strict=True)]
    for ours, theirs in zip(together, alone, strict=True):
        assert not ours.training
        assert_equal(ours, theirs, **tolerance)
    # The tolerance must be able to tell one member from another.
    assert far_apart(alone[0], alone[1]) > 0.05


@pytest.mark.parametrize(("model", "descent"), PERCEPTRONS.values(), ids=list(PERCEPTRONS))
def test_perceptrons_are_those_trained_alone(blobs, model, descent):
    check(recipe_of(blobs, model=model, descent=descent), halves(blobs.request.retain))


@pytest.mark.parametrize("descent", DESCENTS.values(), ids=list(DESCENTS))
def test_convolutional_networks_are_those_trained_alone(made, descent):
    pictures = made["images"]
    augment = Augment(crop=1, flip=True)
    recipe = recipe_of(pictures, model=ConvNet(width=4), descent=descent, augment=augment)
    check(recipe, halves(pictures.request.retain))


def test_a_residual_network_is_that_trained_alone(made):
    pictures = made["images"]
    recipe = recipe_of(pictures, model=ResNet(width=2), descent=dataclasses.replace(SGD, epochs=1))
    check(recipe, halves(pictures.request.retain, 2, 33), SEEDS[:2])


def test_half_precision_is_taken_where_it_is_alone(made):
    pictures = made["images"]
    descent = dataclasses.replace(SGD, precision="bf16")
    recipe = recipe_of(pictures, model=ConvNet(width=4), descent=descent)
    check(recipe, halves(pictures.request.retain), rtol=0.05, atol=0.03)
    exact = dataclasses.replace(recipe, descent=SGD)
    data = halves(pictures.request.retain, 2)
    [half, _], [full, _] = (train_together(r, data, SEEDS[:2]) for r in (recipe, exact))
    assert far_apart(half, full) > 1e-4


def test_denoisers_are_those_trained_alone(made):
    noisy = made["denoising"]
    check(recipe_of(noisy, descent=SGD), halves(noisy.request.retain))


def test_class_weights_count_within_each_member(blobs):
    weights = (1.0, 5.0, 0.2, 1.0, 3.0, 0.5)
    task = Classification(classes=6, weights=weights)
    check(recipe_of(blobs, task=task, descent=SGD), halves(blobs.request.retain))


def test_unequal_sizes_are_stacked_apart_and_come_back_in_order(blobs):
    retain = blobs.request.retain
    sizes = (57, 40, 57, 41)
    datasets = [halves(retain, 1, size)[0] for size in sizes]
    check(recipe_of(blobs, model=MLP(hidden=(8,)), descent=SGD), datasets, [1, 2, 3, 4])


@pytest.mark.parametrize("norms", ["update", "freeze"])
def test_networks_that_were_trained_before_go_on_as_alone(blobs, norms):
    datasets, recipe = halves(blobs.request.retain, 2, 20), blobs.problem.recipe
    ours = [copy.deepcopy(blobs.original) for _ in datasets]
    theirs = copy.deepcopy(ours)
    members = [
        Member(model, data, generator(seed), str(seed))
        for model, data, seed in zip(ours, datasets, SEEDS, strict=False)
    ]
    descend_together(members, recipe, SGD, norms)
    for model, data, seed in zip(theirs, datasets, SEEDS, strict=False):
        teach = Pass(data, lambda batch, model=model: recipe.task.loss(model, batch), norms)
        descend(model, [[teach]] * SGD.epochs, SGD, recipe, generator(seed))
    for a, b in zip(ours, theirs, strict=True):
        assert_equal(a, b)
        moved = (a[3].running_mean - blobs.original[3].running_mean).abs().max()
        assert (moved > 1e-3) == (norms == "update")


def flat_chain():
    relu = nn.ReLU()
    inner = nn.Sequential(nn.Linear(6, 5, bias=False), relu, nn.LayerNorm(5))
    return nn.Sequential(inner, nn.BatchNorm1d(5, affine=False), relu, nn.Linear(5, 4), nn.Tanh())


def picture_chain():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding="valid", groups=2),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.Conv2d(4, 6, (1, 3), padding=(0, 1), dilation=(2, 1), padding_mode="circular"),
        nn.GroupNorm(2, 6),
        nn.AvgPool2d(2),
        nn.Flatten(2),
        nn.Conv1d(6, 4, 2),
        nn.Linear(3, 2),
        nn.Flatten(),
    )


def tied_chain():
    network = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    network[2].weight = network[0].weight
    return network


def hooked_chain():
    layer = nn.Linear(6, 6)
    layer.register_forward_hook(lambda module, inputs, output: 2 * output)
    return nn.Sequential(layer, nn.ReLU())


CHAINS = {
    "flat": (flat_chain, (6,), True),
    "picture": (picture_chain, (2, 9, 9), True),
    "tied": (tied_chain, (6,), False),
    "hook": (hooked_chain, (6,), False),
}


@pytest.mark.parametrize(("build", "shape", "chained"), CHAINS.values(), ids=list(CHAINS))
def test_a_stacks_answers_and_gradients_are_its_members(build, shape, chained):
    torch.manual_seed(0)
    networks = [build().double() for _ in range(COUNT)]
    assert (chain(networks[0]) is not None) == chained
    stack = Stack(networks)
    x = torch.randn(COUNT, 7, *shape, dtype=torch.double)
    outputs = stack(x.flatten(0, 1)).unflatten(0, (COUNT, 7))
    weights = torch.randn_like(outputs)
    (weights * outputs).sum().backward()
    rows = {k: p.grad for k, p in stack.network.named_parameters()}
    after = stack.states()
    for number, network in enumerate(networks):
        theirs = network(x[number])
        torch.testing.assert_close(outputs[number], theirs)
        (weights[number] * theirs).sum().backward()
        for name, p in network.named_parameters():
            own = rows[name].unflatten(0, (COUNT, -1))[number]
            torch.testing.assert_close(own, p.grad)
        for name, buffer in network.named_buffers():
            torch.testing.assert_close(after[name][number], buffer)


class Tied(nn.Module):
    """One matrix used twice, and a bias that stays as it is."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.second.bias.requires_grad_(False)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        return self.scale * self.second(torch.relu(self.first(x)))


def test_tied_frozen_and_scalar_parameters_stay_so(blobs):
    recipe = recipe_of(blobs, model=Given(module=Tied(), fresh=Tied), descent=SGD)
    datasets = halves(blobs.request.retain)
    check(recipe, datasets)
    trained = train_together(recipe, datasets, SEEDS)[0]
    assert trained.first.weight is trained.second.weight
    assert not trained.second.bias.requires_grad


def test_packed_training_costs_what_it_costs_alone(made):
    for name in ("classification", "images"):
        recipe = recipe_of(made[name], descent=SGD)
        datasets = halves(made[name].request.retain)
        with metered() as bill:
            train_together(recipe, datasets, SEEDS)
        samples = COUNT * SGD.epochs * 57
        assert (bill.cost.forward, bill.cost.backward) == (samples, samples)


def test_the_global_generator_and_the_data_stay_as_they_were(blobs):
    datasets = halves(blobs.request.retain)
    digests = [data.digest for data in datasets]
    before = torch.get_rng_state()
    train_together(recipe_of(blobs, descent=SGD), datasets, SEEDS)
    assert torch.equal(before, torch.get_rng_state())
    assert [type(data)(data.x, data.y).digest for data in datasets] == digests


def test_the_same_seeds_give_the_same_bits(blobs):
    recipe, datasets = recipe_of(blobs, descent=SGD), halves(blobs.request.retain)
    first, second = (train_together(recipe, datasets, SEEDS) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert_equal(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["classification", "images"])
def test_a_member_that_diverges_is_named_alone(made, name):
    datasets = halves(made[name].request.retain)
    datasets[1].x[:] = torch.inf
    with pytest.raises(Diverged, match=r"^model 1 \(seed 5\): the loss was nan after round 1 of 3"):
        train_together(recipe_of(made[name], descent=SGD), datasets, SEEDS)


def test_what_cannot_be_stacked_is_refused_before_any_work(blobs):
    dropout = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.1))
    assert "'1' (Dropout) draws" in refusal(dropout)
    assert refusal(nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.0))) is None
    assert "recurs" in refusal(nn.LSTM(2, 2))
    assert "averages" in refusal(nn.BatchNorm1d(2, momentum=None))
    layer = nn.Linear(6, 6)
    assert "'1' (Linear) is also '0'" in refusal(nn.Sequential(layer, layer))
    assert refusal(blobs.original) is None
    recipe = recipe_of(blobs, model=Given(module=dropout))
    with pytest.raises(ValueError, match="one after another"):
        train_together(recipe, halves(blobs.request.retain), SEEDS)


def test_what_does_not_match_is_refused(blobs):
    datasets, recipe = halves(blobs.request.retain), blobs.problem.recipe
    with pytest.raises(ValueError, match="one seed for each data set, got 2 for 3"):
        train_together(recipe, datasets, SEEDS[:2])
    draws, model = generator(0), blobs.original
    unequal = [Member(model, halves(datasets[0], 1, n)[0], draws, f"of {n}") for n in (4, 5)]
    with pytest.raises(ValueError, match=r"equally many records, got \{'of 4': 4, 'of 5': 5\}"):
        descend_together(unequal, recipe, SGD)
    with pytest.raises(ValueError, match="equally many records, got none"):
        descend_together([], recipe, SGD)
    shapes = [Member(m, datasets[0], draws, "") for m in (nn.Linear(6, 6), nn.Linear(6, 5))]
    with pytest.raises(ValueError, match="networks of one shape"):
        descend_together(shapes, recipe, SGD)


def test_packing_pays_where_every_layer_has_a_wide_form():
    built = [model.build((3, 8, 8), 3) for model in (MLP(), ConvNet(), ResNet())]
    assert [pays(network) for network in built] == [True, True, False]


def test_a_vectorised_layer_keeps_single_precision_under_autocast():
    networks = [ResNet().build((3, 8, 8), 3) for _ in range(2)]
    stack, x = Stack(networks).eval(), torch.randn(4, 3, 8, 8)
    plain = stack(x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(stack(x).float(), plain, rtol=0.1, atol=0.1)


def test_views_of_one_pool_are_trained_as_their_copies_are():
    draws = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (40, 1, 6, 6), generator=draws, dtype=torch.uint8)
    images = TensorData(pixels, torch.arange(40) % 3)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(2))
    rows = [order[: len(images) // 2], order[len(images) // 2 :][: len(images) // 2]]
    recipe = Recipe(
        model=MLP(),
        inputs=images.shape,
        task=Classification(classes=1 + int(images.y.max())),
        descent=Descent(lr=0.05, epochs=2, batch_size=7),
    )
    views = train_together(recipe, [View(images, r) for r in rows], [3, 4])
    copies = train_together(recipe, [images.select(r) for r in rows], [3, 4])
    for view, copied in zip(views, copies, strict=True):
        pairs = zip(view.state_dict().values(), copied.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(views[0][-1].weight, views[1][-1].weight)
