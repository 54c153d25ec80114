"""`unlearn --mask` writes a mask; `expunge mask` shows it and applies it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cli.conftest import Call, about, contents

FORSAKEN = ["forsaken", "--iterations", "5", "--penalty", "1"]


def unlearn(call: Call, *method: str, **changes: str):
    flags = {"checkpoint": "original.safetensors", "out": "u.safetensors", "mask": "m.safetensors"}
    return call("unlearn", *about(**(flags | changes)), *(method or FORSAKEN))


def test_the_mask_applied_is_the_unlearned_model(call: Call, here: Path) -> None:
    assert unlearn(call).code == 0
    done = call(
        "mask", "m.safetensors", "--checkpoint", "original.safetensors", "--out", "a.safetensors"
    )
    assert done.code == 0
    assert "a.safetensors" in done.out
    found, expected = load_file(here / "a.safetensors"), load_file(here / "u.safetensors")
    assert found.keys() == expected.keys()
    for name, part in expected.items():
        torch.testing.assert_close(found[name], part, rtol=1e-6, atol=1e-7, msg=name)


def test_a_mask_is_shown_layer_by_layer(call: Call, here: Path) -> None:
    unlearn(call)
    shown = call("mask", "m.safetensors").out
    assert "mask by forsaken" in shown
    told = json.loads(call("mask", "m.safetensors", "--json").out)
    notes = json.loads((here / "u.json").read_text())["notes"]
    assert told["whole"]["share"] == pytest.approx(notes["nonzeros"], abs=0.02)
    before, after = load_file(here / "original.safetensors"), load_file(here / "u.safetensors")
    for layer in told["layers"]:
        name = layer["name"]
        assert name in shown
        assert layer["nonzeros"] == int((before[name] != after[name]).sum())
        assert layer["entries"] == before[name].numel()


def test_other_weights_are_refused_unless_asked_for(call: Call, here: Path) -> None:
    unlearn(call)
    arguments = ["mask", "m.safetensors", "--checkpoint", "u.safetensors", "--out", "b.safetensors"]
    before = contents(here)
    refused = call(*arguments)
    assert refused.code == 2
    assert "made from other weights than u.safetensors" in refused.err
    assert contents(here) == before
    assert call(*arguments, "--anyway").code == 0
    assert (here / "b.safetensors").is_file()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_original_may_be_kept_in_another_precision(
    call: Call, here: Path, dtype: torch.dtype
) -> None:
    original = load_file(here / "original.safetensors")
    kept = {k: v.to(dtype) if v.is_floating_point() else v for k, v in original.items()}
    save_file(kept, here / "kept.safetensors")
    assert unlearn(call, checkpoint="kept.safetensors").code == 0
    arguments = ["mask", "m.safetensors", "--checkpoint", "kept.safetensors"]
    done = call(*arguments, "--out", "a.safetensors")
    assert done.code == 0, done.err
    assert call(*arguments, "--anyway", "--out", "b.safetensors").code == 0
    expected = load_file(here / "u.safetensors")
    for name in ("a", "b"):
        found = load_file(here / f"{name}.safetensors")
        assert found.keys() == expected.keys()
        for key, part in expected.items():
            torch.testing.assert_close(found[key], part, rtol=1e-6, atol=1e-7, msg=key)


def test_without_a_name_the_unlearned_model_has_the_usual_one(call: Call, here: Path) -> None:
    unlearn(call)
    assert call("mask", "m.safetensors", "--checkpoint", "original.safetensors").code == 0
    assert (here / "unlearned.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["m.safetensors", "--out", "x.safetensors"], "without --checkpoint there is no original"),
        (["gone.safetensors"], "there is no mask at gone.safetensors"),
        (["original.safetensors"], "not a mask: probably a model's weights"),
        (["ids.txt"], "not a safetensors file"),
        (["m.safetensors", "--checkpoint", "gone"], "there is no checkpoint at gone"),
        (
            ["m.safetensors", "--checkpoint", "original.safetensors", "--out", "x.pt"],
            "ends in .safetensors",
        ),
    ],
)
def test_bad_input_is_one_sentence(call: Call, here: Path, arguments: list[str], said: str) -> None:
    unlearn(call)
    before = contents(here)
    done = call("mask", *arguments)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1
    assert contents(here) == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mask": "u.safetensors"}, "--out and --mask are both u.safetensors"),
        ({"mask": "mask.bin"}, "expected --mask to end in .safetensors"),
        ({"mask": "ids.txt/m.safetensors"}, "cannot write to ids.txt"),
    ],
)
def test_a_place_for_the_mask_is_checked_before_any_work(
    call: Call, here: Path, changes: dict[str, str], said: str
) -> None:
    before = contents(here)
    done = unlearn(call, **changes)
    assert done.code == 2
    assert said in done.err
    assert contents(here) == before


def test_a_method_that_moves_statistics_has_no_mask(call: Call, here: Path) -> None:
    done = unlearn(call, "finetune", "--descent.epochs", "1")
    assert done.code == 2
    assert "keep the model itself" in done.err
    assert not (here / "m.safetensors").exists()
    assert (here / "u.safetensors").is_file()
    assert (here / "u.json").is_file()
