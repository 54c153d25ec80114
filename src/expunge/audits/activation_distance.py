"""Euclidean distance of the probabilities from those of retrained models.

Golatkar, Achille and Soatto, "Forgetting Outside the Box: Scrubbing Deep Networks of Information
Accessible from Input-Output Observations", ECCV 2020, https://arxiv.org/abs/2003.02960; as the
mean over forget records by Chundawat et al., AAAI 2023, https://arxiv.org/abs/2205.08096

Departures from the papers:
    1. It is averaged over several retrained models, and they are compared with each other too:
       no two are alike, and the distance between them, not 0, is what deletion would give.
    2. Beside the forget set stand the same distances on retained and on held-out records.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from expunge.audit import Answer, Audit, AuditCard, Case
from expunge.peers import distances
from expunge.subject import Access, Subject


def euclidean(
    p: Float[Tensor, "n *positions classes"], q: Float[Tensor, "n *positions classes"]
) -> Float[Tensor, " n"]:
    """Return the distance between both distributions, in [0, √2], averaged over positions.

    Args:
        p: Logits or log-probabilities.
        q: Logits or log-probabilities.
    """
    each = (p.softmax(-1) - q.softmax(-1)).norm(dim=-1)
    return each.reshape(len(p), -1).mean(1)


@dataclass(frozen=True, kw_only=True)
class ActivationDistance(Audit):
    """How far, in Euclidean distance, are the probabilities from those of retrained models?

    `output_divergence` compares the same answers in nats, which weigh rare answers more, and
    decides; this distance is told because the field reports it.
    """

    card = AuditCard(
        name="activation_distance",
        source="https://arxiv.org/abs/2003.02960",
        access=Access.PROBABILITIES,
        tasks=("classification", "next_token"),
        unit="Euclidean distance between probabilities, in [0, √2]",
        peers=True,
    )

    def ask(self, subject: Subject, case: Case, seed: int) -> Answer:
        return distances(subject, case, {"l2": euclidean}, seed)
