"""Pictures of a colour: distances known from colour science, and choices plain to see."""

import math

import pytest
import torch

from expunge import registry
from expunge.data import colour
from expunge.data.colour import OfColour, centres, distance, named
from expunge.data.tensors import TensorData
from expunge.types import Sets

RED, GREEN, BLUE, WHITE, BLACK = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 255),
    (0, 0, 0),
)
# CIE L*a*b* of the sRGB primaries under D65, as tables give them.
LAB = {
    RED: (53.24, 80.09, 67.20),
    GREEN: (87.73, -86.18, 83.18),
    BLUE: (32.30, 79.19, -107.86),
    WHITE: (100.0, 0.0, 0.0),
    BLACK: (0.0, 0.0, 0.0),
}


def plain(*colours, side=4):
    """Return one-coloured pictures as bytes."""
    return torch.tensor(colours, dtype=torch.uint8)[:, :, None, None].expand(-1, 3, side, side)


def sets_of(x):
    data = TensorData(x.contiguous(), torch.zeros(len(x), dtype=torch.long))
    return Sets(data, data)


@pytest.fixture
def fading():
    """Ten pictures from black to red: the last are the reddest, out of order."""
    shades = [(25 * k, 0, 0) for k in (3, 9, 1, 7, 0, 10, 5, 2, 8, 4)]
    return sets_of(plain(*shades))


@pytest.mark.parametrize("other", list(LAB))
def test_the_distance_from_red_is_that_of_the_tables(other):
    middle = torch.tensor(other).double().view(1, 1, 3) / 255
    expected = math.dist(LAB[other], LAB[RED])
    assert float(distance(middle, RED)) == pytest.approx(expected, abs=0.05)


def test_the_nearest_centre_counts():
    found = torch.tensor([[BLACK, RED], [BLACK, BLUE]]).double() / 255
    assert distance(found, RED).tolist() == pytest.approx(
        [0.0, min(math.dist(LAB[c], LAB[RED]) for c in (BLACK, BLUE))], abs=0.05
    )


def test_the_centres_of_a_picture_of_two_colours_are_those():
    x = torch.zeros(1, 3, 4, 4)
    x[0, 0, :3] = 1.0  # three rows of red, one of black
    found = {tuple(round(part, 9) for part in c) for c in centres(x, 2, 0)[0].tolist()}
    assert found == {(1.0, 0.0, 0.0), (0.0, 0.0, 0.0)}


def test_more_clusters_than_colours_repeat_a_centre():
    assert (centres(torch.ones(1, 3, 4, 4), 3, 0) == 1).all()


def test_the_reddest_are_chosen_in_order_of_position(fading):
    assert OfColour(count=3).choose(fading).tolist() == [1, 5, 8]  # shades 9, 10 and 8
    assert OfColour(fraction=0.2).choose(fading).tolist() == [1, 5]
    assert OfColour(colour="black", count=2).choose(fading).tolist() == [2, 4]
    assert OfColour(colour=(175, 0, 0), count=1).choose(fading).tolist() == [3]


def test_equal_distances_go_by_position():
    assert OfColour(count=2).choose(sets_of(plain(RED, RED, RED, BLUE))).tolist() == [0, 1]


def test_the_choice_is_the_same_again_and_the_clustering_is_kept(fading, monkeypatch):
    first = OfColour(count=4).choose(fading)

    def forbidden(*_):
        raise AssertionError("clustered again")

    monkeypatch.setattr(colour, "centres", forbidden)
    assert torch.equal(first, OfColour(count=4).choose(fading))
    OfColour(colour="black", count=4).choose(fading)  # another colour, the same centres
    with pytest.raises(AssertionError, match="clustered again"):
        OfColour(count=4, seed=1).choose(fading)


def test_noisy_pictures_give_the_same_centres_for_any_batch(images):
    x = images.take(torch.arange(50)).x
    parts = torch.cat([centres(part, 3, 5) for part in x.split(7)])
    assert torch.equal(parts, centres(x, 3, 5))


@pytest.mark.parametrize("colour", ["red", "#ff0000", "RED", RED])
def test_a_colour_has_many_names(colour):
    assert named(colour) == RED


def test_it_is_registered():
    made = registry.forget.build({"name": "colour", "colour": [255, 0, 0], "count": 3})
    assert made == OfColour(colour=RED, count=3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"colour": "redd"}, "did you mean 'red'"),
        ({"colour": (0, 0, 256)}, "from 0 to 255"),
        ({"count": 3, "fraction": 0.1}, "drop one"),
        ({"clusters": 0}, "clusters >= 1"),
    ],
)
def test_nonsense_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        OfColour(**settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "between 1 and 9 of 10 training records, got 525"),
        ({"count": 0}, "between 1 and 9"),
        ({"count": 9, "within": 30.0}, r"of 10 training records only \d are within delta E 30"),
        ({"colour": "lime", "count": 1}, "only 0 are within delta E 60 of it"),
        ({"count": 3, "clusters": 17}, "4 x 4 pixels has fewer than 17 clusters"),
    ],
)
def test_more_than_there_are_cannot_be_chosen(fading, settings, said):
    with pytest.raises(ValueError, match=said):
        OfColour(**settings).choose(fading)


@pytest.mark.parametrize("shape", [(6,), (1, 4, 4), (4, 4, 3)])
def test_records_that_are_no_colour_pictures_are_refused(shape):
    with pytest.raises(ValueError, match=r"shape \(3, height, width\).*choose by `random`"):
        OfColour(count=1).choose(sets_of(torch.rand(5, *shape)))


def test_normalised_pictures_are_refused():
    with pytest.raises(ValueError, match=r"pixels in \[0, 1\], got -1"):
        OfColour(count=1).choose(sets_of(torch.full((5, 3, 4, 4), -1.0)))
