"""Distance of the answers from those of retrained models.

Golatkar, Achille and Soatto, "Forgetting Outside the Box", ECCV 2020 (divergence from the
retrained model), https://arxiv.org/abs/2003.02960; Chundawat et al., "Can Bad Teaching Induce
Forgetting?", AAAI 2023 (Jensen-Shannon), https://arxiv.org/abs/2205.08096

Departures from the papers:
    1. The divergences are the textbook ones, summed over classes; much published code
       swaps the arguments and averages, and exceeds ln 2.
"""

from dataclasses import dataclass

from expunge.audit import Answer, Audit, AuditCard, Case
from expunge.core import losses
from expunge.peers import distances
from expunge.subject import Access, Subject


@dataclass(frozen=True, kw_only=True)
class OutputDivergence(Audit):
    """How far, in nats, are the answers from those of retrained models?

    A retrained model that is itself the subject is compared with the others. Without
    another retrained model the distances are from the original's answers, and only
    tell how much more the forget records moved than records never trained on.
    """

    card = AuditCard(
        name="output_divergence",
        source="https://arxiv.org/abs/2205.08096",
        access=Access.PROBABILITIES,
        tasks=("classification", "next_token"),
        decides=True,
        unit="nats",
        peers=True,
    )

    def ask(self, subject: Subject, case: Case, seed: int) -> Answer:
        kinds = {"js": losses.jensen_shannon, "kl": losses.kl}
        return distances(subject, case, kinds, seed)
