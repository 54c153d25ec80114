"""Distillation, Rotate, pseudo-labels, pruning and their composition, against plain PyTorch."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from expunge import registry
from expunge.api import problem as pose
from expunge.bench.problem import Training
from expunge.bench.stages import unlearned
from expunge.core.descent import train
from expunge.core.head import last_linear
from expunge.core.layers import first_convolution, first_layer, redraw
from expunge.core.losses import PADDING
from expunge.core.rng import derive, fenced, generator
from expunge.data.tensors import TensorData
from expunge.method import Method, MethodCard, NotGranted, Sizes
from expunge.methods import pseudo_label
from expunge.methods.blend import Blend
from expunge.methods.distillation import Distillation
from expunge.methods.finetune import Finetune
from expunge.methods.gradient_ascent import GradientAscent
from expunge.methods.pruning import Pruning, class_weights, objective, prune
from expunge.methods.pseudo_label import PseudoLabel, select
from expunge.methods.random_label import RandomLabel
from expunge.methods.rotate import Rotate, transpose
from expunge.methods.sequence import Sequence
from expunge.models.resnet import ResNet
from expunge.types import Descent, Refused

LR = 0.3
STILL = Descent(lr=0.0, epochs=0)


def step(lr=LR):
    """One step over all records at once."""
    return Descent(lr=lr, epochs=1, batch_size=10_000, precision="fp32")


@pytest.fixture
def four():
    """A linear problem of four classes, and its original."""
    problem = pose(
        {"name": "blobs", "classes": 4, "train": 60},
        "linear",
        range(12),
        training=Training(descent=Descent(lr=0.1, epochs=3, batch_size=16)),
    )
    return problem, problem.train(0)


@pytest.fixture
def pictures(made):
    """Images, and a small convolutional network trained on them."""
    found = made["images"]
    return found.problem, copy.deepcopy(found.original)


def whole(data):
    return data.take(torch.arange(len(data)))


def assert_stepped(out, before: nn.Module, loss: Tensor):
    """The parameters are `before`'s after one plain step down its `loss`."""
    steps = torch.autograd.grad(loss, list(before.parameters()))
    for new, old, g in zip(out.parameters(), before.parameters(), steps, strict=True):
        torch.testing.assert_close(new, old - LR * g, rtol=1e-5, atol=1e-6)


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


# Layers


class Backwards(nn.Module):
    """Its layers run in another order than they are defined in."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.later = nn.Conv2d(4, 3, 3)
        self.norm = nn.BatchNorm2d(1)
        self.sooner = nn.Conv2d(1, 4, 3)

    def forward(self, x):
        return self.head(self.later(self.sooner(self.norm(x))).mean((2, 3)))


def test_first_and_last_are_those_that_run_first_and_last():
    net, x = Backwards(), torch.rand(1, 1, 8, 8)
    assert first_layer(net, x) == "sooner"
    assert list(first_convolution(net, x)) == ["sooner"]
    assert last_linear(net, x)[0] == "head"
    assert net.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@pytest.mark.parametrize(
    ("task", "names"),
    [("next_token", ("embed", "project")), ("denoising", ("condition", "body.4"))],
)
def test_first_and_last_are_found_on_every_task(made, task, names):
    request, net = made[task].request, made[task].original
    batch = next(request.recipe.ordered(request.retain, 2, generator(0)))
    assert (first_layer(net, batch.x), last_linear(net, batch.x)[0]) == names


def test_a_layer_drawn_anew_is_what_pytorch_would_make_and_the_others_stay():
    net = Backwards()
    before, state = copy.deepcopy(net), torch.get_rng_state()
    redraw(net, "later", 3)
    assert torch.equal(state, torch.get_rng_state())
    with fenced(derive(3, "redraw", "later")):
        fresh = nn.Conv2d(4, 3, 3)
    assert equal(fresh, net.later)
    before.later = fresh
    assert equal(before, net)


def test_a_layer_that_cannot_be_drawn_anew_is_named():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 2))

    with pytest.raises(Refused, match=r"layer 'own' .* `reset_parameters`"):
        redraw(nn.ModuleDict({"own": Own()}), "own", 0)


# Rotate


@torch.no_grad()
def resnet(stem):
    """A residual network whose BatchNorm has statistics of noise, and so lets it through."""
    with fenced(0):
        net = ResNet(width=8, stem=stem).build((3, 32, 32), 5)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = 1.0
    net.train()(torch.rand(16, 3, 32, 32, generator=generator(5)))
    return net.eval()


@pytest.mark.parametrize("stem", ["small", "large"])
def test_transposed_kernels_see_of_an_image_what_the_original_sees_of_the_transposed(stem):
    original = resnet(stem)
    rotated, x = copy.deepcopy(original), torch.rand(6, 3, 32, 32, generator=generator(1))
    transpose(rotated)
    expected = original(x.transpose(2, 3))
    torch.testing.assert_close(rotated(x), expected, rtol=1e-4, atol=1e-5)
    assert (original(x) - expected).abs().max() > 1e-2
    transpose(rotated)
    assert equal(rotated, original)


def test_rotate_is_fine_tuning_on_transposed_images(pictures):
    problem, original = pictures
    retain = problem.request.retain
    x, y, _ = whole(retain)
    turned = TensorData(x.transpose(2, 3).contiguous(), y, retain.index)
    request = dataclasses.replace(problem.request, retain=turned)
    descent = Descent(lr=0.05, epochs=2, batch_size=32, weight_decay=0.01, precision="fp32")
    rotated = Rotate(descent=descent)(original, problem.request, seed=4).model
    tuned = Finetune(descent=descent)(original, request, seed=4).model
    transpose(tuned)
    for a, b in zip(rotated.state_dict().values(), tuned.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_rotate_says_what_it_cannot_transpose(four):
    problem, original = four
    with pytest.raises(Refused, match="rotate is for networks with two-dimensional conv"):
        Rotate()(original, problem.request, seed=0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, (3, 1)))
    before = copy.deepcopy(net)
    with pytest.raises(Refused, match=r"got 3 x 1 in layer '1'"):
        transpose(net)
    assert equal(before, net)
    with pytest.raises(Refused, match="of 1 x 1"):
        transpose(nn.Sequential(nn.Conv2d(1, 2, 1)))


# Pruning


def test_what_is_pruned_is_what_pytorchs_global_pruning_zeroes():
    original = resnet("small")
    ours, theirs = copy.deepcopy(original), copy.deepcopy(original)
    count = prune(ours, 0.99, generator(1))
    layers = {k: m for k, m in theirs.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    numbers = [(m, k) for m in layers.values() for k, _ in m.named_parameters()]
    assert any(k == "bias" for _, k in numbers)
    torch_prune.global_unstructured(numbers, torch_prune.L1Unstructured, amount=0.99)
    total = 0
    for name, layer in layers.items():
        new, old = ours.get_submodule(name), original.get_submodule(name)
        kept = layer.weight_mask.bool()
        assert torch.equal(new.weight == old.weight, kept)
        total += int((~kept).sum())
        if old.bias is not None:
            assert torch.equal(new.bias, layer.bias)
            total += int((layer.bias_mask == 0).sum())
    assert total == count == round(0.99 * sum(getattr(m, k).numel() for m, k in numbers))
    for module, found in ours.named_modules():
        if isinstance(found, nn.BatchNorm2d):
            assert equal(found, original.get_submodule(module))


def test_pruned_weights_are_uniform_within_one_over_the_root_of_the_fan_in():
    layer = nn.Conv2d(8, 64, 5, groups=2)
    prune(layer, 1.0, generator(7))
    fan_in, _ = nn.init._calculate_fan_in_and_fan_out(layer.weight)
    assert fan_in == 8 // 2 * 5 * 5
    bound = 1 / math.sqrt(fan_in)
    weight = layer.weight.detach().flatten().sort().values
    assert weight.abs().max() <= bound
    uniform = torch.linspace(-bound, bound, len(weight))
    # Kolmogorov-Smirnov: 1.95 / √n is exceeded by chance once in a thousand times.
    assert (weight - uniform).abs().max() / (2 * bound) < 1.95 / math.sqrt(len(weight))
    assert not layer.bias.any()


def test_the_objective_is_weighted_cross_entropy_and_the_squared_gap_of_entropies():
    draws = generator(3)
    logits, original = (3 * torch.randn(2, 9, 4, generator=draws)).unbind()
    y = torch.tensor([0, 0, 0, 0, 0, 1, 1, 2, 2])
    weights = class_weights(y, 4, 0.1)
    np.testing.assert_allclose(weights[:3], np.array([5.0, 2.0, 2.0]) ** -0.1, rtol=1e-6)
    taught, gap = objective(logits, original, y, weights)
    each = -logits.log_softmax(1)[torch.arange(9), y]
    torch.testing.assert_close(taught, (weights[y] * each).sum() / weights[y].sum())
    entropies = [torch.distributions.Categorical(logits=z).entropy() for z in (logits, original)]
    torch.testing.assert_close(gap, F.mse_loss(*entropies))


def test_the_objective_on_tokens_counts_positions_and_leaves_out_padding():
    draws = generator(4)
    logits, original = torch.randn(2, 3, 5, 4, generator=draws).unbind()
    y = torch.randint(4, (3, 5), generator=draws)
    y[0, 2:] = PADDING
    weights = class_weights(y, 4, 0.5)
    asked = y != PADDING
    flat = objective(logits[asked], original[asked], y[asked], weights)
    torch.testing.assert_close(objective(logits, original, y, weights), flat)


def test_pruning_is_one_step_down_its_objective(four):
    problem, original = four
    method = Pruning(descent=step(), fraction=0.5, extra=0.0, half=False, strength=0.7)
    out = method(original, problem.request, seed=9).model
    start = copy.deepcopy(original)
    prune(start, 0.5, generator(9, "weights"))
    x, y, _ = whole(problem.request.retain)
    weights = torch.bincount(y, minlength=4) ** -0.1
    logits, before = start(x), original(x).detach()
    entropies = [torch.distributions.Categorical(logits=z).entropy() for z in (logits, before)]
    loss = F.cross_entropy(logits, y, weights) + 0.7 * F.mse_loss(*entropies)
    assert_stepped(out, start, loss)


def test_pruning_stops_after_a_fraction_of_an_epoch(pictures):
    problem, original = pictures
    descent = Descent(lr=1e-3, epochs=3, batch_size=16)
    loader = torch.utils.data.DataLoader(range(len(problem.request.retain)), batch_size=16)
    steps = int(3.2 * len(loader))
    cost = Pruning(descent=descent)(original, problem.request, seed=0).cost
    assert cost.backward == 3 * len(loader.dataset) + 16 * (steps - 3 * len(loader))
    assert cost.forward == 2 * cost.backward


def test_pruning_rounds_to_half_precision_as_a_module_does(pictures):
    problem, original = pictures
    descent = Descent(lr=0.01, epochs=1, batch_size=32)
    exact = Pruning(descent=descent, half=False)(original, problem.request, seed=0).model
    rounded = Pruning(descent=descent)(original, problem.request, seed=0).model
    assert not equal(exact, rounded)
    assert equal(exact.half().float(), rounded)


# Distillation


def student_of(original: nn.Module, seed: int) -> nn.Module:
    """The linear network with its only layer drawn anew by PyTorch itself."""
    student = copy.deepcopy(original)
    (name,) = (k for k, m in student.named_modules() if isinstance(m, nn.Linear))
    old = student.get_submodule(name)
    with fenced(derive(seed, "redraw", name)):
        fresh = nn.Linear(old.in_features, old.out_features)
    old.load_state_dict(fresh.state_dict())
    return student


def test_distillation_fine_tunes_on_labels_soft_labels_and_divergence(four):
    problem, original = four
    out = Distillation(descent=step(), warmup=STILL)(original, problem.request, seed=2).model
    student = student_of(original, 2)
    x, y, _ = whole(problem.request.retain)
    soft = (original(x).detach() / 5).softmax(1)
    logits = student(x)
    divergence = F.kl_div((logits / 5).log_softmax(1), soft, reduction="batchmean")
    loss = F.cross_entropy(logits, y) + F.cross_entropy(logits / 5, soft) + divergence
    assert_stepped(out, student, loss)


def test_distillation_warms_up_on_the_validation_set_without_its_labels(four):
    problem, original = four
    assert len(problem.request.val)
    method = Distillation(descent=STILL, warmup=step(), temperature=2.0)
    out = method(original, problem.request, seed=2).model
    student = student_of(original, 2)
    x, _, _ = whole(problem.request.val)
    soft = (original(x).detach() / 2).softmax(1)
    loss = F.kl_div((student(x) / 2).log_softmax(1), soft, reduction="batchmean")
    assert_stepped(out, student, loss)


def test_distillation_draws_the_first_and_the_last_layer_anew_and_no_other(pictures):
    problem, original = pictures
    out = Distillation(descent=STILL, warmup=STILL)(original, problem.request, seed=0).model
    before, after = original.state_dict(), out.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    convolution = next(k for k, m in original.named_modules() if isinstance(m, nn.Conv2d))
    linear = next(k for k, m in original.named_modules() if isinstance(m, nn.Linear))
    assert changed == {f"{convolution}.weight", f"{linear}.weight", f"{linear}.bias"}


def test_distillation_without_validation_records_says_so(four):
    problem, original = four
    empty = problem.request.val.select(torch.arange(0))
    request = dataclasses.replace(problem.request, val=empty)
    with pytest.raises(Refused, match="validation records for distillation"):
        Distillation()(original, request, seed=0)
    Distillation(descent=step(), warmup=STILL)(original, request, seed=0)


# Pseudo-labels


def logits(rows):
    """Logits of class k, sure where it is written as k and unsure where as k + 0.5."""
    out = torch.zeros(len(rows), 4)
    for i, row in enumerate(rows):
        out[i, int(row)] = 9.0 if row == int(row) else 0.5
    return out


# True label, answers of the original, the fine-tuned and the network from scratch, and the
# labels expected: by fine-tuning and by the network from scratch, and in the comparison.
RECORDS = [
    (0, 0, 0, 0, PADDING, PADDING, 0),  # nothing moved, nobody is wrong
    (0, 0, 1, 0, 1, PADDING, 1),  # fine-tuning moved it
    (0, 2, 1, 0, PADDING, PADDING, 1),  # it was wrong before: no move in the wrong direction
    (0, 0, 0, 3, PADDING, 3, 3),  # surely wrong when unseen
    (0, 0, 0, 3.5, PADDING, PADDING, 0),  # wrong when unseen, but unsure
    (0, 0, 1, 3, 1, 3, 1),  # both, two labels
    (0, 0, 1, 1, 1, PADDING, 1),  # both, one label
    (PADDING, 0, 1, 1, PADDING, PADDING, PADDING),  # no answer is wanted
]


def test_pseudo_labels_of_a_table_of_answers():
    y, original, tuned, scratch, by_tuning, by_scratch, compared = zip(*RECORDS, strict=True)
    answers = (logits(original), logits(tuned), logits(scratch))
    table = [torch.tensor(column) for column in (by_tuning, by_scratch, compared)]
    assert torch.equal(select("original", torch.tensor(y), answers, 0.5), torch.stack(table[:2]))
    assert torch.equal(select("seed_paper", torch.tensor(y), answers, 0.5), table[2][None])


def test_the_threshold_is_an_entropy_in_nats():
    scratch = torch.tensor([[1.0, 3.0, 0.0, -1.0]])
    entropy = torch.distributions.Categorical(logits=scratch).entropy().item()
    for threshold, label in ((entropy + 1e-4, 1), (entropy - 1e-4, PADDING)):
        found = pseudo_label.unseen(torch.tensor([0]), scratch, threshold)
        assert found.item() == label


def test_pseudo_labels_are_one_step_down_the_loss_of_those_that_have_one(four):
    problem, original = four
    forget = problem.request.forget
    labels = torch.full((2, len(forget)), PADDING)
    labels[0, :3] = torch.tensor([1, 2, 3])
    labels[1, 2] = 0

    class Labelled(PseudoLabel):
        def label(self, model, request, seed):
            return labels

    out = Labelled(descent=STILL, pseudo=step())(original, problem.request, seed=0).model
    x, _, _ = whole(forget)
    pairs = x[[0, 1, 2, 2]], torch.tensor([1, 2, 3, 0])
    loss = F.cross_entropy(original(pairs[0]), pairs[1], reduction="sum") / len(forget)
    assert_stepped(out, original, loss)


def test_pseudo_labels_come_from_the_original_a_fine_tuned_and_a_new_network(four, monkeypatch):
    problem, original = four
    asked = []

    def spy(selection, y, answers, threshold):
        asked.extend(answers)
        return select(selection, y, answers, threshold)

    monkeypatch.setattr(pseudo_label, "select", spy)
    method = PseudoLabel(descent=STILL, pseudo=STILL, tuning=step(), scratch=2)
    method(original, problem.request, seed=6)
    recipe = problem.recipe
    short = dataclasses.replace(recipe, descent=dataclasses.replace(recipe.descent, epochs=2))
    x, _, _ = whole(problem.request.forget)
    tuned = Finetune(descent=step())(original, problem.request, seed=0).model
    scratch = train(short, problem.request.retain, derive(6, "scratch"))
    for found, network in zip(asked, (original, tuned, scratch), strict=True):
        torch.testing.assert_close(found, network(x).detach())


def test_the_last_layer_may_be_drawn_anew_before_it_is_taught(four):
    problem, original = four
    method = PseudoLabel(descent=STILL, pseudo=STILL, redraw_head=True)
    assert equal(method(original, problem.request, seed=1).model, student_of(original, 1))


@pytest.mark.parametrize(
    "method",
    [
        Distillation(descent=step(), warmup=step()),
        Pruning(descent=step(), half=False),
        PseudoLabel(descent=STILL, pseudo=step(), selection="seed_paper"),
    ],
    ids=lambda m: m.card.name,
)
def test_the_original_teaches_in_eval_mode_however_it_was_left(pictures, method):
    problem, original = pictures
    expected = method(original, problem.request, seed=0).model
    assert equal(expected, method(original.train(), problem.request, seed=0).model)


# Composition


def test_a_sequence_is_its_methods_one_after_the_other(four):
    problem, original = four
    first, second = RandomLabel(), Finetune(norms="freeze")
    out = Sequence(methods=(first, second))(original, problem.request, seed=3)
    half = first(original, problem.request, seed=derive(3, "part", 0))
    rest = second(half.model, problem.request, seed=derive(3, "part", 1))
    assert equal(out.model, rest.model)
    assert out.cost.passes == (half.cost + rest.cost).passes
    assert [part["method"] for part in out.notes["parts"]] == ["random_label", "finetune"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Peeking(Method):
    card = MethodCard(name="peeking", needs=("original",), norms="", null=None)

    def unlearn(self, model, request, seed):
        _ = request.val.y
        return model

    def work(self, sizes):
        raise AssertionError


def test_a_part_reads_what_its_own_card_names_though_another_reads_more(four):
    problem, original = four
    warmed = Distillation(descent=step())
    assert Sequence(methods=(warmed, Rotate())).needs == ("original", "retain", "val")
    with pytest.raises(NotGranted, match=r"peeking reads request\.val"):
        Sequence(methods=(warmed, Peeking()))(original, problem.request, seed=0)


def test_a_stage_depends_on_what_the_parts_read(four):
    problem, _ = four
    sequence = Sequence(methods=(RandomLabel(), Finetune()))
    assert set(unlearned(problem, sequence, 0).about["data"]) == {"forget", "retain"}


class OwnTraining(Finetune):
    card = dataclasses.replace(Finetune.card, name="own_training")

    def train(self, recipe, data, seed):
        return train(recipe, data, seed), {}


@pytest.mark.parametrize(
    ("part", "why"),
    [(Rotate(), "rotate is for networks with"), (OwnTraining(), "own_training cannot be part")],
)
def test_what_a_part_is_not_for_the_whole_refuses_before_work(four, part, why):
    problem, original = four
    seen = []
    request = dataclasses.replace(problem.request, watch=lambda *_: seen.append(1))
    for whole_method in (Sequence(methods=(Finetune(), part)), Blend(methods=(part, part))):
        with pytest.raises(ValueError, match=why):
            whole_method(original, request, seed=0)
    assert not seen


def test_a_blend_chooses_by_the_seed_with_its_shares():
    blend = Blend(methods=(Finetune(), Rotate(), PseudoLabel()), shares=(512.0, 246.0, 266.0))
    chosen = [blend.choose(seed).card.name for seed in range(3000)]
    for name, share in (("rotate", 246), ("pseudo_label", 266), ("finetune", 512)):
        p = share / 1024
        error = abs(chosen.count(name) / 3000 - p)
        assert error < 3.3 * math.sqrt(p * (1 - p) / 3000)  # once in a thousand times by chance


def test_a_blend_is_the_method_chosen_and_is_priced_at_the_mean(four):
    problem, original = four
    blend = Blend(methods=(Finetune(), GradientAscent()), shares=(3.0, 1.0))
    costs = {}
    for seed in range(6):
        method = blend.choose(seed)
        out = blend(original, problem.request, seed=seed)
        alone = method(original, problem.request, seed=derive(seed, "chosen"))
        assert equal(out.model, alone.model)
        costs[method.card.name] = out.cost.backward
    assert len(costs) == 2
    mean = 0.75 * costs["finetune"] + 0.25 * costs["gradient_ascent"]
    assert blend.work(Sizes.of(problem.request)).backward == round(mean)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"methods": ()}, "expected methods"),
        ({"methods": (Finetune(),), "shares": (1.0, 1.0)}, "one share for each of 1 methods"),
        ({"methods": (Finetune(), Rotate()), "shares": (1.0, -1.0)}, "shares above 0"),
    ],
)
def test_a_blend_refuses_shares_that_are_none(settings, why):
    with pytest.raises(ValueError, match=why):
        Blend(**settings)


@pytest.mark.parametrize("name", ["distillation", "rotate", "pseudo_label", "pruning"])
@pytest.mark.parametrize("epochs", [5, 9, 20])
def test_the_comparisons_budgets_are_epochs_over_the_retain_set(name, epochs):
    method = registry.methods.build({"name": name, "preset": f"seed_paper_{epochs}"})
    sizes = Sizes(retain=1000, forget=0, val=0, nonmembers=0, epochs=0)
    other = registry.methods.build(
        {"name": name, "preset": f"seed_paper_{epochs}", "descent": {"epochs": 0}}
    )
    assert method.work(sizes).backward - other.work(sizes).backward == 1000 * epochs
