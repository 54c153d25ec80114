"""Crop and flip are exactly what a loop over single images would do."""

import pytest
import torch
import torch.nn.functional as F

from expunge.types import Augment


def one_by_one(x: torch.Tensor, crop: int, flip, rng: torch.Generator) -> torch.Tensor:
    n, _, height, width = x.shape
    mirrored = torch.rand(n, generator=rng) < 0.5 if flip else torch.zeros(n, dtype=torch.bool)
    shift = torch.zeros(2, n, 1, dtype=torch.long)
    if crop:
        shift = torch.randint(0, 2 * crop + 1, (2, n, 1), generator=rng)
    done = []
    for i, image in enumerate(x):
        top, left = int(shift[0, i]), int(shift[1, i])
        padded = F.pad(image, [crop] * 4)
        cut = padded[:, top : top + height, left : left + width]
        done.append(cut.flip(2) if mirrored[i] else cut)
    return torch.stack(done)


@pytest.mark.parametrize("crop", [0, 1, 4])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_batched_augmentation_equals_a_loop(crop, flip, channels, dtype) -> None:
    x = (255 * torch.rand(64, channels, 9, 7)).to(dtype)
    for seed in range(3):
        rngs = [torch.Generator().manual_seed(seed) for _ in range(2)]
        got = Augment(crop=crop, flip=flip)(x, rngs[0])
        assert torch.equal(got, one_by_one(x, crop, flip, rngs[1]))


def test_channels_last_batches_come_out_the_same() -> None:
    x = torch.rand(8, 3, 6, 6)
    last = x.contiguous(memory_format=torch.channels_last)
    augment = Augment(crop=2, flip=True)
    rngs = [torch.Generator().manual_seed(0) for _ in range(2)]
    assert torch.equal(augment(x, rngs[0]), augment(last, rngs[1]))


def test_no_batch_is_no_trouble() -> None:
    empty = Augment(crop=2, flip=True)(torch.rand(0, 3, 6, 6), torch.Generator())
    assert empty.shape == (0, 3, 6, 6)


def test_only_images_can_be_cropped() -> None:
    with pytest.raises(ValueError, match="crop and flip are for images"):
        Augment(crop=1)(torch.rand(4, 5), torch.Generator())
