"""Python's verbs on what users hold: their own network, their own data set, streamed or not."""

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from expunge import api
from expunge.bench.problem import Training
from expunge.data.objects import from_dataset
from expunge.subject import Refused
from expunge.types import Descent

QUICK = Training(descent=Descent(lr=0.05, epochs=3, batch_size=32))


class Pictures(Dataset):
    """A map-style data set of small pictures, made when read."""

    def __init__(self, first: int, count: int) -> None:
        self.first, self.count = first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        rng = torch.Generator().manual_seed(self.first + row)
        y = row % 3
        x = torch.randint(0, 128, (1, 6, 6), generator=rng, dtype=torch.uint8)
        x[0, 2 * y : 2 * y + 2] += 100
        return x, y


def mine() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("method", ["retrain", "salun", "gradient_ascent"])
def test_ones_own_network_and_data_set(stream, method):
    sets = from_dataset(Pictures(0, 150), Pictures(1000, 150), stream=stream)
    problem = api.problem(sets, mine(), forget=[3, 5, 8, *range(20, 40)], training=QUICK)
    original = problem.train(seed=0)
    outcome = api.unlearn(original, problem, method)
    findings = api.audit(problem, original, outcome, retrained=1)
    assert {f.audit.card.name for f in findings} >= {"accuracy", "loss_attack", "cost"}
    assert findings[0].unlearned.values["test"] > 0.5


def test_streamed_and_whole_records_give_the_same_bits():
    models = []
    for stream in (False, True):
        sets = from_dataset(Pictures(0, 150), Pictures(1000, 150), stream=stream)
        problem = api.problem(sets, "mlp", forget={"name": "random", "count": 20}, training=QUICK)
        models.append(api.unlearn(problem.train(0), problem, "finetune").model)
    for a, b in zip(*(m.parameters() for m in models), strict=True):
        assert torch.equal(a, b)


def test_a_network_that_cannot_be_drawn_anew_says_what_to_pass():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(36, 3))

        def forward(self, x):
            return x.flatten(1) @ self.weight

    with pytest.raises(ValueError, match="pass `fresh`"):
        api.problem(Pictures(0, 90), Odd(), forget=[1, 2], training=QUICK).train(0)


def test_checkpoints_come_back_as_they_were_saved(tmp_path):
    problem = api.problem("breast_cancer", "mlp", forget=range(30), training=QUICK)
    original = problem.train(seed=1)
    api.save(original, tmp_path / "o.safetensors")
    again = api.load(tmp_path / "o.safetensors", problem.recipe)
    for a, b in zip(original.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert [p.name for p in tmp_path.iterdir()] == ["o.safetensors"]


def test_a_method_that_trains_its_own_way_unlearns_from_what_it_left_behind():
    problem = api.problem("digits", "mlp", forget=range(20), training=QUICK)
    sisa = {"name": "sisa", "shards": 3, "slices": 2}
    trained = api.train(problem, sisa, seed=1)
    outcome = api.unlearn(trained, problem, sisa, seed=1)
    assert 0 < outcome.cost.backward < len(problem.request.retain) * 3
    assert type(outcome.model) is type(trained.model)
    with pytest.raises(Refused, match="trained its own way"):
        api.unlearn(trained.model, problem, sisa)
    plain = api.train(problem, "finetune", seed=1)
    assert not plain.trace
    assert torch.equal(next(plain.model.parameters()), next(problem.train(1).parameters()))


def test_black_boxes_are_audited_by_what_they_give():
    from expunge.subject import Served, WhiteBox

    problem = api.problem("digits", "linear", forget=range(60), training=QUICK)
    original = problem.train(seed=0)
    box = Served(lambda x: WhiteBox(original).outputs(x).softmax(-1))
    names = {f.audit.card.name for f in api.audit(problem, box, box)}
    assert "loss_attack" in names
    assert "weight_distance" not in names


def test_shadows_need_a_target_whose_training_is_known() -> None:
    network = api.problem("breast_cancer", "mlp", {"name": "random", "count": 40}).train()
    for training in (None, Training()):
        posed = api.problem(
            "breast_cancer", network, {"name": "random", "count": 40}, training=training
        )
        if training is None:
            with pytest.raises(Refused, match="give `training` with the problem"):
                api.audit(posed, network, network, audits=[{"name": "lira", "shadows": 4}])
            with pytest.raises(Refused, match="give `training` with the problem"):
                api.audit(posed, network, network, retrained=2, audits=["accuracy"])
            assert api.audit(posed, network, network, retrained=[network], audits=["accuracy"])
        else:
            (found,) = api.audit(posed, network, network, audits=[{"name": "lira", "shadows": 4}])
            assert found.audit.card.name == "lira"
