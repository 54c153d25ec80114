"""The spec: strict, with suggestions, and every published one is valid."""

from pathlib import Path

import pytest

from expunge.bench.demo import demo
from expunge.bench.run import problems
from expunge.bench.spec import Spec, SpecError, parse, read

TABLE = {
    "name": "toy",
    "data": [{"name": "blobs"}],
    "models": [{"name": "mlp"}],
    "forget": [{"name": "random"}],
    "methods": [{"name": "finetune", "descent": {"lr": 0.5}}],
}
SPECS = sorted(Path(__file__).parents[2].glob("specs/**/*.toml"))


def test_a_partial_table_keeps_the_other_defaults() -> None:
    (method,) = parse(TABLE).methods
    descent = vars(method)["descent"]
    assert (descent.lr, descent.epochs) == (0.5, type(method)().descent.epochs)


def test_what_is_left_out_has_defaults() -> None:
    spec = parse(TABLE)
    assert (spec.seeds, spec.audits, spec.retrained) == ((0,), (), 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"methdos": []}, "unknown key 'methdos'; did you mean 'methods'"),
        ({"methods": []}, "at least one entry under 'methods'"),
        ({"methods": {"name": "finetune"}}, r"\[\[methods\]\], got"),
        ({"methods": [{"nam": "finetune"}]}, "needs a name"),
        ({"methods": [{"name": "finetune", "preset": "x"}]}, "unknown preset"),
        ({"methods": [{"name": "finetune", "version": 99}]}, "version 99"),
        ({"audits": []}, "'audits'"),
        ({"audits": [{"name": "acuracy"}]}, "did you mean 'accuracy'"),
        ({"seeds": 3}, "a list of integers"),
        ({"seeds": [True]}, "a list of integers"),
        ({"seeds": [0, 0]}, "different seeds"),
        ({"name": 3}, "name: expected str"),
        ({"retrained": True}, "retrained: expected int"),
        ({"training": {"descent": {"lr": "fast"}}}, "lr"),
        ({"training": {"descent": {"schedule": "warm"}}}, "schedule"),
        ({"training": 3}, "training"),
        ({"holdout": {"val": 0.9, "nonmembers": 0.9}}, "below 1 together"),
    ],
)
def test_mistakes_are_named(change: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(TABLE | change)


PAIRS = {
    "name": "pairs",
    "methods": TABLE["methods"],
    "training": {"descent": {"epochs": 3}},
    "problems": [
        {"data": {"name": "blobs"}, "model": {"name": "mlp"}, "forget": {"name": "random"}},
        {
            "data": {"name": "chains"},
            "model": {"name": "lstm"},
            "forget": {"name": "random", "count": 5},
            "training": {"descent": {"epochs": 2}},
        },
    ],
}


def test_problems_are_posed_as_they_are_listed() -> None:
    spec = parse(PAIRS)
    first, second = problems(spec)
    assert (first.recipe.model.card.name, second.recipe.model.card.name) == ("mlp", "lstm")
    assert (first.recipe.descent.epochs, second.recipe.descent.epochs) == (3, 2)
    assert len(second.request.forget) == 5
    grid = parse(TABLE | {"models": [{"name": "mlp"}, {"name": "linear"}]})
    assert [c.model.card.name for c in grid.combinations()] == ["mlp", "linear"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": [{"name": "blobs"}]}, "either 'problems' or"),
        ({"problems": [{"data": {"name": "blobs"}}]}, r"\[\[problems\]\].*model"),
        ({"problems": [3]}, r"\[\[problems\]\], got"),
        ({"problems": []}, "at least one entry under 'data'"),
        ({"problems": [PAIRS["problems"][0] | {"network": 1}]}, "network"),
    ],
)
def test_mistakes_in_problems_are_named(change: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(PAIRS | change)


def test_the_file_is_named_too(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("x = 1")
    with pytest.raises(SpecError, match=r"a\.toml: unknown key 'x'"):
        read(tmp_path / "a.toml")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match="not valid TOML"):
        read(tmp_path / "b.toml")
    with pytest.raises(SpecError, match=r"a folder|cannot read"):
        read(tmp_path)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.name)
def test_every_spec_of_the_repository_is_valid(path: Path) -> None:
    assert isinstance(read(path), Spec)


def test_the_demonstration_has_every_quick_method() -> None:
    from expunge import registry

    quick = [n for n, cls in registry.methods.known().items() if vars(cls)["card"].quick]
    assert [method.card.name for method in demo().methods] == quick
