"""A mask: what it holds, that it survives a file, and that it gives the unlearned model back."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from expunge.mask import Layer, Mask, digest


class Tied(nn.Module):
    """A weight that two layers share, and statistics beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(5, 4), nn.Linear(4, 5)
        self.norm = nn.BatchNorm1d(4)
        self.out.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.embed(x)))


class Two(nn.Module):
    """Two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).relu())


def network(seed: int = 0, *, width: int = 4) -> Two:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Two(width).eval()


def moved(model: Two, factor: float, shift: float = 0.0) -> Two:
    """Change the last layer's weight alone."""
    found = copy.deepcopy(model)
    with torch.no_grad():
        found.two.weight.mul_(factor).add_(shift)
    return found


def states(a: nn.Module, b: nn.Module) -> list[tuple[Tensor, Tensor]]:
    return [(part, b.state_dict()[name]) for name, part in a.state_dict().items()]


@pytest.mark.parametrize("factor", [0.5, 0.7, 1.3, 2.0])
def test_small_changes_come_back_bit_for_bit(factor: float) -> None:
    original = network()
    unlearned = moved(original, factor)
    found = Mask.between(original, unlearned).apply(original)
    assert all(torch.equal(a, b) for a, b in states(found, unlearned))


def test_large_changes_come_back_to_within_a_rounding() -> None:
    original = network()
    unlearned = moved(original, -3.0, 1e-3)
    found = Mask.between(original, unlearned).apply(original)
    for (a, b), before in zip(states(found, unlearned), original.parameters(), strict=True):
        ulp = torch.finfo(a.dtype).eps * torch.maximum(before.abs(), b.abs())
        assert bool(((a - b).abs() <= ulp).all())


def test_the_original_is_left_alone_and_its_digest_kept() -> None:
    original = network()
    before = copy.deepcopy(original)
    mask = Mask.between(original, moved(original, 0.5), "forsaken")
    assert not torch.equal(mask.apply(original).two.weight, original.two.weight)
    assert all(torch.equal(a, b) for a, b in states(original, before))
    assert mask.original == digest(before.state_dict()) != digest(network(1).state_dict())
    assert mask.method == "forsaken"


def test_layers_are_counted() -> None:
    original = network()
    unlearned = copy.deepcopy(original)
    with torch.no_grad():
        unlearned.one.weight[0, :2] = original.one.weight[0, :2] + torch.tensor([0.5, -0.25])
        unlearned.two.bias += 1.0
    mask = Mask.between(original, unlearned)
    first, *between, last = mask.layers()
    assert [first.name, last.name] == ["one.weight", "two.bias"]
    assert (first.entries, first.nonzeros, first.share) == (12, 2, 2 / 12)
    assert first.largest == pytest.approx(0.5, abs=1e-6)
    assert first.total == pytest.approx(0.75, abs=1e-6)
    assert [layer.nonzeros for layer in between] == [0, 0]
    whole = mask.whole()
    assert (whole.entries, whole.nonzeros) == (12 + 4 + 8 + 2, 4)
    assert whole.total == pytest.approx(2.75, abs=1e-5)
    assert whole.largest == pytest.approx(1.0, abs=1e-6)
    assert Mask(tensors={}).whole() == Layer("all", 0, 0, 0.0, 0.0)


def test_a_file_gives_the_same_mask_back(tmp_path: Path) -> None:
    original = Tied()
    unlearned = copy.deepcopy(original)
    with torch.no_grad():
        unlearned.embed.weight *= 0.75
    mask = Mask.between(original, unlearned, "forsaken")
    mask.save(tmp_path / "new" / "mask.safetensors")
    found = Mask.load(tmp_path / "new" / "mask.safetensors")
    assert (found.method, found.original, found.tied) == (mask.method, mask.original, mask.tied)
    assert list(found.tensors) == list(mask.tensors)
    assert all(torch.equal(found.tensors[name], part) for name, part in mask.tensors.items())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mask.safetensors"]


def test_a_weight_that_is_shared_is_there_once_and_changes_under_both_names() -> None:
    original = Tied()
    unlearned = copy.deepcopy(original)
    with torch.no_grad():
        unlearned.embed.weight *= 0.75
    mask = Mask.between(original, unlearned)
    assert "out.weight" not in mask.tensors
    applied = mask.apply(original)
    assert applied.out.weight is applied.embed.weight
    assert torch.equal(applied.embed.weight, unlearned.embed.weight)
    state = {name: part.clone() for name, part in original.state_dict().items()}
    found = mask.subtract(state)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], part) for name, part in unlearned.state_dict().items())


def test_another_shape_is_refused() -> None:
    original = network()
    mask = Mask.between(original, moved(original, 0.5))
    with pytest.raises(
        ValueError, match=r"'one.weight' has shape \(6, 3\) there and \(4, 3\) here"
    ):
        mask.apply(network(width=6))
    with pytest.raises(ValueError, match=r"'bias' is a parameter of one"):
        mask.apply(nn.Linear(3, 2))
    with pytest.raises(ValueError, match="does not fit the model"):
        mask.subtract({"one.weight": torch.zeros(4, 3)})
    with pytest.raises(ValueError, match="does not fit the model"):
        Mask.between(original, network(width=6))


def test_statistics_that_changed_are_refused() -> None:
    original = Tied()
    trained = copy.deepcopy(original)
    trained(torch.arange(5))
    with pytest.raises(ValueError, match=r"'norm.running_mean' differs"):
        Mask.between(original, trained)


def test_what_is_no_mask_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no mask at"):
        Mask.load(tmp_path / "gone.safetensors")
    save_file({"a": torch.ones(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="not a mask: probably a model's weights"):
        Mask.load(tmp_path / "weights.safetensors")
    (tmp_path / "text").write_text("no")
    with pytest.raises(ValueError, match="not a safetensors file"):
        Mask.load(tmp_path / "text")
