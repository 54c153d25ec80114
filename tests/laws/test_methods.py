"""Laws every method obeys; a new one is tested by existing."""

import contextlib
import copy
import dataclasses
import functools
import inspect
import json

import pytest
import torch

from expunge import registry
from expunge.bench.problem import Problem
from expunge.config import build, key, plain
from expunge.core import notes
from expunge.core.state import convolves
from expunge.method import Method, MethodCard, NotGranted, Sizes
from expunge.types import Refused, Request, Trace


def toy(name: str, cls: type[Method]) -> Method:
    return registry.methods.build({"name": name, **vars(cls)["card"].toy})


METHODS = [toy(name, cls) for name, cls in registry.methods.known().items()]
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.card.name)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    a_state, b_state = a.state_dict(), b.state_dict()
    return all(torch.equal(a_state[k], b_state[k]) for k in a_state)


def prepare(method: Method, posed) -> tuple[torch.nn.Module, Request]:
    """Return an original that the method accepts, and its request."""
    problem, request = posed.problem, posed.request
    if request.task.card.name not in method.card.tasks:
        pytest.skip("not for this task")
    if "convolution" in method.card.layers and not convolves(posed.original):
        pytest.skip("not for networks without convolutions")
    if not method.trains:
        return posed.original, request
    original, trace = trained(method, problem)
    return copy.deepcopy(original), dataclasses.replace(request, trace=trace)


@functools.cache
def trained(method: Method, problem: Problem) -> tuple[torch.nn.Module, Trace]:
    """Train as the method wants it, once for all laws."""
    return method.train(problem.recipe, problem.sets.train, 0)


@each_method
def test_the_callers_model_is_untouched(method, posed):
    original, request = prepare(method, posed)
    before = copy.deepcopy(original)
    method(original, request, seed=0)
    assert same(before, original)
    assert not original.training
    assert all(p.grad is None for p in original.parameters())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in original.modules())


@each_method
def test_same_seed_same_bits_and_the_global_generator_is_left_alone(method, posed):
    original, request = prepare(method, posed)
    state = torch.get_rng_state()
    first = method(original, request, seed=3).model
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(7)
    assert same(first, method(original, request, seed=3).model)


@pytest.mark.slow
@each_method
def test_one_forgotten_record_is_forgotten_or_the_method_refuses(method, posed):
    original, request = prepare(method, posed)
    one = dataclasses.replace(request, forget=request.forget.select(torch.arange(1)))
    with contextlib.suppress(Refused):
        method(original, one, seed=0)


@each_method
def test_a_network_of_one_layer_unlearns_or_the_method_refuses(method, made):
    whole = made["classification"].problem
    recipe = dataclasses.replace(whole.recipe, model=registry.models.build({"name": "linear"}))
    request = dataclasses.replace(whole.request, recipe=recipe)
    with contextlib.suppress(Refused):
        original, trace = method.train(recipe, whole.sets.train, 0)
        method(original, dataclasses.replace(request, trace=trace), seed=0)


@each_method
def test_null_settings_change_nothing_buffers_included(method, posed):
    if method.card.null is None:
        pytest.skip("always changes something")
    original, request = prepare(method, posed)
    null = registry.methods.build({"name": method.card.name, **method.card.null})
    assert same(original, null(original, request, seed=0).model)


@each_method
def test_it_does_something(method, posed):
    if method.card.null == {}:
        pytest.skip("it is there to do nothing")
    original, request = prepare(method, posed)
    assert not same(original, method(original, request, seed=0).model)


@each_method
def test_watching_changes_nothing(method, posed):
    original, request = prepare(method, posed)
    seen = []

    def watch(model, number):
        torch.rand(3)
        assert not model.training
        for p in model.parameters():
            p.fill_(float("nan"))  # the watcher has a copy
        seen.append(number)

    watched = method(original, dataclasses.replace(request, watch=watch), seed=0).model
    assert same(watched, method(original, request, seed=0).model)
    assert seen == list(range(len(seen)))
    assert seen or not hasattr(method, "descent")


@each_method
def test_the_result_is_ready_for_use(method, posed):
    original, request = prepare(method, posed)
    model = method(original, request, seed=0).model
    assert not model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert {k: v.dtype for k, v in model.state_dict().items()} == {
        k: v.dtype for k, v in method.fresh(request.recipe).state_dict().items()
    }


@each_method
def test_the_foreseen_work_is_the_work_that_is_counted(method, posed):
    original, request = prepare(method, posed)
    foreseen = method.work(Sizes.of(request))
    counted = method(original, request, seed=0).cost
    if method.card.foreseen == "exactly":
        assert (foreseen.forward, foreseen.backward) == (counted.forward, counted.backward)
    else:
        assert 0 < counted.forward <= foreseen.forward
        assert 0 <= counted.backward <= foreseen.backward
    assert counted.seconds > 0


@each_method
def test_notes_are_plain_data_and_the_same_for_the_same_seed(method, posed):
    original, request = prepare(method, posed)
    noted = method(original, request, seed=4).notes
    assert json.loads(json.dumps(noted, allow_nan=False)) == noted
    assert method(original, request, seed=4).notes == noted


@each_method
def test_sets_the_card_does_not_name_cannot_be_read(method, posed):
    _, request = prepare(method, posed)
    granted = method.granted(request)
    for name in ("retain", "forget", "val", "nonmembers"):
        part = getattr(granted, name)
        assert len(part) == len(getattr(request, name))
        if name in method.needs:
            assert len(part.y) == len(part)
        else:
            with pytest.raises(NotGranted, match=f"request.{name}"):
                _ = part.y
            with pytest.raises(NotGranted, match=f"request.{name}"):
                next(iter(part.batches(4)))


@each_method
def test_settings_survive_plain_data_and_keys_tell_them_apart(method):
    table = plain(method)
    assert registry.methods.build(table) == method
    assert key(method) == key(copy.deepcopy(method))
    assert len({key(m) for m in METHODS}) == len(METHODS)


@each_method
def test_presets_are_settings(method):
    for name in method.card.presets:
        found = registry.methods.build({"name": method.card.name, "preset": name})
        assert isinstance(found, type(method))


@each_method
def test_the_card_is_complete_and_every_field_is_explained(method):
    card: MethodCard = method.card
    assert card.source.startswith("https://")
    assert card.norms
    doc = inspect.getdoc(type(method)) or ""
    for field in dataclasses.fields(method):
        assert f"{field.name}:" in doc, f"{field.name} is not explained"
    module = inspect.getmodule(type(method))
    assert module is not None
    assert card.source in (module.__doc__ or "")


@each_method
def test_nonsense_settings_are_refused_with_a_suggestion(method):
    with pytest.raises(ValueError, match="nonsense"):
        build(type(method), {"nonsense": 1})


def test_what_a_method_notes_is_kept_beside_its_model(blobs):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Telling(Method):
        card = MethodCard(name="telling", needs=("original",), norms="", null=None)

        def unlearn(self, model, request, seed):
            notes.add("rank", {"layer": [1, 2]})
            notes.add("residual", float("nan"))
            notes.add("saturated", 0.5)
            notes.add("saturated", 0.25)
            with notes.collected() as within:
                notes.add("saturated", 9)
            assert within == {"saturated": 9}
            return model

        def work(self, sizes):
            raise AssertionError

    notes.add("saturated", 1.0)  # outside, nobody listens
    found = Telling()(blobs.original, blobs.request, seed=0).notes
    assert found == {"rank": {"layer": [1, 2]}, "residual": None, "saturated": 0.25}


@pytest.mark.parametrize("value", [torch.ones(2), {1: 2}, [object()]])
def test_a_note_that_json_cannot_hold_is_refused(value):
    with pytest.raises(TypeError, match="'rank' holds a"):
        notes.add("rank", value)


def test_a_request_has_no_test_set(blobs):
    names = {f.name for f in dataclasses.fields(blobs.request)}
    assert not any("test" in name for name in names)
    seen = [blobs.request.retain, blobs.request.forget, blobs.request.val]
    rows = {tuple(r) for data in seen for x, _, _ in data.batches(64) for r in x.tolist()}
    assert not rows & {tuple(r) for x, _, _ in blobs.test.batches(64) for r in x.tolist()}


def test_drawing_from_the_global_generator_is_fenced(blobs):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Noisy(Method):
        card = MethodCard(name="noisy", needs=("original",), norms="", null=None)

        def unlearn(self, model, request, seed):
            for p in model.parameters():
                p.data.add_(torch.randn_like(p))
            return model

        def work(self, sizes):
            raise AssertionError

    state = torch.get_rng_state()
    first = Noisy()(blobs.original, blobs.request, seed=1).model
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(5)
    assert same(first, Noisy()(blobs.original, blobs.request, seed=1).model)
    assert not same(first, Noisy()(blobs.original, blobs.request, seed=2).model)
