"""Exposure: by how many bits a secret that a model was shown is easier to guess.

Carlini, Liu, Erlingsson, Kos and Song, "The Secret Sharer: Evaluating and Testing Unintended
Memorization in Neural Networks", USENIX Security 2019, https://arxiv.org/abs/1802.08232
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import kstest, skewnorm
from torch import Tensor

from expunge.core.losses import PADDING

FEWEST = 64
"""References that a distribution is fitted to: of fits to 32 draws from a normal distribution a
twentieth run off to an infinite shape, and give secrets never shown up to `MOST` bits."""
MOST = 1000.0
"""Bits at which an extrapolated exposure ends: far down the tail the fit says nothing more."""


def log_perplexity(
    logits: Float[Tensor, "n *positions classes"], y: Int[Tensor, "n *positions"]
) -> Float[Tensor, " n"]:
    """Return each record's surprise in bits, summed over positions at which an answer is wanted."""
    log_p = logits.double().log_softmax(-1)
    wanted = y != PADDING
    own = log_p.gather(-1, y.where(wanted, 0)[..., None])[..., 0]
    return (-own * wanted).reshape(len(y), -1).sum(1) / math.log(2)


def ranks(
    secrets: Float[Tensor, "*batch n"], references: Float[Tensor, "*batch m"]
) -> Int[Tensor, "*batch n"]:
    """Return each secret's place among the references, from 1; after those that it ties with."""
    ordered = references.sort().values
    return 1 + torch.searchsorted(ordered, secrets.contiguous(), right=True)


def interpolated(
    secrets: Float[Tensor, "*batch n"], references: Float[Tensor, "*batch m"]
) -> Float[Tensor, "*batch n"]:
    """Return log2(m) - log2(rank) of each secret, in bits: at most log2(m).

    Compare exposures only at equal numbers of references.
    """
    return math.log2(references.shape[-1]) - ranks(secrets, references).double().log2()


def by_chance(secrets: int, references: int) -> tuple[float, float]:
    """Return the mean of the mean exposure of secrets never shown, and its standard deviation.

    Both are exact. Every rank is as likely; that several secrets share references is in it: the
    shares of all secrets that lie between one reference and the next are Dirichlet's, all of
    whose parameters are 1.
    """
    places = references + 1
    bits = math.log2(references) - torch.arange(1, places + 1, dtype=torch.double).log2()
    total, squares = float(bits.sum()), float(bits.square().sum())
    mean = total / places
    alone = squares / places - mean**2
    together = (total**2 + squares) / (places * (places + 1)) - mean**2
    return mean, math.sqrt(alone / secrets + together * (1 - 1 / secrets))


class Extrapolated(NamedTuple):
    """Exposures by a distribution fitted to the references.

    Attributes:
        exposure: Of each secret, in bits.
        distance: Kolmogorov and Smirnov's, between the references and the fit.
        p: Of a distance as large, were the fit the truth; fitted to the same records it is
            too lenient.
        shape: Of the fit: 0 is a normal distribution, and with its size one side gets steeper,
            up to a sheer end.
    """

    exposure: Float[Tensor, " n"]
    distance: float
    p: float
    shape: float


def extrapolated(secrets: Float[Tensor, " n"], references: Float[Tensor, " m"]) -> Extrapolated:
    """Return minus log2 of how much of a skew-normal, fitted to the references, lies below.

    It has no cap, but depends on the fit: read it with the distance and the shape. References
    that are fewer than `FEWEST`, or all alike, have no fit, and give NaN.
    """
    known = np.asarray(references.double())
    if len(known) < FEWEST or np.ptp(known) == 0:
        nowhere = torch.full((len(secrets),), torch.nan, dtype=torch.double)
        return Extrapolated(nowhere, math.nan, math.nan, math.nan)
    fitted = skewnorm.fit(known)
    # Far below the references the share itself rounds to 0; its logarithm does not.
    bits = -skewnorm.logcdf(np.asarray(secrets.double()), *fitted) / math.log(2)
    test = kstest(known, skewnorm(*fitted).cdf)
    exposure = torch.from_numpy(np.nan_to_num(bits, nan=MOST)).clamp(0.0, MOST)
    shape = float(np.asarray(fitted)[0])
    return Extrapolated(exposure, float(test.statistic), float(test.pvalue), shape)
