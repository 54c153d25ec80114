"""How much noise hides which records a published network was trained on.

Neel, Roth and Sharifi-Malvajerdi, "Descent-to-Delete: Gradient-Based Methods for Machine
Unlearning", ALT 2021, https://arxiv.org/abs/2007.02923, for strongly convex problems; and
Balle and Wang, "Improving the Gaussian Mechanism for Differential Privacy", ICML 2018,
https://arxiv.org/abs/1805.06530, for a sensitivity that is given.
"""

import math
from typing import NamedTuple

from scipy.special import log_ndtr


class Constants(NamedTuple):
    """What a strongly convex loss per record is bounded by.

    Attributes:
        lipschitz: Of its gradient's norm, where descent can get to.
        smooth: Of its curvature, from above.
        convex: Of its curvature, from below.
    """

    lipschitz: float
    smooth: float
    convex: float

    @property
    def rate(self) -> float:
        """The largest learning rate of which a contraction is known; the best one too."""
        return 2 / (self.smooth + self.convex)


def softmax_regression(bound: float, decay: float) -> Constants:
    """Return the constants of softmax regression with weight decay on weights and biases.

    With p - e_y of norm at most sqrt(2), a record's gradient is at most G = sqrt(2) · bound,
    and its curvature at most bound² / 2, which decay raises at both ends. Descent with a rate
    of at most 1 / decay stays within G / decay of 0, where decay adds at most G to a gradient.

    Args:
        bound: Norm of a record's features, the constant 1 of the bias among them.
        decay: Of the weights, above 0.
    """
    return Constants(2 * math.sqrt(2) * bound, decay + bound**2 / 2, decay)


def contraction(constants: Constants, rate: float) -> float:
    """Return by what factor a step of gradient descent brings two points nearer, at least.

    At the largest rate, 2 / (M + m), it is the paper's (M - m) / (M + m).

    Raises:
        ValueError: For rates beyond it.
    """
    if not 0 < rate <= constants.rate * (1 + 1e-9):
        raise ValueError(f"expected a rate above 0 and at most {constants.rate}, got {rate}")
    return 1 - rate * constants.convex


def deviation(
    constants: Constants, factor: float, records: int, steps: int, epsilon: float, delta: float
) -> float:
    """Return the standard deviation of Descent-to-Delete's publishing (Theorem 3.1).

    It hides the removal of one record, after so many steps on what is left, from a state that
    `steps_before` steps of training led to.

    Args:
        constants: Of the loss per record.
        factor: By which a step contracts, below 1.
        records: That were trained on.
        steps: Of gradient descent on the records that are left.
        epsilon: Of the indistinguishability from retraining, in nats.
        delta: Of it.
    """
    contracted = factor**steps
    budget = math.sqrt(math.log(1 / delta) + epsilon) - math.sqrt(math.log(1 / delta))
    reach = constants.lipschitz * contracted / (constants.convex * records * (1 - contracted))
    return 4 * math.sqrt(2) * reach / budget


def steps_before(factor: float, records: int, steps: int) -> float:
    """Return how many steps of training the formula asks for before a removal of `steps`.

    Training has to come within 2 L factor^steps / (m n (1 - factor^steps)) of the optimum,
    from a start that is at most L / m away from it, as are points within L / 2m of 0.
    """
    wanted = 2 * factor**steps / (records * (1 - factor**steps))
    return max(0.0, math.log(wanted) / math.log(factor))


def excess(epsilon: float, ratio: float) -> float:
    """Return the least delta at which noise is (epsilon, delta)-private.

    Args:
        epsilon: In nats.
        ratio: Of the noise's standard deviation to the sensitivity.
    """
    half, shift = 1 / (2 * ratio), epsilon * ratio
    return math.exp(log_ndtr(half - shift)) - math.exp(epsilon + log_ndtr(-half - shift))


def analytic_gaussian(epsilon: float, delta: float, sensitivity: float) -> float:
    """Return the least standard deviation that is (epsilon, delta)-private, for any epsilon.

    Args:
        epsilon: Above 0, in nats.
        delta: In (0, 1).
        sensitivity: By how much, in norm, what is published may change.
    """
    low, high = 1.0, 1.0
    while excess(epsilon, low) < delta:
        low /= 2
    while excess(epsilon, high) > delta:
        high *= 2
    while high - low > 1e-12 * high:  # the excess falls as noise grows
        middle = (low + high) / 2
        low, high = (middle, high) if excess(epsilon, middle) > delta else (low, middle)
    return sensitivity * high
