"""Methods whose truth is known."""

import dataclasses

import torch

from expunge.core.descent import train
from expunge.methods.partial_retrain import PartialRetrain
from expunge.methods.unchanged import Unchanged


def states(first, second):
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_unchanged_returns_the_original(blobs):
    assert states(Unchanged()(blobs.original, blobs.request, seed=0).model, blobs.original)


def test_with_nothing_kept_it_is_retraining(blobs):
    out = PartialRetrain(kept=0.0)(blobs.original, blobs.request, seed=4).model
    assert states(out, train(blobs.request.recipe, blobs.request.retain, 4))


def test_with_everything_kept_it_is_training(blobs):
    out = PartialRetrain(kept=1.0)(blobs.original, blobs.request, seed=4).model
    data = blobs.request.retain.join(blobs.request.forget)
    assert states(out, train(blobs.request.recipe, data, 4))


def test_half_of_the_forget_set_is_trained_on(blobs):
    seen = []

    class Watched(type(blobs.request.forget)):
        def select(self, rows):
            seen.append(rows)
            return super().select(rows)

    forget = blobs.request.forget
    watched = Watched(forget.x, forget.y, forget.index)
    request = dataclasses.replace(blobs.request, forget=watched)
    PartialRetrain(kept=0.5)(blobs.original, request, seed=4)
    (rows,) = [r for r in seen if len(r) != len(forget)]
    assert len(rows) == round(len(forget) / 2)
    assert len(rows.unique()) == len(rows)
