"""Three methods of the unlearning challenge and its attack, by hand and by torch and sklearn."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit
from torch import nn

from expunge import registry
from expunge.api import problem as pose
from expunge.audits.loss_attack import accuracy_by_split
from expunge.bench.problem import Training
from expunge.core.layers import first_convolution, smallest
from expunge.core.rng import generator
from expunge.core.state import mode
from expunge.method import Sizes
from expunge.methods.deviation import Deviation, disturb
from expunge.methods.divergence import Divergence, from_uniform, unlikeness
from expunge.methods.finetune import Finetune
from expunge.methods.gradient_reset import GradientReset, alike, he_normal
from expunge.types import Descent, Refused
from tests.conftest import Made, images

STILL = Descent(lr=0.0, epochs=2, batch_size=64)
WHOLE = {"batch_size": 10_000, "weight_decay": 0.1, "precision": "fp32"}


@pytest.fixture
def pictures(made) -> Made:
    found = made["images"]
    return found._replace(original=copy.deepcopy(found.original))


def whole(data):
    return data.take(torch.arange(len(data)))


def changes(after, before):
    """Return what was added to each parameter that is not as it was."""
    pairs = zip(after.named_parameters(), before.parameters(), strict=True)
    return {name: (a - b).detach() for (name, a), b in pairs if not torch.equal(a, b)}


# deviation


def test_noise_has_the_deviation_that_was_asked_for():
    weight = torch.zeros(100, 100)
    disturb([weight], 0.6, generator(0))
    assert abs(float(weight.mean())) < 0.03
    assert float(weight.std()) == pytest.approx(0.6, rel=0.03)


@pytest.mark.parametrize(("layers", "count"), [("first", 1), ("all", 3)])
def test_deviation_disturbs_convolutions_and_nothing_else(pictures, layers, count):
    method = Deviation(descent=STILL, norms="freeze", late_noise=0.0, layers=layers)
    added = changes(method(pictures.original, pictures.request, seed=0).model, pictures.original)
    convolutions = [
        f"{name}.weight"
        for name, m in pictures.original.named_modules()
        if isinstance(m, nn.Conv2d)
    ]
    assert list(added) == convolutions[:count]
    every = torch.cat([change.flatten() for change in added.values()])
    assert float(every.std()) == pytest.approx(0.6, rel=0.4 if count == 1 else 0.1)


def test_the_late_noise_comes_before_the_last_epoch(pictures):
    seen = []
    request = pictures.request
    watched = type(request)(**vars(request) | {"watch": lambda model, _: seen.append(model)})
    still = Descent(lr=0.0, epochs=3)
    method = Deviation(descent=still, norms="freeze", noise=0.0, layers="all")
    method(pictures.original, watched, seed=0)
    first, second, last = (changes(model, pictures.original) for model in seen)
    assert first == second == {}
    every = torch.cat([change.flatten() for change in last.values()])
    assert float(every.std()) == pytest.approx(0.005, rel=0.1)


def test_deviation_without_noise_is_finetuning(pictures):
    descent = Descent(lr=0.05, epochs=2, batch_size=32, schedule="cosine", stride="epoch")
    ours = Deviation(descent=descent, noise=0.0, late_noise=0.0)
    theirs = Finetune(descent=descent)
    nets = [m(pictures.original, pictures.request, seed=3).model for m in (ours, theirs)]
    for a, b in zip(*(net.state_dict().values() for net in nets), strict=True):
        assert torch.equal(a, b)


def test_the_first_convolution_is_the_first_to_be_called():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Conv2d(2, 3, 1), nn.Conv2d(1, 2, 1)

        def forward(self, x):
            return self.last(self.first(x))

    net = Backwards()
    assert first_convolution(net, torch.zeros(1, 1, 2, 2)) == {"first": net.first}
    assert net.training
    assert not net.first._forward_pre_hooks


@pytest.mark.parametrize("method", [Deviation(), Deviation(layers="all"), GradientReset()])
def test_a_network_without_convolutions_is_refused(blobs, method):
    with pytest.raises(Refused, match="has none; take 'convnet'"):
        method(blobs.original, blobs.request, seed=0)


# gradient reset


def test_alike_takes_the_least_differences_of_each_layer_or_of_all():
    retain = {"a": torch.tensor([[1.0, -2.0], [3.0, 4.0]]), "b": torch.tensor([10.0, 20.0])}
    forget = {"a": torch.tensor([[1.5, -2.0], [0.0, 0.0]]), "b": torch.tensor([11.0, 28.0])}
    # the differences are 0.5, 0, 3, 4 and 1, 8
    layer = alike(retain, forget, 0.5, "layer")
    assert layer["a"].tolist() == [[True, True], [False, False]]
    assert layer["b"].tolist() == [True, False]
    every = alike(retain, forget, 0.5, "global")
    assert every["a"].tolist() == [[True, True], [False, False]]
    assert every["b"].tolist() == [True, False]
    assert sum(int(m.sum()) for m in alike(retain, forget, 4 / 6, "global").values()) == 4
    assert not alike(retain, forget, 4 / 6, "global")["b"][1]


def test_smallest_counts_by_size_and_breaks_ties_by_position():
    chosen = smallest({"a": torch.tensor([3.0, -1.0, 1.0]), "b": torch.tensor([0.0, 1.0])}, 0.6)
    assert chosen["a"].tolist() == [False, True, True]
    assert chosen["b"].tolist() == [True, False]


def test_fresh_weights_are_torchs_he_normal_by_fan_out():
    weight = torch.empty(64, 32, 3, 3)
    expected = nn.init.kaiming_normal_(
        weight.clone(), mode="fan_out", nonlinearity="relu", generator=generator(4)
    )
    drawn = he_normal(weight, generator(4))
    torch.testing.assert_close(drawn, expected)
    assert float(drawn.std()) == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.02)


def gradients(model, x, y, *, training):
    model = copy.deepcopy(model)
    with mode(model, training=training, norms="update" if training else "freeze"):
        F.cross_entropy(model(x), y).backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_gradient_reset_redraws_by_the_gradients_and_damps_the_rest(scope):
    # More is forgotten than kept, so that the subset is all of the retain set.
    training = Training(descent=Descent(lr=0.05, epochs=3, batch_size=16))
    model = {"name": "convnet", "width": 4}
    posed = pose(images(4, 40), model, range(25), training=training)
    original, request = posed.train(0), posed.request

    def apply(lr):
        descent = Descent(lr=lr, epochs=1, schedule="triangle", stride="epoch", **WHOLE)
        return GradientReset(descent=descent, scope=scope)(original, request, seed=2).model

    start, out = apply(0.0), apply(0.3)
    kept, gone = (
        gradients(original, *whole(data)[:2], training=False)
        for data in (request.retain, request.forget)
    )
    names = [f"{k}.weight" for k, m in original.named_modules() if isinstance(m, nn.Conv2d)]
    before, after = dict(start.named_parameters()), dict(out.named_parameters())
    fall = gradients(start, *whole(request.retain)[:2], training=True)
    limits = {name: (kept[name] - gone[name]).abs() for name in names}
    redrawn = {name: before[name] != dict(original.named_parameters())[name] for name in names}
    groups = [names] if scope == "global" else [[name] for name in names]
    for group in groups:
        sizes = torch.cat([limits[name].flatten() for name in group])
        taken = torch.cat([redrawn[name].flatten() for name in group])
        assert taken.sum() == round(0.3 * len(taken))
        assert sizes[taken].max() <= sizes[~taken].min() * 1.001 + 1e-7
    for name, old in original.named_parameters():
        factor = torch.where(redrawn[name], 1.0, 0.1) if name in names else torch.ones_like(old)
        assert name in names or torch.equal(before[name], old)
        expected = before[name] - 0.3 * (factor * fall[name] + 0.1 * before[name])
        torch.testing.assert_close(after[name], expected, rtol=1e-4, atol=1e-6)


# divergence


def test_the_first_loss_is_torchs_divergence_from_uniform():
    logits = torch.randn(7, 5, generator=generator(0))
    uniform = torch.full_like(logits, 0.2)
    expected = F.kl_div(logits.log_softmax(-1), uniform, reduction="batchmean")
    torch.testing.assert_close(from_uniform(logits), expected)
    assert float(from_uniform(torch.full((3, 4), 2.5))) == pytest.approx(0, abs=1e-7)


def test_unlikeness_is_the_mean_over_pairs():
    forget, retain = (torch.randn(n, 4, generator=generator(n)) for n in (3, 5))
    total = 0.0
    for z in forget:
        weights = [math.exp(float(z @ other) / 1.15) for other in retain]
        total -= sum(math.log(w / sum(weights)) for w in weights) / len(retain)
    assert float(unlikeness(forget, retain, 1.15)) == pytest.approx(total / len(forget), rel=1e-5)
    assert float(unlikeness(torch.zeros(3, 4), retain, 1.15)) == pytest.approx(math.log(5))


def test_divergence_is_three_optimisers_in_turn():
    posed = pose({"name": "blobs", "classes": 4, "train": 40}, "linear", range(8))
    original, request = posed.train(0), posed.request
    method = Divergence(
        uniform=Descent(lr=0.2, epochs=1, batch_size=10_000),
        contrast=Descent(lr=0.1, epochs=1, schedule="cosine", batch_size=10_000),
        descent=Descent(lr=0.05, epochs=3, **WHOLE),
    )
    ours = method(original, request, seed=0).model
    theirs = copy.deepcopy(original)
    flatten, push, repair = (
        torch.optim.SGD(theirs.parameters(), lr, 0.9, weight_decay=decay)
        for lr, decay in ((0.2, 0.0), (0.1, 0.0), (0.05, 0.1))
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(push, 3)
    x_forget, x_retain = whole(request.forget).x, whole(request.retain).x

    def step(optimizer, loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    uniform = torch.full((8, 4), 0.25)
    log_p = theirs(x_forget).log_softmax(-1)
    step(flatten, F.kl_div(log_p, uniform, reduction="batchmean"))
    for _ in range(3):
        likeness = theirs(x_forget) @ theirs(x_retain).detach().T / 1.15
        step(push, -likeness.log_softmax(-1).mean())
        schedule.step()
        step(repair, F.cross_entropy(theirs(x_retain), whole(request.retain).y))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("forget", "retain"), [(3, 50), (7, 9), (19, 33), (6, 70), (64, 256)])
def test_divergence_counts_the_shorter_of_both_sides(blobs, forget, retain):
    method = Divergence(
        contrast=Descent(lr=1e-3, epochs=2, batch_size=forget),
        descent=Descent(lr=1e-3, epochs=2, batch_size=retain),
        norms="recalibrate",
    )
    counted = method(blobs.original, blobs.request, seed=0).cost
    foreseen = method.work(Sizes.of(blobs.request))
    assert (counted.forward, counted.backward) == (foreseen.forward, foreseen.backward)


def test_retained_batches_beside_differ_from_pass_to_pass(blobs):
    method = Divergence(contrast=Descent(batch_size=5), descent=Descent(batch_size=20))
    beside = method._beside(blobs.request, 0)
    first, second = ([next(beside).index for _ in range(4)] for _ in range(2))
    assert len(torch.cat(first).unique()) == sum(map(len, first))
    assert not torch.equal(torch.cat(first), torch.cat(second)[: sum(map(len, first))])


@pytest.mark.parametrize("name", ["deviation", "gradient_reset", "divergence"])
@pytest.mark.parametrize("budget", [5, 9, 20])
def test_presets_spend_the_comparisons_epochs(name, budget):
    method = registry.methods.build({"name": name, "preset": f"seed_paper_{budget}"})
    first = method.uniform.epochs if isinstance(method, Divergence) else 0
    assert first + method.descent.epochs == budget


# the starting kit's attack


def test_accuracy_by_split_is_sklearns_split_by_split():
    members = torch.rand(80, generator=generator(0)) * 0.7
    others = torch.rand(60, generator=generator(1))
    draws = generator(7, "balance")
    kept = [side[torch.randperm(len(side), generator=draws)[:60]] for side in (members, others)]
    losses, truth = torch.cat(kept).double().numpy()[:, None], np.array([1] * 60 + [0] * 60)
    splits = StratifiedShuffleSplit(10, test_size=0.1, random_state=7).split(losses, truth)
    expected = []
    for known, asked in splits:
        model = LogisticRegression().fit(losses[known], truth[known])
        expected.append(model.score(losses[asked], truth[asked]))
    assert accuracy_by_split(members, others, 7).tolist() == pytest.approx(expected)
    assert len(set(expected)) > 1


def test_accuracy_by_split_is_half_of_what_knows_nothing_and_one_of_what_knows_all():
    low, high = torch.zeros(400) + 0.01, torch.ones(300)
    wide = torch.randn(400, generator=generator(2))
    assert accuracy_by_split(low, high, 0).tolist() == [1.0] * 10
    assert float(accuracy_by_split(wide[:200], wide[200:], 0).mean()) == pytest.approx(0.5, abs=0.1)
    assert accuracy_by_split(low[:9], high, 0).isnan().all()
