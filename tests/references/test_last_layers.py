"""EU-k and CF-k against closed forms and plain PyTorch; what is frozen, to the bit."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from expunge.core.layers import last_layers
from expunge.core.rng import derive, fenced, generator
from expunge.method import Sizes
from expunge.methods.cf_k import CatastrophicallyForgetLast
from expunge.methods.eu_k import ExactUnlearnLast
from expunge.methods.finetune import Finetune
from expunge.models.given import Given
from expunge.types import Descent, Refused, Start

LR = 0.3
BOTH = [ExactUnlearnLast, CatastrophicallyForgetLast]
BUSY = Descent(lr=0.05, epochs=2, batch_size=32, weight_decay=0.1, precision="fp32")


def step(lr=LR):
    """One step over all records at once."""
    return Descent(lr=lr, epochs=1, batch_size=10_000, precision="fp32")


def whole(data):
    return data.take(torch.arange(len(data)))


def drawn(recipe, seed):
    """Return the untrained network that EU-k takes layers from."""
    with fenced(derive(seed, "fresh layers")):
        return recipe.fresh()


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


@pytest.fixture
def pictures(made):
    """Images, and a small convolutional network trained on them."""
    found = made["images"]
    return found.request, copy.deepcopy(found.original)


@pytest.fixture
def dropping(blobs):
    """A network with dropout and BatchNorm before its last layer."""
    with fenced(0):
        net = nn.Sequential(
            nn.Linear(blobs.request.recipe.inputs[0], 16),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(16, 6),
        )
    net(whole(blobs.request.retain).x)  # statistics of the records, not of nothing
    recipe = dataclasses.replace(blobs.request.recipe, model=Given(module=net))
    return dataclasses.replace(blobs.request, recipe=recipe), net.eval()


# Which layers are the last


class Backwards(nn.Module):
    """Its layers run in another order than they are defined in; one is never called."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.unused_name = nn.ModuleDict({"read": nn.Linear(4, 4)})
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.BatchNorm1d(3)
        self.first = nn.Linear(5, 4)

    def forward(self, x):
        x = self.norm(self.first(x))
        return self.head(self.attend(x, x, x)[0].mean(1))


def test_the_last_layers_are_the_last_to_run_with_all_between():
    net, x = Backwards(), torch.rand(2, 3, 5)
    # Attention reads its own projection's weights, so that none of its calls is seen.
    assert last_layers(net, x, 1) == ["head"]
    assert last_layers(net, x, 2) == ["attend.out_proj", "head"]
    assert last_layers(net, x, 3) == ["attend", "attend.out_proj", "head"]
    assert last_layers(net, x, 4) == ["first", "norm", "attend", "attend.out_proj", "head"]
    assert "unused_name.read" in last_layers(net, x, 5)
    with pytest.raises(Refused, match=r"at most 5, got 6: the Backwards"):
        last_layers(net, x, 6)
    assert net.training
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_a_layer_called_twice_stands_where_it_was_called_first():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(4, 4)
            self.again = nn.Linear(4, 4)

        def forward(self, x):
            return self.again(self.last(self.again(x)))

    assert last_layers(Twice(), torch.rand(2, 4), 1) == ["last"]


@pytest.mark.parametrize(
    ("task", "layers"),
    [
        ("next_token", ["embed", "recur", "project"]),
        ("denoising", ["condition", "body.0", "body.2", "body.4"]),
    ],
)
def test_other_tasks_networks_have_last_layers_too(made, task, layers):
    request, net = made[task].request, made[task].original
    batch = next(request.recipe.ordered(request.retain, 2, generator(0)))
    for k in range(1, len(layers) + 1):
        with_weights = [n for n in last_layers(net, batch.x, k) if n in layers]
        assert with_weights == layers[-k:]


# What is frozen


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_what_is_frozen_keeps_its_bits_and_what_is_not_moves(pictures, method, k):
    request, original = pictures
    out = method(k=k, descent=BUSY)(original, request, seed=0).model
    found = [n for n, m in original.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    cut = int(found[-k].split(".")[0])  # the network is a plain sequence
    moved = {}
    for name, before in original.state_dict().items():
        moved[name] = not torch.equal(before, out.state_dict()[name])
        assert moved[name] == (int(name.split(".")[0]) >= cut), name
    running = [name for name in moved if "running" in name]
    assert sum(moved[name] for name in running) == 2 * (k - 1)
    assert not all(moved[name] for name in running)


@pytest.mark.parametrize("method", BOTH)
def test_frozen_layers_are_frozen_in_a_residual_network(pictures, method):
    from expunge.models.resnet import ResNet

    request, _ = pictures
    recipe = dataclasses.replace(request.recipe, model=ResNet(width=2))
    with fenced(1):
        original = recipe.fresh().eval()
    request = dataclasses.replace(
        request, recipe=recipe, retain=request.retain.select(torch.arange(32))
    )
    done = method(k=4, descent=dataclasses.replace(BUSY, epochs=1))(original, request, seed=0)
    # In the last stage: the second block's convolutions, and before them the first's shortcut.
    inside = ("2.6.shortcut.", "2.7.", "5.")
    for name, before in original.state_dict().items():
        assert name.startswith(inside) != torch.equal(before, done.model.state_dict()[name]), name
    assert done.notes["trained"][0] == "2.6.shortcut.0"


@pytest.mark.parametrize("method", BOTH)
def test_one_step_of_the_last_layer_is_softmax_regression_on_still_features(dropping, method):
    request, original = dropping
    out = method(descent=step())(original, request, seed=5).model
    x, y, _ = whole(request.retain)
    with torch.no_grad():  # dropout drops nothing: the frozen part is in eval mode
        h = original[:-1](x)
        start = drawn(request.recipe, 5)[-1] if method is ExactUnlearnLast else original[-1]
        wrong = (start(h).softmax(1) - F.one_hot(y, 6)) / len(y)
    torch.testing.assert_close(out[-1].weight, start.weight - LR * wrong.T @ h)
    torch.testing.assert_close(out[-1].bias, start.bias - LR * wrong.sum(0))
    assert equal(out[:-1], original[:-1])


# Drawn anew


def test_batch_norm_between_the_last_layers_forgets_its_weights_and_statistics(blobs):
    out = ExactUnlearnLast(k=2, descent=step(lr=0.0))(blobs.original, blobs.request, seed=3).model
    fresh, x = drawn(blobs.request.recipe, 3), whole(blobs.request.retain).x
    before = blobs.original[3]
    assert isinstance(before, nn.BatchNorm1d)
    assert not torch.equal(before.weight, torch.ones_like(before.weight))
    for a, b in zip(out.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(a, b)
    h = fresh[2](x)
    assert out[3].num_batches_tracked == 1
    torch.testing.assert_close(out[3].running_mean, 0.1 * h.mean(0))
    torch.testing.assert_close(out[3].running_var, 0.9 + 0.1 * h.var(0))


def test_cf_k_may_leave_statistics_alone(blobs):
    still = CatastrophicallyForgetLast(k=2, norms="freeze", descent=BUSY)
    out = still(blobs.original, blobs.request, seed=0).model
    kept = [torch.equal(b, dict(out.named_buffers())[k]) for k, b in blobs.original.named_buffers()]
    assert kept
    assert all(kept)


def test_layers_drawn_anew_start_from_pretrained_weights_where_training_did(blobs):
    tensors = {k: torch.full_like(v, 0.25) for k, v in blobs.original.state_dict().items()}
    recipe = dataclasses.replace(blobs.request.recipe, start=Start(digest="x", tensors=tensors))
    request = dataclasses.replace(blobs.request, recipe=recipe)
    out = ExactUnlearnLast(k=1, descent=step(lr=0.0))(blobs.original, request, seed=0).model
    assert (out[-1].weight == 0.25).all()
    assert equal(out[:-1], blobs.original[:-1])


def test_eu_k_of_all_layers_is_training_from_scratch_by_the_recipe(blobs):
    request, recipe = blobs.request, blobs.request.recipe
    out = ExactUnlearnLast(k=2)(blobs.original, request, seed=4).model
    net, draws = drawn(recipe, 4).train(), generator(4, "order")
    descent = recipe.descent
    sgd = torch.optim.SGD(net.parameters(), descent.lr, descent.momentum)
    assert (descent.schedule, descent.weight_decay, descent.nesterov) == ("constant", 0.0, False)
    x, y, _ = whole(request.retain)
    assert len(y) % descent.batch_size != 1
    for _ in range(descent.epochs):
        for rows in torch.randperm(len(y), generator=draws).split(descent.batch_size):
            sgd.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            sgd.step()
    for a, b in zip(out.state_dict().values(), net.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_cf_k_of_all_layers_is_fine_tuning(blobs):
    ours = CatastrophicallyForgetLast(k=2, descent=BUSY)(blobs.original, blobs.request, seed=2)
    theirs = Finetune(descent=BUSY)(blobs.original, blobs.request, seed=2)
    assert equal(ours.model, theirs.model)


def test_eu_k_reads_nothing_of_the_layers_it_draws_anew(blobs):
    ruined = copy.deepcopy(blobs.original)
    nn.init.constant_(ruined[-1].weight, 7.0)
    method = ExactUnlearnLast(k=1, descent=BUSY)
    first, second = (method(m, blobs.request, seed=1).model for m in (blobs.original, ruined))
    assert equal(first, second)


# Settings and bad input


@pytest.mark.parametrize("method", BOTH)
def test_without_a_descent_the_recipes_is_followed_and_its_work_foreseen(blobs, method):
    given = method(descent=blobs.request.recipe.descent)
    ours = method()(blobs.original, blobs.request, seed=0)
    assert equal(ours.model, given(blobs.original, blobs.request, seed=0).model)
    foreseen = method().work(Sizes.of(blobs.request))
    assert (foreseen.forward, foreseen.backward) == (ours.cost.forward, ours.cost.backward)


@pytest.mark.parametrize("method", BOTH)
def test_bad_input_is_refused(blobs, method):
    with pytest.raises(ValueError, match="k >= 1 layers to train, got 0"):
        method(k=0)
    with pytest.raises(Refused, match="at most 2, got 3: the Sequential has no more layers"):
        method(k=3)(blobs.original, blobs.request, seed=0)
    nothing = blobs.request.retain.select(torch.arange(0))
    with pytest.raises(Refused, match="retained records to train the last layers on, got none"):
        method()(blobs.original, dataclasses.replace(blobs.request, retain=nothing), seed=0)
