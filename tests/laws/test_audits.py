"""Laws every audit obeys; a new one is tested by existing."""

import contextlib
import copy
import dataclasses
import functools
import inspect
import json
from collections.abc import Callable

import pytest
import torch

from expunge import registry
from expunge.audit import Audit, Case
from expunge.core.cost import Cost
from expunge.core.descent import train
from expunge.lab import Lab, Repeat
from expunge.subject import Access, Refused, Served, Subject, Table, WhiteBox
from expunge.types import Task


def toy(name: str, cls: type[Audit]) -> Audit:
    return registry.audits.build({"name": name, **vars(cls)["card"].toy})


AUDITS = [toy(name, cls) for name, cls in registry.audits.known().items()]
each_audit = pytest.mark.parametrize("audit", AUDITS, ids=lambda a: a.card.name)


@pytest.fixture(scope="module")
def cases(made) -> Callable[[str], Case]:
    return functools.cache(lambda name: posed(made[name]))


@pytest.fixture
def case(request, cases) -> Case:
    """The case of the audit in question: of the first task that it is for."""
    card = request.node.callspec.params["audit"].card
    return cases("withheld_" * card.withheld + card.tasks[0])


def posed(blobs) -> Case:
    recipe = blobs.request.recipe
    again = Repeat(
        "the original",
        lambda _: copy.deepcopy(blobs.original),
        lambda _, whole, number: train(recipe, whole, number),
        "nothing",
    )
    lab = Lab(request=blobs.request, test=blobs.test, seed=5, unlearn=again)
    return Case(
        original=WhiteBox(copy.deepcopy(blobs.original), cost=Cost(100, 100, 1.0)),
        unlearned=WhiteBox(copy.deepcopy(blobs.original), cost=Cost(100, 100, 1.0)),
        retrained=lab.retrained(3),
        request=blobs.request,
        test=blobs.test,
        unseen=blobs.problem.sets.unseen,
        lab=lab,
    )


@each_audit
def test_the_original_passed_off_as_unlearned_has_not_moved(audit, case):
    finding = audit(case, seed=0)
    assert finding.moved.value == 0
    assert finding.verdict not in ("like retraining", "like never trained", "overshoots")


@each_audit
def test_a_retrained_model_passed_off_as_unlearned_is_like_retraining(audit, case):
    recipe, retain = case.request.recipe, case.request.retain
    again = Repeat(
        "retraining",
        lambda number: train(recipe, retain, 99 + number),
        lambda request, _, number: train(recipe, request.retain, number),
        "retraining",
    )
    case = dataclasses.replace(
        case,
        unlearned=WhiteBox(train(recipe, retain, 99), cost=Cost(100, 100, 1.0)),
        lab=dataclasses.replace(case.lab, unlearn=again),
    )
    assert audit(case, seed=0).verdict in ("like retraining", "cannot tell", "measured")


@each_audit
def test_it_runs_without_retrained_models_and_says_what_cannot_be_concluded(audit, case):
    finding = audit(dataclasses.replace(case, retrained=()), seed=0)
    assert finding.gap is None
    assert finding.verdict in ("leaks", "cannot tell", "measured")
    assert "conclude" in str(finding) or "proves nothing" in str(finding)


@each_audit
def test_of_one_forgotten_record_it_tells_or_is_refused(audit, case):
    request = dataclasses.replace(case.request, forget=case.request.forget.select(torch.arange(1)))
    lab = Lab(request=request, test=case.test, seed=5, unlearn=case.lab.unlearn)
    with contextlib.suppress(Refused):
        audit(dataclasses.replace(case, request=request, lab=lab), seed=0)


@each_audit
def test_one_retrained_model_is_no_spread(audit, case):
    finding = audit(dataclasses.replace(case, retrained=case.retrained[:1]), seed=0)
    assert finding.floor is None
    assert finding.verdict in ("cannot tell", "measured")


@each_audit
def test_subjects_are_untouched(audit, case):
    before = copy.deepcopy(case.unlearned.model.state_dict())
    state = torch.get_rng_state()
    audit(case, seed=0)
    assert torch.equal(state, torch.get_rng_state())
    after = case.unlearned.model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(p.grad is None for p in case.unlearned.model.parameters())


@each_audit
def test_same_seed_same_record_and_it_is_plain_json(audit, case):
    first, second = (json.dumps(audit(case, seed=3).record()) for _ in range(2))
    assert first == second
    assert "NaN" not in first
    assert "Infinity" not in first


@each_audit
def test_a_black_box_answers_alike_or_is_refused_before_work(audit, case):
    def respond(x):
        return case.original.outputs(x).softmax(-1)

    everything = [case.request.forget, case.request.retain, case.request.val, case.test]
    data = everything[0].join(everything[1]).join(everything[2]).join(everything[3])
    boxes: list[Subject] = [Served(respond)]
    if type(case.request.task).pose is Task.pose:  # else records are not what models are asked
        rows = torch.cat([respond(x) for x, _, _ in data.batches(64)])
        boxes.append(Table.of(data, rows))
    for box in boxes:
        black = dataclasses.replace(case, unlearned=box)
        if audit.card.access > box.access:
            with pytest.raises(Refused, match=audit.card.access.name.lower()):
                audit(black, seed=0)
        elif audit.card.probes and not box.live:
            with pytest.raises(Refused, match="records that it makes up"):
                audit(black, seed=0)
        elif audit.card.name != "cost":  # what a black box cost is not known
            here, there = audit(case, seed=0), audit(black, seed=0)
            assert there.unlearned.headline == pytest.approx(here.unlearned.headline, abs=1e-4)


@each_audit
def test_a_label_only_box_is_asked_or_refused(audit, case):
    box = Served(lambda x: case.original.labels(x), Access.LABELS)
    black = dataclasses.replace(case, unlearned=box)
    if audit.card.access > Access.LABELS:
        with pytest.raises(Refused, match="labels only"):
            audit(black, seed=0)
    else:
        audit(black, seed=0)


@each_audit
def test_a_model_that_diverged_is_refused_before_work(audit, case):
    broken = copy.deepcopy(case.original.model)
    with torch.no_grad():
        next(broken.parameters()).view(-1)[0] = torch.nan
    for name, role in (("unlearned", "the unlearned model"), ("original", "the original")):
        with pytest.raises(Refused, match=f"finite weights, but those of {role}"):
            audit(dataclasses.replace(case, **{name: WhiteBox(broken)}), seed=0)
    with pytest.raises(Refused, match="finite weights, but those of a retrained model"):
        audit.check(dataclasses.replace(case, retrained=(WhiteBox(broken),)))


@each_audit
def test_no_model_is_trained_by_a_recipe_that_may_not_be_the_targets(audit, case):
    if not audit.needs.shadows + audit.needs.retrained:
        pytest.skip("it trains no further models")
    lab = dataclasses.replace(case.lab, known=False)
    with pytest.raises(Refused, match="must be trained exactly as the target was"):
        audit.check(dataclasses.replace(case, lab=lab))


@each_audit
def test_values_do_not_depend_on_batch_size_or_order(audit, case, monkeypatch):
    if audit.card.trains:
        pytest.skip("trains on the answers, batch by batch")
    expected = audit(case, seed=0).unlearned.values

    batches = type(case.test).batches

    def small(data, size=128, rng=None):
        return batches(data, 7, rng)

    monkeypatch.setattr(type(case.test), "batches", small)
    clear = {
        name: WhiteBox(getattr(case, name).model, cost=getattr(case, name).cost)
        for name in ("original", "unlearned")
    }
    controls = tuple(WhiteBox(r.model, cost=r.cost) for r in case.retrained)
    got = audit(dataclasses.replace(case, retrained=controls, **clear), seed=0).unlearned.values
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, rel=1e-4, abs=1e-6)


@each_audit
def test_the_card_is_complete_and_every_field_is_explained(audit):
    assert audit.card.source.startswith("https://")
    assert audit.question.endswith("?")
    doc = inspect.getdoc(type(audit)) or ""
    for field in dataclasses.fields(audit):
        assert f"{field.name}:" in doc
    module = inspect.getmodule(type(audit))
    assert module is not None
    assert audit.card.source in (module.__doc__ or "")


@pytest.mark.slow
def test_retrained_models_over_many_seeds_are_at_chance(cases):
    case = cases("classification")
    attack = registry.audits.build({"name": "loss_attack"})
    aucs = []
    for seed in range(20):
        model = WhiteBox(train(case.request.recipe, case.request.retain, 1000 + seed))
        answer = attack.ask(model, case, seed)
        aucs.append(answer.headline)
    assert abs(sum(aucs) / len(aucs) - 0.5) < 0.1


@each_audit
def test_what_stands_alone_does_not_depend_on_the_model_in_question(audit, case):
    if not audit.card.alone:
        pytest.skip("it compares models")
    other = WhiteBox(train(case.request.recipe, case.request.retain, 5), cost=Cost(1, 1, 1.0))

    def asked(unlearned, controls):
        anew = {"original": WhiteBox(case.original.model, cost=case.original.cost)}
        lab = dataclasses.replace(case.lab, unlearn=None)
        anew |= {"unlearned": unlearned, "retrained": controls, "lab": lab}
        return audit(dataclasses.replace(case, **anew), seed=0).original

    first, second = asked(other, ()), asked(case.unlearned, case.retrained)
    assert first is not second
    assert first.record() == second.record()


@each_audit
def test_a_control_that_cases_share_is_asked_once(audit, case):
    first, again = (audit(dataclasses.replace(case), seed=1) for _ in range(2))
    assert (first.original is again.original) == audit.card.alone
