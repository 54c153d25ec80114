"""Every audit against another library, a closed form, or a model whose truth is known."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, roc_auc_score
from torch import nn

from expunge.audit import Answer, Case, Finding, contrast
from expunge.audits.accuracy import Accuracy
from expunge.audits.cost import CostAudit
from expunge.audits.loss_attack import LossAttack, attack
from expunge.audits.output_divergence import OutputDivergence
from expunge.audits.weight_distance import WeightDistance
from expunge.core.cost import Cost
from expunge.core.losses import PADDING
from expunge.core.rng import generator
from expunge.data.tensors import TensorData
from expunge.stats import by_class, confusion
from expunge.subject import Refused, Served, WhiteBox
from expunge.tasks.categorical import NextToken
from expunge.types import Data
from expunge.verdict import decide


def whole(data: Data):
    return data.take(torch.arange(len(data)))


@pytest.fixture
def case(blobs) -> Case:
    box = WhiteBox(blobs.original)
    return Case(original=box, unlearned=box, request=blobs.request, test=blobs.test)


# accuracy


def test_accuracy_is_the_share_of_right_answers(case, blobs):
    values = Accuracy()(case, seed=0).unlearned.values
    for name, data in (("forget", blobs.request.forget), ("test", blobs.test)):
        x, y, _ = whole(data)
        assert values[name] == pytest.approx((blobs.original(x).argmax(1) == y).double().mean())
    assert values["forget/val"] == pytest.approx(values["forget"] / values["val"])


def test_confusion_is_sklearns_and_class_accuracies_are_its_diagonal():
    rng = generator(0)
    y, said = torch.randint(4, (2, 200), generator=rng)
    y[y == 2] = 1  # a class without records has no accuracy
    truth = confusion_matrix(y.numpy(), said.numpy(), labels=range(4))
    assert np.array_equal(confusion(said, y, 4).numpy(), truth)
    got = by_class(confusion(said, y, 4))
    assert got[0] == (said[y == 0] == 0).double().mean()
    assert got[2].isnan()


def test_accuracy_attains_its_bounds(case):
    classes = case.request.task.outputs

    def truth(x):  # blobs lie around the corners; a lookup by content knows every answer
        return torch.stack([answers[tuple(r)] for r in x.tolist()])

    everything = (case.request.forget, case.request.retain, case.request.val, case.test)
    answers = {
        tuple(r): nn.functional.one_hot(k, classes).float()
        for data in everything
        for r, k in zip(*(p.tolist() if p.dim() > 1 else p for p in whole(data)[:2]), strict=True)
    }
    right = dataclasses.replace(case, unlearned=Served(truth))
    wrong = dataclasses.replace(case, unlearned=Served(lambda x: truth(x).roll(1, -1)))
    assert set(Accuracy()(right, seed=0).unlearned.values.values()) == {1.0}
    values = Accuracy()(wrong, seed=0).unlearned.values
    assert values["forget"] == values["test"] == 0
    assert math.isnan(values["forget/val"])


# loss attack


def test_the_attack_turns_the_signal_the_way_that_tells_members():
    rng = generator(0)
    member = torch.arange(400) < 200
    signal = torch.randn(400, generator=rng).double() + 3 * member
    for sign in (1, -1):  # members lie higher, then lower: an attacker learns which
        found = attack(sign * signal, member, 5, seed=0)
        truth = roc_auc_score(member.numpy(), signal.numpy())
        assert roc_auc_score(member.numpy(), found.scores.numpy()) == pytest.approx(truth)
        assert found.risk[member].mean() > 0.8 > 0.2 > found.risk[~member].mean()


def test_the_attack_on_noise_is_at_chance():
    aucs = []
    for seed in range(40):
        rng = generator(seed)
        member = torch.rand(200, generator=rng) < 0.5
        found = attack(torch.randn(200, generator=rng), member, 5, seed)
        folds = [found.fold == k for k in range(5)]
        aucs.append(
            np.mean([roc_auc_score(member[f].numpy(), found.scores[f].numpy()) for f in folds])
        )
    assert np.mean(aucs) == pytest.approx(0.5, abs=0.02)


def test_each_fold_is_tried_by_a_model_that_did_not_see_it():
    member = torch.arange(100) < 50
    found = attack(torch.arange(100.0), member, 5, seed=0)
    assert torch.bincount(found.fold).tolist() == [20] * 5
    for k in range(5):
        assert member[found.fold == k].sum() == 10


def test_a_memorised_set_is_found(case):
    x, y, _ = whole(case.request.forget)
    learned = {tuple(r): k for r, k in zip(x.tolist(), y.tolist(), strict=True)}

    def respond(x):
        p = case.original.outputs(x).softmax(-1).clamp(1e-3, 0.99)
        for row, record in enumerate(x.tolist()):
            if tuple(record) in learned:
                p[row] = 1e-6
                p[row, learned[tuple(record)]] = 1
        return p / p.sum(-1, keepdim=True)

    finding = LossAttack(folds=2)(dataclasses.replace(case, unlearned=Served(respond)), seed=0)
    assert finding.unlearned.headline > 0.95
    assert finding.unlearned.null.excludes(finding.unlearned.headline)


def test_forgetting_too_much_shows_just_as_well(case):
    answers = {tuple(r) for r in whole(case.request.forget).x.tolist()}

    def respond(x):  # on forget records the answer is turned upside down
        known = torch.tensor([tuple(r) in answers for r in x.tolist()])
        p = case.original.outputs(x).softmax(-1)
        return torch.where(known[:, None], (1 - p) / (1 - p).sum(-1, keepdim=True), p)

    finding = LossAttack(folds=2)(dataclasses.replace(case, unlearned=Served(respond)), seed=0)
    assert finding.unlearned.headline > 0.8


def test_risk_and_index_are_of_the_forget_records(case):
    arrays = LossAttack(folds=2)(case, seed=0).unlearned.arrays
    assert torch.equal(arrays["index"], case.request.forget.index)
    assert len(arrays["risk"]) == len(case.request.forget)
    assert ((arrays["risk"] >= 0) & (arrays["risk"] <= 1)).all()


def test_too_few_records_are_refused(case):
    with pytest.raises(Refused, match="lower `folds`"):
        LossAttack(folds=15)(case, seed=0)


def test_nonmembers_have_the_forget_sets_mix_of_classes(blobs):
    zeros = (blobs.request.forget.y == 0).nonzero()[:, 0]
    request = dataclasses.replace(blobs.request, forget=blobs.request.forget.select(zeros))
    box = WhiteBox(blobs.original)
    case = Case(original=box, unlearned=box, request=request, test=blobs.test)
    assert set(case.nonmembers.y.tolist()) == {0}


# output divergence


def test_divergence_is_scipys_mean_over_retrained_models(case):
    from scipy.spatial.distance import jensenshannon

    nets = [nn.Linear(6, 6) for _ in range(4)]
    with torch.no_grad():
        for net in nets:
            net.weight.normal_(generator=generator(1))
    x = whole(case.request.forget).x
    p = [net(x).softmax(-1).detach().double().numpy() for net in nets]
    boxes = tuple(map(WhiteBox, nets))
    full = dataclasses.replace(case, unlearned=boxes[3], retrained=boxes[:3])
    truth = np.mean(
        [jensenshannon(a, b) ** 2 for other in p[:3] for a, b in zip(p[3], other, strict=True)]
    )
    finding = OutputDivergence()(full, seed=0)
    assert finding.unlearned.values["js_forget"] == pytest.approx(truth, rel=1e-4)
    own = np.mean(
        [jensenshannon(a, b) ** 2 for other in p[1:3] for a, b in zip(p[0], other, strict=True)]
    )
    assert finding.retrained[0].values["js_forget"] == pytest.approx(own, rel=1e-4)


def test_kl_is_from_the_retrained_model(case):
    net = nn.Linear(6, 6)
    full = dataclasses.replace(case, retrained=(WhiteBox(net),))
    x = whole(case.request.forget).x
    theirs, mine = net(x).log_softmax(-1), case.original.outputs(x).log_softmax(-1)
    truth = (theirs.exp() * (theirs - mine)).sum(-1).mean().item()
    values = OutputDivergence()(full, seed=0).unlearned.values
    assert values["kl_forget"] == pytest.approx(truth, rel=1e-4)


# weight distance


def test_weight_distance_covers_parameters_and_buffers(case):
    moved = copy.deepcopy(case.original.model)
    with torch.no_grad():
        next(moved.parameters()).view(-1)[0] += 3.0
        next(b for b in moved.buffers() if b.is_floating_point() and b.numel() > 1)[0] += 4.0
    full = dataclasses.replace(case, unlearned=WhiteBox(moved), retrained=(case.original,))
    values = WeightDistance()(full, seed=0).unlearned.values
    assert values["parameters"] == pytest.approx(3, abs=1e-5)
    assert values["buffers"] == pytest.approx(4, abs=1e-5)
    assert values["l2"] == pytest.approx(5, abs=1e-5)
    assert values["to_nearest_retrained"] == pytest.approx(5, abs=1e-5)


# cost


def test_cost_is_a_share_of_retraining(case):
    samples = len(case.request.retain) * case.request.recipe.descent.epochs
    cheap = WhiteBox(case.original.model, cost=Cost(samples // 2, samples // 2, 2.0, 7))
    again = WhiteBox(case.original.model, cost=Cost(samples, samples, 8.0, 7))
    full = dataclasses.replace(case, unlearned=cheap, retrained=(again, again))
    finding = CostAudit()(full, seed=0)
    assert finding.unlearned.values["of_retraining"] == pytest.approx(0.5, rel=0.01)
    assert finding.retrained[0].values["of_retraining"] == 1
    assert finding.measured["unlearned"]["seconds_of_retraining"] == 0.25


# findings and verdicts


def answered(*values: float) -> Answer:
    return Answer(values={"value": values[0]})


def judged(unlearned, original, retrained, audit=None) -> Finding:
    return Finding(
        audit=audit or LossAttack(),
        case=object.__new__(Case),  # a finding's numbers do not look at it
        unlearned=answered(unlearned),
        original=answered(original),
        retrained=tuple(map(answered, retrained)),
    )


CLEAN = (0.49, 0.5, 0.51)


@pytest.mark.parametrize(
    ("unlearned", "original", "verdict", "kind"),
    [
        (0.9, 0.9, "leaks", "leaks"),
        (0.5, 0.9, "like retraining", "forgotten"),
        (0.1, 0.9, "overshoots", "over-unlearned"),
        (0.9, 0.51, "cannot tell", "cannot tell"),
    ],
)
def test_verdicts_of_models_whose_truth_is_known(unlearned, original, verdict, kind):
    finding = judged(unlearned, original, CLEAN)
    assert finding.verdict == verdict
    assert decide([finding]).kind == kind


def test_one_leak_outweighs_any_number_of_clean_audits():
    clean, leak = judged(0.5, 0.9, CLEAN), judged(0.9, 0.9, CLEAN)
    assert decide([clean, clean, leak]).kind == "leaks"
    assert decide([clean, judged(0.1, 0.9, CLEAN)]).kind == "over-unlearned"
    assert decide([]).kind == "cannot tell"


def test_what_does_not_decide_says_so():
    finding = judged(9.0, 0.0, (4.0, 4.1, 3.9), WeightDistance())
    assert finding.verdict == "unlike retraining"
    assert decide([finding]).kind == "cannot tell"
    assert judged(0.1, 1.0, (1.0, 1.0), CostAudit()).verdict == "measured"


@pytest.mark.parametrize(("unlearned", "verdict"), [(0.4, "leaks"), (0.9, "overshoots")])
def test_farther_from_retraining_than_the_original_is_no_failure_to_move(unlearned, verdict):
    finding = judged(unlearned, 0.5, (0.01, 0.012, 0.011), OutputDivergence())
    assert finding.verdict == verdict


def test_the_floor_of_compared_answers_is_that_of_a_stranger():
    """Simulate distances d_ij = 1 + a_i + a_j: the floor must hold a stranger at 95 %."""
    rng, k, outside = np.random.default_rng(0), 4, 0
    for _ in range(2000):
        a = rng.normal(0, 0.1, k + 1)
        controls = [1 + a[i] + np.mean([a[j] for j in range(k) if j != i]) for i in range(k)]
        stranger = 1 + a[k] + a[:k].mean()
        finding = judged(stranger, 9.0, controls, OutputDivergence())
        outside += abs(stranger - np.mean(controls)) > finding.floor
    assert 0.03 < outside / 2000 < 0.07


def test_two_compared_answers_have_no_floor():
    assert judged(1.0, 9.0, (1.0, 1.0), OutputDivergence()).floor is None


def test_a_gap_is_the_difference_of_headlines_on_the_same_records():
    records = torch.randn(50, generator=generator(0)).double()

    def mean(x):
        return {"mean": x.mean(-1)}

    one, other = Answer.over(mean, records + 1), Answer.over(mean, records)
    gap = contrast(one, (other, other))
    assert gap.value == pytest.approx(1)
    assert gap.low == pytest.approx(1)


def test_places_that_are_not_asked_for_are_neither_right_nor_wrong():
    class Echo(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.one_hot(x, 5).float()

    x = torch.tensor([[1, 2, 3], [4, 0, 1], [2, 2, 2]])
    y = torch.tensor([[PADDING, 2, PADDING], [4, 1, 1], [PADDING, 3, 3]])
    task = NextToken(classes=5)
    found = WhiteBox(Echo()).right(TensorData(x, y), task)
    assert found.tolist() == pytest.approx([1.0, 2 / 3, 0.0])
    nothing = TensorData(x, torch.full_like(y, PADDING))
    with pytest.raises(Refused, match="no place of 3 of 3 records is asked for"):
        WhiteBox(Echo()).right(nothing, task)
