"""Networks on rows of tokens, and dropout: sizes, padding, word vectors, refusals."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from expunge import api, registry
from expunge.config import key, plain
from expunge.core.features import deep_layers
from expunge.core.layers import first_layer
from expunge.core.packed import refusal
from expunge.models.linear import Linear
from expunge.models.lstm import LSTM
from expunge.models.mlp import MLP
from expunge.models.news_cnn import NewsCNN
from expunge.models.text_cnn import TextCNN
from expunge.tasks.categorical import Classification
from expunge.types import Architecture
from tests.models.passing import halves, obeys, reads_squared_gradients, rows

TEXT = TextCNN(vocabulary=40, embedding=6, channels=5)
NEWS = NewsCNN(vocabulary=40, embedding=6, channels=8)
SHAPES = [(TEXT, 12), (NEWS, 149)]


def drawn(architecture: Architecture, length: int, outputs: int = 3, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return architecture.build((length,), outputs)


def tokens(count: int, length: int, vocabulary: int = 40) -> torch.Tensor:
    draws = torch.Generator().manual_seed(1)
    return torch.randint(0, vocabulary, (count, length), generator=draws)


@pytest.mark.parametrize(
    ("architecture", "length", "classes", "known"),
    [
        (TextCNN(), 200, 2, 2_620_902),
        (NewsCNN(), 1000, 20, 247_316),
        (NewsCNN(), 1000, 15, 246_671),
        (MLP(hidden=(512, 256), batch_norm=False, dropout=0.5), 10_000, 35, 5_260_835),
        # Embedding and projection 4,010,000; each layer 4 (200 x 400 + 2 x 200).
        (LSTM(hidden=200, layers=2), 35, 10_000, 4_653_200),
        (LSTM(hidden=4, embedding=3), 35, 10, 30 + 4 * (4 * 7 + 8) + 50),
    ],
    ids=repr,
)
def test_parameters_count_as_published(
    architecture: Architecture, length: int, classes: int, known: int
) -> None:
    with torch.device("meta"):
        model = architecture.build((length,), classes)
    assert sum(p.numel() for p in model.parameters()) == known


def test_settings_that_came_later_are_in_no_older_key() -> None:
    assert plain(MLP()) == {
        "name": "mlp", "version": 1, "hidden": [128], "batch_norm": True, "mean": None, "std": None,
    }  # fmt: skip
    assert plain(LSTM()) == {"name": "lstm", "version": 1, "hidden": 32}
    assert plain(Linear()) == {"name": "linear", "version": 1, "mean": None, "std": None}
    known = {"name": "classification", "version": 1, "classes": 3, "weights": None}
    assert plain(Classification(classes=3)) == known
    changed = [
        MLP(dropout=0.5),
        LSTM(layers=2),
        LSTM(embedding=8),
        LSTM(dropout=0.1),
        Linear(one_vs_rest=True),
    ]
    for architecture in changed:
        assert key(architecture) != key(type(architecture)())
        assert registry.models.build(plain(architecture)) == architecture


def test_networks_without_dropout_start_as_they_always_did() -> None:
    # Sums of the weights that the commit before these settings drew from seed 0.
    known = {MLP(): 128.2534404959224, LSTM(): 12.11013747670222}
    for architecture, total in known.items():
        model = drawn(architecture, 6, 11)
        assert sum(p.detach().double().sum().item() for p in model.parameters()) == pytest.approx(
            total
        )
    assert [*drawn(MLP(), 6).state_dict()] == [
        "0.mean", "0.std", "2.weight", "2.bias", "3.weight", "3.bias", "3.running_mean",
        "3.running_var", "3.num_batches_tracked", "5.weight", "5.bias",
    ]  # fmt: skip


@pytest.mark.parametrize(("architecture", "length"), SHAPES, ids=repr)
def test_rows_give_logits_and_deep_layers(architecture: Architecture, length: int) -> None:
    for more in (0, 20):
        x = tokens(4, length + more)
        model = drawn(architecture, length + more)
        assert model(x).shape == (4, 3)
    assert len(deep_layers(model, x)) == 3
    assert refusal(model) is None
    with pytest.raises(ValueError, match=f"needs rows of at least .* got {2}"):
        architecture.build((2,), 3)


def test_a_text_is_judged_by_the_largest_of_each_channel() -> None:
    model = drawn(TEXT, 12).eval()
    x = tokens(3, 12)
    state = model.state_dict()
    features = []
    for number, size in enumerate(TEXT.kernels):
        weight, bias = (state[f"branches.{number}.{kind}"] for kind in ("weight", "bias"))
        windows = state["embed.weight"][x].unfold(1, size, 1)  # n place width kernel
        features.append((torch.einsum("nlwk,cwk->nlc", windows, weight) + bias).relu().amax(1))
    expected = torch.cat(features, 1) @ state["head.weight"].T + state["head.bias"]
    torch.testing.assert_close(model(x), expected)


def test_padding_says_nothing_and_learns_nothing() -> None:
    model = drawn(TEXT, 12)
    assert not model.get_submodule("embed").weight[0].any()
    x = tokens(5, 12)
    x[:, 6:] = 0
    model(x).square().sum().backward()
    gradient = model.get_submodule("embed").weight.grad
    assert not gradient[0].any()
    assert gradient.any()


def test_word_vectors_are_kept_out_of_training_and_in_the_checkpoint() -> None:
    one, same, other = (drawn(NEWS, 149, seed=seed) for seed in (0, 1, 0))
    vectors = one.state_dict()["embed.weight"]
    assert vectors.shape == (40, 6)
    assert not vectors[0].any()
    assert torch.equal(vectors, same.state_dict()["embed.weight"])
    assert all(p.requires_grad for p in other.parameters())
    assert "embed.weight" not in dict(one.named_parameters())
    reseeded = drawn(NewsCNN(vocabulary=40, embedding=6, channels=8, seed=1), 149)
    assert not torch.equal(vectors, reseeded.state_dict()["embed.weight"])
    assert first_layer(one, tokens(1, 149)) == "body.0"


def test_of_a_thousand_tokens_thirty_five_positions_are_left() -> None:
    model = drawn(NEWS, 1000)
    last = model.get_submodule("body.6")
    seen = []
    last.register_forward_hook(lambda *call: seen.append(call[-1].shape[-1]))
    model(tokens(1, 1000))
    assert seen == [35]
    last_of_least = []
    last.register_forward_hook(lambda *call: last_of_least.append(call[-1].shape[-1]))
    model(tokens(1, 149))
    assert last_of_least == [1]


def written(folder: Path) -> NewsCNN:
    (folder / "vectors.txt").write_text("cat 1 2 3\nthe 4 5 6\nnowhere 7 8 9\n")
    (folder / "words.txt").write_text("<pad>\n<unk>\nthe\ncat\n")
    return NewsCNN(
        vocabulary=5, embedding=3, vectors=str(folder / "vectors.txt"),
        words=str(folder / "words.txt"),
    )  # fmt: skip


def test_vectors_of_a_file_go_to_their_words(tmp_path: Path) -> None:
    architecture = written(tmp_path)
    expected = torch.tensor([[0, 0, 0], [0, 0, 0], [4, 5, 6], [1, 2, 3], [0, 0, 0]]).float()
    assert torch.equal(drawn(architecture, 149).state_dict()["embed.weight"], expected)
    coded = {"model": {"type": "WordLevel", "vocab": {"<pad>": 0, "cat": 1, "the": 4}}}
    (tmp_path / "words.json").write_text(json.dumps(coded))
    other = NewsCNN(
        vocabulary=5, embedding=3, vectors=architecture.vectors, words=str(tmp_path / "words.json")
    )
    found = drawn(other, 149).state_dict()["embed.weight"]
    assert found[1].tolist() == [1, 2, 3]
    assert found[4].tolist() == [4, 5, 6]
    assert key(other) != key(architecture)
    table = plain(architecture)
    assert registry.models.build(table) == architecture
    (tmp_path / "words.txt").write_text("<pad>\nthe\n")
    with pytest.raises(ValueError, match="not the files that these settings name"):
        registry.models.build(table)


def test_vectors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    good = written(tmp_path)
    with pytest.raises(ValueError, match=r"there is no file .*none\.txt"):
        NewsCNN(vectors=str(tmp_path / "none.txt"), words=good.words)
    with pytest.raises(ValueError, match="together, got one of them"):
        NewsCNN(vectors=good.vectors)
    for width, has in ((2, 3), (4, 3)):
        wrong = NewsCNN(vocabulary=5, embedding=width, vectors=good.vectors, words=good.words)
        with pytest.raises(ValueError, match=f"a word and {width} numbers .* got {has} numbers"):
            wrong.build((149,), 2)
    (tmp_path / "words.txt").write_text("<pad>\nDog\n")
    strangers = NewsCNN(vocabulary=5, embedding=3, vectors=good.vectors, words=good.words)
    with pytest.raises(ValueError, match="a vector for none of the 2 words"):
        strangers.build((149,), 2)
    (tmp_path / "words.json").write_text(json.dumps({"model": {"vocab": [["a", -1.0]]}}))
    pieces = NewsCNN(
        vocabulary=5, embedding=3, vectors=good.vectors, words=str(tmp_path / "words.json")
    )
    with pytest.raises(ValueError, match="with a vocabulary of whole words"):
        pieces.build((149,), 2)


@pytest.mark.parametrize(("architecture", "length"), SHAPES, ids=repr)
def test_they_are_trained_unlearned_from_and_audited(
    architecture: Architecture, length: int
) -> None:
    obeys(architecture, rows(48, length, 40, 3))


@pytest.mark.parametrize(("architecture", "length"), SHAPES, ids=repr)
def test_squared_gradients_are_those_of_single_records(
    architecture: Architecture, length: int
) -> None:
    model = drawn(architecture, length)
    reads_squared_gradients(model, Classification(classes=3), tokens(4, length))


def test_it_learns_which_tokens_a_class_has() -> None:
    problem = obeys(TEXT, rows(120, 12, 40, 3), epochs=15, lr=0.1)
    model, test = problem.train(seed=0), problem.test
    batch = test.take(torch.arange(len(test)))
    assert (model(batch.x).argmax(1) == batch.y).float().mean() > 0.9


def test_tokens_beyond_the_vocabulary_are_told_before_work() -> None:
    small = TextCNN(vocabulary=20, embedding=6, channels=5)
    with pytest.raises(
        ValueError, match=r"token number 39.* vocabulary of 20; set vocabulary = 40"
    ):
        api.problem(halves(rows(48, 12, 40, 3)), small, ["0"])


def test_dropout_follows_every_hidden_layer_and_only_in_training() -> None:
    model = drawn(MLP(hidden=(64, 32), batch_norm=False, dropout=0.5), 8)
    assert [type(layer).__name__ for layer in model] == [
        "Normalize", "Flatten", "Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Linear",
    ]  # fmt: skip
    x = torch.rand(4, 8)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))
    assert "draws from the global generator" in (refusal(model) or "")


def test_networks_with_dropout_obey_the_laws() -> None:
    data = rows(48, 12, 40, 3)
    features = type(data)(F.one_hot(data.take(torch.arange(48)).x, 40).amax(1).float(), data.y)
    obeys(MLP(hidden=(16,), dropout=0.5), features)
    obeys(TextCNN(vocabulary=40, embedding=6, channels=5, dropout=0.5), data)


def test_a_deeper_lstm_drops_between_layers_in_training_only() -> None:
    architecture = LSTM(hidden=8, layers=2, embedding=5, dropout=0.5)
    model, x = drawn(architecture, 7, 11), tokens(4, 7, 11)
    assert model(x).shape == (4, 7, 11)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))
    recur = model.get_submodule("recur")
    assert (recur.num_layers, recur.input_size, recur.dropout) == (2, 5, 0.5)
    alone = drawn(LSTM(hidden=8, dropout=0.5), 7, 11).get_submodule("recur")
    assert alone.dropout == 0


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (MLP, {"dropout": 1.0}, r"dropout in \[0, 1\), got 1.0"),
        (LSTM, {"layers": 0}, "layers of 'lstm' to be at least 1"),
        (LSTM, {"dropout": -0.1}, "dropout in"),
        (TextCNN, {"kernels": ()}, "kernels of 'text_cnn' to be at least 1"),
        (TextCNN, {"vocabulary": 0}, "vocabulary of 'text_cnn'"),
        (NewsCNN, {"channels": 0}, "channels of 'news_cnn'"),
    ],
)
def test_settings_that_make_no_network_are_refused(
    cls: type[Architecture], settings: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        cls(**settings)
