"""Pictures of records in a plane: what lies near what, before and after.

Van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008,
https://jmlr.org/papers/v9/vandermaaten08a.html
"""

import numpy as np
import torch
from jaxtyping import Float
from sklearn.manifold import TSNE
from torch import Tensor

PERPLEXITY = 30.0


def tsne(points: Float[Tensor, "n d"]) -> Float[Tensor, "n 2"]:
    """Return places in a plane where neighbours stay neighbours; distances mean little.

    The same points give the same places. Points that are all alike are all at the origin.
    """
    x = np.asarray(points.double())
    if len(x) < 2 or np.ptp(x, axis=0).max() == 0:
        return torch.zeros(len(x), 2, dtype=torch.double)
    perplexity = min(PERPLEXITY, (len(x) - 1) / 3)
    places = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(x)
    return torch.from_numpy(places).double()


def moved(
    before: Float[Tensor, "n d"], after: Float[Tensor, "n d"]
) -> dict[str, Float[Tensor, "n 2"]]:
    """Return places of the same records before and after, in one plane and in two.

    In one plane what has moved is seen to have moved. Fitted apart, as papers have it, places
    before and after have nothing to do with each other.
    """
    joint = tsne(torch.cat([before, after]))
    return {
        "joint_before": joint[: len(before)],
        "joint_after": joint[len(before) :],
        "apart_before": tsne(before),
        "apart_after": tsne(after),
    }


def nearer(
    points: Float[Tensor, "n d"], first: Float[Tensor, "a d"], second: Float[Tensor, "b d"]
) -> float:
    """Return which share of the points is nearer to the centroid of `first` than of `second`.

    Ties count half.
    """
    here, there = ((points - side.mean(0)).norm(dim=1) for side in (first, second))
    return float(((here < there).double() + (here <= there).double()).mean() / 2)
