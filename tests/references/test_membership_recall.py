"""The recall attack: its parts by hand, and attacks whose outcome is known."""

import copy
import dataclasses

import pytest
import torch
from safetensors.torch import save_file
from scipy import stats as scipy_stats
from torch import nn

from expunge import registry
from expunge.api import problem as pose
from expunge.audit import Case
from expunge.audits.membership_recall import (
    Attack,
    MembershipRecall,
    beta,
    mixed,
    smoothed,
    surest,
)
from expunge.core.cost import metered
from expunge.core.rng import generator
from expunge.data.relabelled import Relabelled
from expunge.lab import Lab, Memory
from expunge.models.mlp import MLP
from expunge.subject import Access, Refused, Served, Table, WhiteBox

FAST = {"student_lr": 3e-3, "teacher_lr": 1e-3, "batch_size": 64}


@pytest.fixture(scope="module")
def case() -> Case:
    """Blobs of three classes, of one of which half is to be forgotten."""
    problem = pose(
        {"name": "blobs", "classes": 3, "train": 150, "distance": 4.0},
        {"name": "mlp", "hidden": [16]},
        {"name": "class", "classes": [1], "fraction": 0.5},
    )
    lab = Lab(request=problem.request, seed=0)
    original = WhiteBox(problem.train(0))
    return Case(
        original=original,
        unlearned=original,
        retrained=lab.retrained(2),
        request=problem.request,
        test=problem.test,
        lab=lab,
    )


class Blind(nn.Module):
    """Knows every class but one, to which it gives nearly nothing: a clumsy unlearner."""

    def __init__(self, network: nn.Module, hidden: int, amount: float) -> None:
        super().__init__()
        self.network, self.hidden, self.amount = network, hidden, amount

    def forward(self, x):
        logits = self.network(x)
        away = torch.zeros_like(logits)
        away[:, self.hidden] = self.amount
        return logits - away


def test_smoothing_is_the_papers_equation_and_leaves_its_argument():
    p = torch.tensor([[1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])
    before = p.clone()
    got = smoothed(p, 0.1)
    expected = torch.tensor([[1.1, 0.1, 0.1], [0.3, 0.4, 0.6]]) / 1.3
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(got.sum(1), torch.ones(2))
    assert torch.equal(p, before)


def test_the_surest_are_found_by_hand():
    joint = torch.tensor([[0.9, 0.1], [0.8, 0.7], [0.3, 0.6], [0.2, 0.5]])
    rows, classes = surest(joint, 2)
    assert classes.tolist() == [0, 0, 1, 1]
    assert rows.tolist() == [0, 1, 1, 2]  # the second stands for both classes
    rows, classes = surest(joint, 2, exclusive=True)
    assert sorted(zip(rows.tolist(), classes.tolist(), strict=True)) == [
        (0, 0),
        (1, 0),
        (2, 1),
        (3, 1),
    ]
    rows, classes = surest(joint, 9)
    assert len(rows) == 8  # no more of a class than there are records


def test_an_exclusive_choice_may_lack_a_class_but_never_repeats_a_record():
    joint = torch.tensor([[0.9, 0.1], [0.8, 0.7], [0.7, 0.6]])
    rows, classes = surest(joint, 2, exclusive=True)
    assert classes.tolist() == [0, 0]
    assert rows.tolist() == [0, 1]


@pytest.mark.parametrize("alpha", [0.2, 0.75, 3.0])
def test_shares_are_drawn_from_the_beta_distribution(alpha):
    draws = beta(alpha, 4000, generator(0, "beta"))
    assert scipy_stats.kstest(draws.numpy(), "beta", args=(alpha, alpha)).pvalue > 1e-3


def test_mixing_blends_two_records_and_keeps_more_of_the_first():
    x = torch.eye(8)
    got = mixed(x, 0.5, generator(3, "mix"))
    torch.testing.assert_close(got.sum(1), torch.ones(8))
    assert (got.diag() >= 0.5).all()
    assert ((got > 0).sum(1) <= 2).all()
    assert (got.diag() < 1).any()


def test_relabelled_records_keep_their_content_and_positions(case):
    data, y = case.test, torch.arange(len(case.test)) % 3
    new = Relabelled(data, y)
    rows = torch.tensor([4, 1, 4])
    assert torch.equal(new.take(rows).x, data.take(rows).x)
    assert torch.equal(new.take(rows).y, y[rows])
    assert torch.equal(new.select(rows).y, y[rows])
    assert torch.equal(new.join(data).y, torch.cat([y, data.y]))
    assert new.digest != data.digest
    with pytest.raises(ValueError, match="one per record"):
        Relabelled(data, y[:3])


def test_the_closed_case_leaves_the_teacher_and_the_open_case_leaves_the_subject(case):
    for reach in ("closed", "open"):
        before = {k: v.clone() for k, v in case.original.model.state_dict().items()}
        attack = Attack(
            MembershipRecall(case=reach, rounds=1, **FAST),
            case.original,
            case.test,
            case.request.recipe,
        )
        attack.run()
        assert all(torch.equal(before[k], v) for k, v in case.original.model.state_dict().items())
        same = attack.teacher is case.original
        assert same == (reach == "closed")


def test_a_perfect_teacher_is_recalled_from(case):
    """Nothing is lost by learning from a teacher that is always right."""
    y = {tuple(x.tolist()): int(y) for x, y in _pairs(case)}

    def respond(x):
        right = torch.tensor([y[tuple(row.tolist())] for row in x])
        return torch.nn.functional.one_hot(right, 3).float() * 0.9 + 0.1 / 3

    audit = MembershipRecall(mixup=0.0, tau=0.5, student_lr=1e-2, batch_size=64)
    finding = audit(dataclasses.replace(case, unlearned=Served(respond)), seed=0)
    assert finding.unlearned.values["before_forget"] == 1.0
    assert finding.unlearned.headline >= 0.95


def test_a_class_that_is_suppressed_comes_back_and_is_a_gain(case):
    blind = WhiteBox(Blind(case.original.model, hidden=1, amount=30.0).eval())
    audit = MembershipRecall(tau=0.6, **FAST)
    finding = audit(dataclasses.replace(case, unlearned=blind), seed=0)
    values = finding.unlearned.values
    assert values["before_forget"] < 0.2
    assert values["gain_forget"] > 0.5
    assert values["gain_forget"] == pytest.approx(
        values["after_forget"] - values["before_forget"], abs=1e-12
    )


def test_both_controls_are_there(case):
    finding = MembershipRecall(rounds=1, **FAST)(case, seed=0)
    assert len(finding.retrained) == 2
    for answer in (finding.unlearned, finding.original, *finding.retrained):
        assert {"renormed_forget", "renormed_test"} <= answer.values.keys()
        assert answer.null is not None


def test_new_statistics_alone_are_what_the_control_measures(case):
    """Spoilt BatchNorm statistics are all that is wrong: the control repairs them."""
    spoilt = WhiteBox(_spoilt(case.original.model))
    finding = MembershipRecall(rounds=1, **FAST)(
        dataclasses.replace(case, unlearned=spoilt), seed=0
    )
    values = finding.unlearned.values
    assert values["before_test"] < 0.6
    assert values["renormed_test"] > 0.9


def test_confusions_and_labels_agree_with_the_numbers(case):
    answer = MembershipRecall(rounds=1, **FAST)(case, seed=0).unlearned
    y, said = case.request.forget.y, answer.arrays["after"]
    matrix = torch.zeros(3, 3, dtype=torch.long)
    for right, label in zip(y.tolist(), said.tolist(), strict=True):
        matrix[right, label] += 1
    assert torch.equal(answer.arrays["confusion_after_forget"], matrix)
    assert answer.headline == pytest.approx(float(matrix.diag().sum()) / len(y))
    assert answer.arrays["confusion_after_test"].sum() == len(case.test)


def test_the_teacher_is_asked_no_more_than_it_must_be(case):
    """Its answers change only when it is trained, which in the closed case is never."""
    asked = []

    def respond(x):
        asked.append(len(x))
        return case.original.outputs(x).softmax(1)

    audit = MembershipRecall(rounds=2, distil_epochs=3, recalls=4, batch_size=64)
    data, recipe = case.test, case.request.recipe
    Attack(audit, Served(respond), data, recipe).run()
    looks = 2  # for its labels, and for the sure images
    assert sum(asked) == len(data) * (2 * 3 + looks)


@pytest.mark.parametrize("reach", ["distilled", "closed", "open"])
def test_the_foreseen_work_is_the_work_that_is_counted(case, reach):
    audit = MembershipRecall(case=reach, rounds=2, recalls=3, distil_epochs=2, **FAST)
    foreseen = audit.work(case.request, case.test)
    with metered() as bill:
        audit.ask(case.original, dataclasses.replace(case, lab=None), 0)
    assert (foreseen.forward, foreseen.backward) == (bill.cost.forward, bill.cost.backward)


def test_the_answer_is_kept_by_content(case):
    calls = []

    class Counting(Memory):
        def put(self, about, tensors):
            calls.append(about)
            super().put(about, tensors)

    lab = dataclasses.replace(case.lab, shelf=Counting())
    stored = dataclasses.replace(case, lab=lab)
    audit = MembershipRecall(rounds=1, **FAST)
    first = audit(stored, seed=0)
    # The unlearned model is the original: one attack serves both.
    assert len(calls) == 3
    again = audit(stored, seed=0)
    assert len(calls) == 3
    assert first.unlearned.values == again.unlearned.values
    assert first.unlearned.values == audit(case, seed=0).unlearned.values
    dataclasses.replace(audit, tau=0.5)(stored, seed=0)
    assert len(calls) == 6


def test_a_student_may_have_another_shape_and_given_weights(case, tmp_path):
    student = MLP(hidden=(8,))
    recipe = case.request.recipe
    network = student.build(recipe.inputs, 3)
    save_file(network.state_dict(), tmp_path / "student.safetensors")
    audit = MembershipRecall(
        student=student, weights=str(tmp_path / "student.safetensors"), rounds=1, **FAST
    )
    attack = Attack(audit, case.original, case.test, recipe)
    got, wanted = attack.student.model.state_dict(), network.state_dict()
    assert all(torch.equal(got[k], wanted[k]) for k in wanted)
    attack.run()
    with pytest.raises(ValueError, match="safetensors"):
        Attack(
            dataclasses.replace(audit, weights=str(tmp_path / "none")),
            case.original,
            case.test,
            recipe,
        )


def test_every_published_setting_builds():
    presets = MembershipRecall.card.presets
    assert len(presets) == 16
    code = registry.audits.build({"name": "membership_recall", "preset": "authors_code_cifar10"})
    assert isinstance(code, MembershipRecall)
    assert (code.tau, code.student_lr, code.smoothing, code.laplace) == (0.6, 5e-5, 0.25, 0.02)
    assert (code.first, code.detach, code.rounding) == ("teacher", False, "nearest")


def test_bad_black_boxes_are_told_apart(case):
    network = case.original

    def attack(respond, access=Access.QUERIES):
        subject = Served(respond, access)
        return MembershipRecall(rounds=1)(dataclasses.replace(case, unlearned=subject), seed=0)

    with pytest.raises(Refused, match="softmax"):
        attack(network.outputs)
    with pytest.raises(Refused, match="add up to 1"):
        attack(lambda x: network.outputs(x).softmax(1) * 2)
    with pytest.raises(Refused, match="one probability per class"):
        attack(network.labels)
    with pytest.raises(Refused, match="labels only"):
        attack(network.labels, Access.LABELS)
    table = Table.of(case.test, torch.full((len(case.test), 3), 1 / 3))
    with pytest.raises(Refused, match="queries"):
        MembershipRecall()(dataclasses.replace(case, unlearned=table), seed=0)
    with pytest.raises(Refused, match="take case='closed'"):
        MembershipRecall(case="open")(
            dataclasses.replace(case, unlearned=Served(lambda x: network.outputs(x).softmax(1))),
            seed=0,
        )


def test_bad_settings_are_refused(case):
    with pytest.raises(ValueError, match="distilled"):
        MembershipRecall(tau=0.0)
    with pytest.raises(ValueError, match="records"):
        MembershipRecall(records=0)
    with pytest.raises(Refused, match="one prediction image per class"):
        MembershipRecall(records=1)(case, seed=0)


def _pairs(case):
    for data in (case.request.forget, case.test):
        batch = data.take(torch.arange(len(data)))
        yield from zip(batch.x, batch.y, strict=True)


def _spoilt(network):
    spoilt = copy.deepcopy(network)
    for module in spoilt.modules():
        if isinstance(module, nn.BatchNorm1d):
            assert module.running_var is not None
            module.running_var.fill_(1e6)
    return spoilt
