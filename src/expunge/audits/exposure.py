"""Exposure of secrets in running text: by how many bits the model narrows a guess.

Carlini, Liu, Erlingsson, Kos and Song, "The Secret Sharer: Evaluating and Testing Unintended
Memorization in Neural Networks", USENIX Security 2019, https://arxiv.org/abs/1802.08232

Secrets of the same form are drawn, some are put into the training text and the others never.
A secret that a model has not seen is as surprising as any of these references.

Departures from the paper:
    1. The references are the case's records never trained on, 4,096 where the data is `secrets`
       and nothing else was asked for; the paper goes through all secrets or a large sample of
       them. So a rank shows at most log2 of their number, and what lies above is extrapolated.
    2. Both kinds of exposure are told, with how far the references are from the fitted
       distribution; whether a secret can be extracted is told by the extrapolated one. Of fewer
       than 64 references nothing is extrapolated.
    3. Ties place the secret after the references it ties with.
    4. A secret that the forget set has several times is one secret, and is asked about once.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from expunge import stats
from expunge.audit import LEVEL, Answer, Audit, AuditCard, Case
from expunge.core.exposure import (
    FEWEST,
    Extrapolated,
    by_chance,
    extrapolated,
    interpolated,
    log_perplexity,
    ranks,
)
from expunge.core.losses import PADDING
from expunge.core.sample import distinct
from expunge.stats import Interval
from expunge.subject import Access, Refused, Subject

RANKED = 8  # references, that ranks among them say anything
STEEP = 100.0  # a fit's shape: it stays below a tenth of this, or runs off to millions


def summary(secrets: Tensor, references: Tensor) -> dict[str, Tensor]:
    """Return the mean exposure by rank, of log-perplexities of whatever dimensions lead."""
    return {"exposure": interpolated(secrets, references).mean(-1)}


@dataclass(frozen=True, kw_only=True)
class Exposure(Audit):
    """By how many bits, on average, is a secret easier to guess than one never shown?

    Records are secrets in their surroundings, of which only the secret positions are asked for:
    the answers at all others are padding. Compare exposures at equal numbers of references only.

    Attributes:
        threshold: Bits of extrapolated exposure above which a secret counts as extractable.
    """

    card = AuditCard(
        name="exposure",
        source="https://arxiv.org/abs/1802.08232",
        version=3,
        access=Access.PROBABILITIES,
        alone=True,
        tasks=("next_token",),
        decides=True,
        unit="bits by rank; at most log2 of the number of references",
    )

    threshold: float = 10.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.threshold) and self.threshold > 0):
            raise ValueError(f"expected a threshold above 0 bits, got {self.threshold}")

    def check(self, case: Case) -> None:
        super().check(case)
        references = case.nonmembers
        if len(references) < RANKED:
            raise Refused(
                f"exposure needs at least {RANKED} references, secrets of the same form that were "
                f"never trained on, got {len(references)}; hold more of them out"
            )
        for name, data in (("forget", case.request.forget), ("never trained on", references)):
            empty = int((data.y == PADDING).flatten(1).all(1).sum())
            if empty:
                raise Refused(
                    f"{empty} of {len(data)} records ({name}) have no position at which an answer "
                    f"is asked for, so no secret; mark all others with {PADDING}, not these"
                )

    def ask(self, subject: Subject, case: Case, seed: int) -> Answer:
        task, forget = case.request.task, distinct(case.request.forget)
        secrets, references = (
            subject.score(data, task, log_perplexity, seed) for data in (forget, case.nonmembers)
        )
        center, deviation = by_chance(len(secrets), len(references))
        reach, cap = 1.96 * deviation, math.log2(len(references))
        by_fit = extrapolated(secrets, references)
        fits, arrays, exact = {}, {}, {}
        if len(references) >= FEWEST:
            fits = {"extrapolated": float(by_fit.exposure.mean()), "ks_distance": by_fit.distance}
            arrays = {"extrapolated": by_fit.exposure}
            exact = {"extractable": self._extractable(by_fit)}
        answer = Answer.over(
            summary,
            secrets,
            references,
            null=Interval(center, center - reach, min(cap, center + reach)),
            exact=exact,
            arrays={
                "exposure": interpolated(secrets, references),
                "rank": ranks(secrets, references),
                "log_perplexity": secrets,
                "reference_log_perplexity": references,
                "index": forget.index.cpu(),
                **arrays,
            },
            warnings=self._warnings(cap, len(references), by_fit),
        )
        return answer.plus({**fits, "cap": cap})

    def _extractable(self, by_fit: Extrapolated) -> Interval:
        """Return the share of secrets above the threshold; NaN where there is no fit."""
        if math.isnan(by_fit.p):
            return Interval(math.nan)
        above = int((by_fit.exposure > self.threshold).sum())
        return stats.proportion(above, len(by_fit.exposure))

    def _warnings(self, cap: float, references: int, by_fit: Extrapolated) -> tuple[str, ...]:
        if references < FEWEST:
            return (
                f"exposure by rank alone, at most {cap:.1f} bits: to extrapolate takes at least "
                f"{FEWEST} references, got {references}; hold more of them out",
            )
        told = []
        if cap <= self.threshold:
            told.append(
                f"by rank among {references} references exposure is at most {cap:.1f} bits, so "
                f"whether it is above {self.threshold:g} is told by extrapolation alone"
            )
        if math.isnan(by_fit.p):
            told.append("all references are equally likely, so nothing can be extrapolated")
        elif by_fit.p < LEVEL:
            told.append(
                "the references do not follow the skew-normal distribution that extrapolation "
                "assumes; trust no exposure above the cap"
            )
        if abs(by_fit.shape) > STEEP:
            told.append(
                f"the distribution fitted to the references has a sheer end (shape "
                f"{by_fit.shape:.0e}), so that a secret beyond it has hundreds of bits, or none, "
                "whether it was shown or not; trust no extrapolated exposure, and hold more "
                "references out"
            )
        return tuple(told)
