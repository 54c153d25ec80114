"""Where records lie inside a network, and whether a straight line leads from it to another."""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from expunge.core.features import read
from expunge.core.state import device_of, mode, norms_of, recalibrate
from expunge.types import Data, Refused


@torch.no_grad()
def features_of(
    network: nn.Module, data: Data, layer: str, size: int = 128
) -> Float[Tensor, "n _"]:
    """Return what a layer gives for each record, in eval mode, on the CPU."""
    parts = []
    with mode(network, training=False):
        for batch in data.batches(size):
            _, given = read(network, batch.x, [layer])
            parts.append(given[layer].float().cpu())
    return torch.cat(parts)


def silhouettes(features: Float[Tensor, "n f"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return how much nearer each record is to its own class than to the next, in [-1, 1].

    Rousseeuw, "Silhouettes: A Graphical Aid to the Interpretation and Validation of Cluster
    Analysis", Journal of Computational and Applied Mathematics 1987. Distances are Euclidean;
    the only record of a class has 0.

    Raises:
        Refused: Where there are fewer than two classes, or as many as records.
    """
    from sklearn.metrics import silhouette_samples

    kinds = len(y.unique())
    if not 2 <= kinds < len(y):
        raise Refused(
            f"expected records of two classes or more, and several of some, got {len(y)} of "
            f"{kinds}; ask about more records"
        )
    return torch.from_numpy(silhouette_samples(features.double().numpy(), y.numpy()))


def probe(
    known: tuple[Float[Tensor, "k f"], Int[Tensor, " k"]],
    asked: tuple[Float[Tensor, "n f"], Int[Tensor, " n"]],
    folds: int = 5,
) -> Float[Tensor, " n"]:
    """Return for each record asked about whether a linear probe tells its class.

    The probe is softmax regression on standardised features. It learns from the known records
    and from the other folds of those asked about, so that none is told by what it was taught.

    Args:
        known: Features and classes of records that it may learn from.
        asked: Those of the records in question; every `folds`-th is asked about at a time.
        folds: How many parts they are cut in.

    Raises:
        Refused: Where a probe would have records of one class alone to learn from.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fold = torch.arange(len(asked[1])) % folds
    told = torch.zeros(len(fold), dtype=torch.double)
    for number in range(min(folds, len(fold))):
        here = fold == number
        x = torch.cat([known[0], asked[0][~here]]).double().numpy()
        y = torch.cat([known[1], asked[1][~here]]).numpy()
        if len({*y.tolist()}) < 2:
            raise Refused(
                f"expected records of two classes or more to teach a probe, got {len(y)} of one; "
                "ask about more records, retained ones above all"
            )
        learner = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
        said = learner.fit(x, y).predict(asked[0][here].double().numpy())
        told[here] = torch.from_numpy(said == asked[1][here].numpy()).double()
    return told


def alike(one: nn.Module, other: nn.Module) -> bool:
    """Return whether two networks have the same tensors, so that a line leads between them."""
    shapes = [{k: v.shape for k, v in network.state_dict().items()} for network in (one, other)]
    return shapes[0] == shapes[1]


def distance(one: nn.Module, other: nn.Module) -> float:
    """Return the Euclidean distance between the weights of two networks that are alike."""
    theirs = dict(other.named_parameters())
    squares = [
        (p.detach() - theirs[name].detach()).double().square().sum()
        for name, p in one.named_parameters()
    ]
    return float(torch.stack(squares).sum().sqrt())


def between(one: nn.Module, other: nn.Module, share: float) -> nn.Module:
    """Return the network `share` of the way from `one` to `other`, buffers included."""
    ends = one.state_dict(), other.state_dict()
    made = copy.deepcopy(one)
    state = {
        k: torch.lerp(v, ends[1][k].to(v), share) if v.is_floating_point() else v
        for k, v in ends[0].items()
    }
    made.load_state_dict(state)
    return made


def barrier(
    one: nn.Module,
    other: nn.Module,
    loss: Callable[[nn.Module], float],
    data: Data,
    steps: int = 10,
) -> tuple[float, Float[Tensor, " looks"]]:
    """Return how far the loss on the straight line rises above its ends', and all of its values.

    Frankle, Dziugaite, Roy and Carbin, "Linear Mode Connectivity and the Lottery Ticket
    Hypothesis", ICML 2020, https://arxiv.org/abs/1912.05671. Above the straight line between the
    ends' losses, that is; 0 where it never rises. Between the ends, BatchNorm's statistics are
    those of neither (Jordan et al., "REPAIR", ICLR 2023): all along the line, at the ends too, they
    are estimated anew on `data`.

    Args:
        one: At one end.
        other: At the other; both are alike.
        loss: Of a network.
        data: Records that BatchNorm's statistics are taken of.
        steps: How many pieces the line is cut in.
    """
    values, size = [], min(256, len(data))
    whole = data.select(torch.arange(len(data) // size * size))
    for step in range(steps + 1):
        network = between(one, other, step / steps)
        if norms_of(network):
            recalibrate(network, whole.to(str(device_of(network))).batches(size))
        values.append(loss(network))
    losses = torch.tensor(values, dtype=torch.double)
    straight = torch.linspace(float(losses[0]), float(losses[-1]), steps + 1, dtype=torch.double)
    return float((losses - straight).max().clamp(min=0)), losses


def overlap(
    group: Float[Tensor, "k 2"], others: Sequence[Float[Tensor, "_ 2"]], cells: int = 60
) -> float:
    """Return how much of a group's density lies under the densest other group's, in [0, 1].

    Densities are Gaussian kernel estimates with Scott's bandwidth, on a grid over all points; the
    overlap of two is the integral of the smaller, and the largest of all others' counts. A group
    that lies on a line has no density; the overlap is NaN where `group` or all others are such.
    """
    from scipy.stats import gaussian_kde

    points = torch.cat([group, *others])
    low, high = points.amin(0), points.amax(0)
    margin = 0.1 * (high - low)
    axes = [
        torch.linspace(float(a), float(b), cells, dtype=torch.double)
        for a, b in zip(low - margin, high + margin, strict=True)
    ]
    grid = torch.cartesian_prod(*axes).T.numpy()

    def density(its: Tensor) -> np.ndarray | None:
        if len(its) < 3:
            return None
        try:
            values = gaussian_kde(its.T.numpy())(grid)
        except np.linalg.LinAlgError:
            return None
        return values / values.sum()

    mine, theirs = density(group), [density(other) for other in others]
    if mine is None:
        return float("nan")
    shared = [float(np.minimum(mine, other).sum()) for other in theirs if other is not None]
    return max(shared, default=float("nan"))
