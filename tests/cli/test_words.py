"""The small languages of the command line: compact settings, and gates."""

from pathlib import Path

import pytest

from expunge.cli import compact, gate, parse
from expunge.cli.flags import flat
from expunge.subject import Refused
from tests.cli.conftest import about

VALUES = {"loss_attack": {"auc": 0.61, "tpr_at_1%_fpr": 0.2}, "cost": {"of_retraining": None}}


def test_settings_in_one_argument() -> None:
    assert compact.table("resnet,width=16,depth=18") == {"name": "resnet", "width": 16, "depth": 18}
    assert compact.table("x,a.b=1.5,a.c=true,d=word") == {
        "name": "x",
        "a": {"b": 1.5, "c": True},
        "d": "word",
    }


def test_a_list_may_hold_commas() -> None:
    assert compact.table("mlp,hidden=[64,32],std=2") == {
        "name": "mlp",
        "hidden": [64, 32],
        "std": 2,
    }
    assert compact.table('class,classes=["a, b","c"]') == {
        "name": "class",
        "classes": ["a, b", "c"],
    }


@pytest.mark.parametrize("text", ["mlp,width", "mlp,,a=1", "mlp,a=1,a.b=2"])
def test_settings_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"key=value|twice"):
        compact.table(text)


def test_data_by_file_folder_or_import_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "ids.txt").write_text("1")
    assert compact.source("a.npz") == {"name": "npz", "path": "a.npz"}
    assert compact.source("a.csv,label=y") == {"name": "table", "path": "a.csv", "label": "y"}
    assert compact.source("photos") == {"name": "image_folder", "path": "photos"}
    assert compact.source("my.code:make") == {"name": "dataset", "path": "my.code:make"}
    assert compact.source("digits,seed=1") == {"name": "digits", "seed": 1}
    assert compact.chosen("ids.txt") == {"name": "ids", "path": "ids.txt"}
    assert compact.chosen("random,count=3") == {"name": "random", "count": 3}


def test_a_list_of_ids_that_is_not_there_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no file .*gone\.txt"):
        compact.chosen(str(tmp_path / "gone.txt"))


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("loss_attack.auc>0.6", True),
        ("loss_attack.auc > 0.61", False),
        ("loss_attack.auc>=0.61", True),
        ("loss_attack.auc<6e-1", False),
        ("loss_attack.auc<=.7", True),
        ("loss_attack.tpr_at_1%_fpr>-1", True),
    ],
)
def test_gates(text: str, *, holds: bool) -> None:
    (one,) = gate.parse([text], ["loss_attack", "cost"])
    assert one.holds(VALUES) is holds


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected AUDIT.VALUE"),
        ("loss_attack", "expected AUDIT.VALUE"),
        ("loss_attack.auc>", "expected AUDIT.VALUE"),
        ("loss_attack.auc=0.6", "expected AUDIT.VALUE"),
        ("loss_attack.auc>0.6.1", "'0.6.1' is not a number"),
        ("los_attack.auc>0.6", "did you mean 'loss_attack'"),
    ],
)
def test_gates_that_are_none(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        gate.parse([text], ["loss_attack", "cost"])


@pytest.mark.parametrize(
    ("text", "said"),
    [("loss_attack.auk>0.6", "did you mean 'auc'"), ("cost.of_retraining>1", "not a number")],
)
def test_gates_that_cannot_be_judged_do_not_pass(text: str, said: str) -> None:
    (one,) = gate.parse([text], ["loss_attack", "cost"])
    with pytest.raises(Refused, match=said):
        one.holds(VALUES)


def test_a_flag_given_twice_adds() -> None:
    flags = ["--before", "b", "--after", "a", "--fail-if", "x.y>1", "z.y>1", "--fail-if", "v.w<1"]
    command = vars(parse(["audit", *about(), *flags]))
    assert flat(command["fail_if"], "--fail-if") == ("x.y>1", "z.y>1", "v.w<1")


def test_a_gate_left_empty_does_not_stand_open() -> None:
    with pytest.raises(ValueError, match="--fail-if was given without a value"):
        flat([["a.b>1"], []], "--fail-if")
