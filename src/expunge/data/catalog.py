"""Data sets with a name: one table, and no code for any one of them."""

from dataclasses import dataclass

from expunge.data.card import SourceCard
from expunge.data.named import Images, Named, Texts, Tokens

KINDS: dict[str, type[Named]] = {"images": Images, "texts": Texts, "tokens": Tokens}

TABLE = (
    SourceCard(
        name="cifar10",
        source="https://www.cs.toronto.edu/~kriz/cifar.html",
        kind="images",
        note="50,000 + 10,000 colour photographs of 10 classes; no licence stated, cite",
        hub="uoft-cs/cifar10",
        x=("img",),
        labels=("label",),
        side=32,
    ),
    SourceCard(
        name="cifar100",
        source="https://www.cs.toronto.edu/~kriz/cifar.html",
        kind="images",
        note="50,000 + 10,000 colour photographs of 100 classes in 20; no licence stated, cite",
        hub="uoft-cs/cifar100",
        x=("img",),
        labels=("fine_label", "coarse_label"),
        side=32,
    ),
    SourceCard(
        name="mnist",
        source="http://yann.lecun.com/exdb/mnist",
        kind="images",
        note="60,000 + 10,000 handwritten digits; CC BY-SA 3.0",
        hub="ylecun/mnist",
        x=("image",),
        labels=("label",),
        side=28,
        grey=True,
    ),
    SourceCard(
        name="fashion_mnist",
        source="https://arxiv.org/abs/1708.07747",
        kind="images",
        note="60,000 + 10,000 grey pictures of clothes, 10 classes; MIT",
        hub="zalando-datasets/fashion_mnist",
        x=("image",),
        labels=("label",),
        side=28,
        grey=True,
    ),
    SourceCard(
        name="svhn",
        source="http://ufldl.stanford.edu/housenumbers",
        kind="images",
        note="73,257 + 26,032 digits of house numbers; for non-commercial use",
        hub="ufldl-stanford/svhn",
        config="cropped_digits",
        x=("image",),
        labels=("label",),
        side=32,
    ),
    SourceCard(
        name="stl10",
        source="https://cs.stanford.edu/~acoates/stl10",
        kind="images",
        note="5,000 + 8,000 photographs of 10 classes, 96x96; no licence stated",
        hub="tanganke/stl10",
        x=("image",),
        labels=("label",),
        side=96,
    ),
    SourceCard(
        name="pet37",
        source="https://www.robots.ox.ac.uk/~vgg/data/pets",
        kind="images",
        note="3,680 + 3,669 photographs of 37 breeds of cat and dog; CC BY-SA 4.0",
        hub="timm/oxford-iiit-pet",
        x=("image",),
        labels=("label",),
        groups=("label_cat_dog",),
        side=64,
    ),
    SourceCard(
        name="flowers102",
        source="https://www.robots.ox.ac.uk/~vgg/data/flowers/102",
        kind="images",
        note="1,020 + 6,149 photographs of 102 kinds of flower; for research",
        hub="dpdl-benchmark/oxford_flowers102",
        x=("image",),
        labels=("label",),
        side=64,
    ),
    # Sui et al., https://arxiv.org/abs/2506.19486, train on the official test split, being six
    # times the training split, and hold out the latter. Their code draws half of it with
    # replacement, which leaves copies of forgotten records among the retained; `scale=0.5` keeps
    # as many, each once, and half of what is held out.
    SourceCard(
        name="flowers102_swapped",
        source="https://www.robots.ox.ac.uk/~vgg/data/flowers/102",
        kind="images",
        note="flowers102, trained on the official test split: 6,149 + 1,020; for research",
        hub="dpdl-benchmark/oxford_flowers102",
        folder="flowers102",
        x=("image",),
        labels=("label",),
        train="test",
        test=("train",),
        side=64,
    ),
    SourceCard(
        name="flowers",
        source="https://www.robots.ox.ac.uk/~vgg/data/flowers/102",
        kind="images",
        note="2,582 + 850 photographs of 89 kinds, part of flowers102; from a folder only",
        x=("image",),
        labels=("label",),
        side=64,
    ),
    SourceCard(
        name="tiny_imagenet32",
        source="https://www.kaggle.com/c/tiny-imagenet",
        kind="images",
        note="validation photographs of 200 classes at 32x32, out of others' distribution; "
        "for non-commercial research",
        hub="zh-plus/tiny-imagenet",
        x=("image",),
        labels=("label",),
        train="valid",
        test=(),
        side=32,
    ),
    SourceCard(
        name="newsgroups20",
        source="http://qwone.com/~jason/20Newsgroups",
        kind="texts",
        note="some 11,300 + 7,500 posts to 20 newsgroups; public posts",
        hub="SetFit/20_newsgroups",
        x=("text",),
        labels=("label",),
    ),
    SourceCard(
        name="imdb",
        source="https://aclanthology.org/P11-1015",
        kind="texts",
        note="film reviews, negative or positive; no licence stated, cite",
        hub="stanfordnlp/imdb",
        x=("text",),
        labels=("label",),
    ),
    SourceCard(
        name="customer_reviews",
        source="https://doi.org/10.1145/1014052.1014073",
        kind="texts",
        note="sentences on products, negative or positive; no licence stated",
        hub="SetFit/CR",
        x=("text",),
        labels=("label",),
    ),
    SourceCard(
        name="reuters",
        source="https://archive.ics.uci.edu/dataset/137",
        kind="texts",
        note="Reuters-21578 news, ModApte split, those of one topic alone; for research",
        hub="ucirvine/reuters21578",
        config="ModApte",
        revision="refs/convert/parquet",
        x=("title", "text"),
        labels=("topics",),
    ),
    SourceCard(
        name="ptb",
        source="https://aclanthology.org/J93-2004",
        kind="tokens",
        note="Penn Treebank, Mikolov's form, 10,000 words; for research",
        hub="ptb-text-only/ptb_text_only",
        config="penn_treebank",
        revision="refs/convert/parquet",
        x=("sentence",),
        test=("validation", "test"),
    ),
)


def _class(card: SourceCard) -> type[Named]:
    """Return a class of its own for one line of the table, as a registry expects."""
    kind = KINDS[card.kind]
    name = "".join(word.capitalize() for word in card.name.split("_"))
    doc = (kind.__doc__ or "").partition("\n")[2]
    members = {"card": card, "__doc__": f"{card.note}.\n{doc}", "__module__": __name__}
    return dataclass(frozen=True, kw_only=True)(type(name, (kind,), members))


globals().update({cls.__name__: cls for cls in map(_class, TABLE)})
