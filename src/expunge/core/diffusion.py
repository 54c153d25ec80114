"""The noise that diffusion models learn to name, and samples drawn by taking it away again.

A record's signal fades as a cosine while noise rises as a sine: Nichol and Dhariwal, "Improved
Denoising Diffusion Probabilistic Models", ICML 2021, https://arxiv.org/abs/2102.09672, without
their offset. Time is continuous in training; a sampler steps through as many points of it as it
is given, as diffusers has it: Song, Meng and Ermon, "Denoising Diffusion Implicit Models", ICLR
2021, https://arxiv.org/abs/2010.02502.
"""

import importlib.util
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from expunge.core.state import device_of, mode
from expunge.types import Refused

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

AT_ONCE = 256  # samples drawn together: memory only, not the result


def levels(time: Float[Tensor, "*n"]) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    """Return what of a record and what of noise there is at `time`, from 0 to 1."""
    angle = time * math.pi / 2
    return angle.cos(), angle.sin()


def times(steps: int) -> Float[Tensor, " steps"]:
    """Return the points of time that a sampler of so many steps goes through, the first last.

    They are even, and leave out both ends: at 0 there is no noise to take away, at 1 no record.
    """
    return torch.arange(1, steps + 1, dtype=torch.double) / (steps + 1)


def betas(steps: int) -> Float[Tensor, " steps"]:
    """Return the share of variance that noise replaces in each step, of the forward process.

    With them a scheduler's `alphas_cumprod` is the squared signal of `levels` at `times`.
    """
    signal = levels(times(steps))[0].square()
    before = torch.cat([signal.new_ones(1), signal[:-1]])
    return 1 - signal / before


def check_installed() -> None:
    """Refuse to go on without the library that samples are drawn by.

    Raises:
        Refused: Where diffusers is not installed.
    """
    if importlib.util.find_spec("diffusers") is None:
        raise Refused("diffusers is not installed; `pip install 'expunge[diffusion]'`")


def scheduler(steps: int, bound: float | None = None) -> "DDIMScheduler":
    """Return diffusers' sampler for this noise.

    Args:
        steps: That it takes; at least 1.
        bound: Largest absolute value of a record's numbers, to which its guesses of the record
            are clipped; None does not clip.

    Raises:
        Refused: Where diffusers is not installed.
    """
    check_installed()
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler  # slow to import

    made = DDIMScheduler(
        num_train_timesteps=steps,
        trained_betas=betas(steps).tolist(),
        clip_sample=bound is not None,
        clip_sample_range=1.0 if bound is None else bound,
    )
    made.set_timesteps(steps)
    return made


@torch.no_grad()
def generate(
    model: nn.Module,
    condition: Int[Tensor, " n"],
    shape: Sequence[int],
    draws: torch.Generator,
    *,
    steps: int = 50,
    bound: float | None = None,
    eta: float = 1.0,
) -> Float[Tensor, "n ..."]:
    """Draw one sample for each condition, on the scale on which noise is of variance 1.

    The same draws give samples that can be compared from model to model, one by one.

    Args:
        model: A denoiser, as the task `denoising` asks it; read in eval mode.
        condition: The class of each sample.
        shape: Of one sample.
        draws: Of the noise.
        steps: Of the sampler; each is a forward.
        bound: Passed on to `scheduler`.
        eta: Share of fresh noise in each step: 1 is the chain of denoising diffusion models, 0
            has none but at the start. Fresh noise forgives what a small model gets wrong.
    """
    device, sampler = device_of(model), scheduler(steps, bound)
    at, classes = times(steps).float().to(device), condition.to(device).split(AT_ONCE)

    def noise() -> Tensor:
        return torch.randn((len(condition), *shape), generator=draws).to(device)

    x = noise()
    with mode(model, training=False):
        for step in sampler.timesteps.tolist():
            parts = zip(x.split(AT_ONCE), noise().split(AT_ONCE), classes, strict=True)
            x = torch.cat(
                [
                    sampler.step(
                        model({"x": a, "time": at[step].expand(len(a)), "condition": c}).float(),
                        step,
                        a,
                        eta=eta,
                        variance_noise=fresh if eta else None,
                        return_dict=False,
                    )[0]
                    for a, fresh, c in parts
                ]
            )
    return x
