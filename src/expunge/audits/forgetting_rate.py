"""The forgetting rate: how many records that were called members are no longer.

Liu, Ma, Liu, Liu, Jiang, Ma, Yu and Ren, "Learn to Forget: Machine Unlearning
via Neuron Masking", IEEE Transactions on Dependable and Secure Computing 2022 (the
rates, equations 2 and 10), https://arxiv.org/abs/2003.10933; the black-box oracle is Salem et
al.'s, "ML-Leaks", NDSS 2019, https://arxiv.org/abs/1806.01246; the white-box one is Nasr et al.'s,
"Comprehensive Privacy Analysis of Deep Learning", S&P 2019, https://arxiv.org/abs/1812.00910

An oracle of membership is made before anything is unlearned, and then fixed. The forgetting rate
is FR = (AF - BF) / BT: of the forget set's records that it called members before (BT), how many
more does it call no members after (AF) than before (BF). The catastrophic forgetting rate is the
same loss among retained training records.

Departures from the paper:
    1. The shadow model is trained on half of the pool, of which the target's own training
       records are part, and not on another half of the data; the target is trained on all.
    2. The forget set's own records, and copies of them, are left out when the oracle is fitted.
       Whether the shadow was trained on them is drawn by chance, so that they would give
       nothing away; but the oracle would be asked about records that it knows.
    3. The oracle is tried on records that it was not fitted on; the paper tries it on all.
    4. The paper gives neither the number of trees, nor depth, nor rate.
    5. The rate is judged against that of retrained models: an oracle that calls many records
       members that are none finds little forgotten whatever is done, and one that calls
       few, much.
    6. The catastrophic rate is that of a random sample of the retained records.
    7. In a sequence the oracle sees the posteriors at the positions that are asked for, averaged;
       the paper's oracles are for classes, though it draws the rate of a language model. A secret
       that the forget set has several times is one record there.
    8. The white box learns from members and others of the same classes, and where records were
       planted, from none of these: it would learn what was planted, and not what was trained on.
    9. Of held-out records that are planted the oracle learns from as many as the target was
       trained on; the shadow model itself is trained on half of all there are, which is more.
   10. Records before and after are drawn into one plane too, where a move is one. Which share of
       the forget records is nearer to training than to test records, by centroids, is told of the
       posteriors themselves, since distances in such a plane mean little.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from expunge.audit import LEVEL, Answer, Audit, AuditCard, Case
from expunge.config import key
from expunge.core import embedding
from expunge.core import oracle as black_box
from expunge.core.cost import Cost
from expunge.core.oracle import Quality, apart, fit_trees, top_posteriors
from expunge.core.rng import generator
from expunge.core.sample import distinct, some
from expunge.core.white_box import (
    Encoders,
    Signals,
    encoded,
    find_layer,
    fit_network,
    read_signals,
    says,
)
from expunge.data.strata import common
from expunge.data.tensors import TensorData
from expunge.lab import Needs
from expunge.shadowing import lab_of
from expunge.stats import Interval
from expunge.subject import Access, Refused, Subject
from expunge.types import Data, Preset, Request

Kind = Literal["black_box", "white_box", "sequence"]
Known = Literal["all", "alike"]

TASK: dict[Kind, str] = {
    "black_box": "classification",
    "white_box": "classification",
    "sequence": "next_token",
}
FEWEST = 8  # records on either side that an oracle is fitted on or tried on
CHOOSING = 0.2  # share of the records, known to a white box, by which its best epoch is chosen
BEFORE = 2  # what is noted of a record called a member before; of one called so after it is 1
ENCODERS = Encoders()


class Oracle(NamedTuple):
    """What calls records members; made before anything is unlearned, and then fixed.

    Attributes:
        points: Takes a model and records, returns what is seen of each record.
        says: Takes that, returns which records it calls members.
        quality: On records that it was not fitted on.
    """

    points: Callable[[Subject, Data], Float[Tensor, "n points"]]
    says: Callable[[Float[Tensor, "n points"]], Bool[Tensor, " n"]]
    quality: Quality


def pair(
    before: Bool[Tensor, "*batch n"], after: Bool[Tensor, "*batch n"]
) -> Float[Tensor, "*batch n"]:
    """Return one number per record of what was said of it before and after.

    As one number, both stay together when records are drawn anew.
    """
    return BEFORE * before.double() + after.double()


def rates(
    forget: Float[Tensor, "*batch n"], retain: Float[Tensor, "*batch m"]
) -> dict[str, Tensor]:
    """Return FR, CFR, BT, BF and AF; a rate of no records is not a number.

    Args:
        forget: What `pair` gives of each record of the forget set.
        retain: The same of retained training records.
    """
    bt, kept = ((side >= BEFORE).double().sum(-1) for side in (forget, retain))
    at, still = ((side % BEFORE).double().sum(-1) for side in (forget, retain))
    bf, af = (forget.shape[-1] - called for called in (bt, at))
    none = torch.tensor(torch.nan, dtype=torch.double)
    fr = torch.where(bt > 0, (af - bf) / bt, none)
    cfr = torch.where(kept > 0, (kept - still) / kept, none)
    return {"fr": fr, "cfr": cfr, "bt": bt, "bf": bf, "af": af}


@dataclass(frozen=True, kw_only=True)
class ForgettingRate(Audit):
    """How many records that a membership oracle knew are no longer members to it?

    More is not better: models that never saw the records set the goal. A rate above theirs, with
    a large `cfr` beside it, is damage. `fr` is the forgetting rate and `cfr` the catastrophic one;
    `bt` and `bf` count the forget records that were called members and not before unlearning, and
    `af` those that are not after. What begins with `oracle_` tells how good the oracle is on
    records of the shadow's, or of the target's, that it was not fitted on; its recall is its
    true positive rate. An oracle like this cannot decide whether records are forgotten.

    Attributes:
        oracle: `black_box` sees the three largest posteriors and learns from a shadow model's;
            `white_box` sees the last layer's gradient and activations, the loss and the label,
            and learns from retained records and records held out; `sequence` is the black box
            for tokens.
        shadows: Shadow models that an oracle without weights learns from; the paper has one.
        records: Which of the pool's it learns from: `all`, or those `alike`, held-out ones of the
            forget set's kind, where it is of a kind.
        trees: Of the boosted model.
        depth: Of each tree.
        rate: By which each tree counts less than it would alone.
        tested: Share of the records that the oracle is tried on.
        retained: At most so many retained records are asked about; None asks about all.
        encoders: The white box's network.
        embed: Points of each group, of training, test and forget records, that are placed in a
            plane, before and after, by t-SNE; 0 for no picture.
    """

    card = AuditCard(
        name="forgetting_rate",
        source="https://arxiv.org/abs/2003.10933",
        access=Access.PROBABILITIES,
        tasks=("classification", "next_token"),
        unit="share of what was known before; the goal is the retrained models' rate",
        quick=False,
        toy={"trees": 20},
        presets={
            "authors_encoders": Preset(
                {
                    "oracle": "white_box",
                    "encoders": {"filters": 100, "widths": [2024, 512, 256], "epochs": 100},
                },
                "https://github.com/privacytrustlab/ml_privacy_meter, before 2023",
            )
        },
    )

    oracle: Kind = "black_box"
    shadows: int = 1
    records: Known = "all"
    trees: int = 200
    depth: int = 3
    rate: float = 0.1
    tested: float = 0.25
    retained: int | None = 1000
    encoders: Encoders = ENCODERS
    embed: int = 0

    def __post_init__(self) -> None:
        if min(self.shadows, self.trees, self.depth) < 1 or not 0 < self.rate <= 1:
            raise ValueError(
                "expected at least 1 shadow, tree and level, and a rate in (0, 1], got "
                f"shadows={self.shadows}, trees={self.trees}, depth={self.depth}, rate={self.rate}"
            )
        if not 0 < self.tested < 1:
            raise ValueError(f"expected tested in (0, 1), got {self.tested}")
        if (self.retained is not None and self.retained < 1) or self.embed < 0:
            raise ValueError(
                "expected retained >= 1 or none and embed >= 0, got "
                f"{self.retained} and {self.embed}"
            )
        if self.oracle == "white_box" and self.records == "alike":
            raise ValueError(
                "a white box learns from retained records, of which none is of the forget set's "
                "kind; take records='all'"
            )

    @property
    def needs(self) -> Needs:
        return Needs() if self.oracle == "white_box" else Needs(shadow_networks=self.shadows)

    def work(self, request: Request, test: Data) -> Cost:
        if self.oracle != "white_box":
            return Cost()
        asked = len(request.forget) + len(request.retain) + len(test)
        return Cost(forward=2 * asked, backward=0)

    def check(self, case: Case) -> None:
        super().check(case)
        task = case.request.task.card.name
        if TASK[self.oracle] != task:
            fits = " or ".join(f"oracle='{kind}'" for kind, its in TASK.items() if its == task)
            raise Refused(
                f"forgetting_rate with oracle='{self.oracle}' is for {TASK[self.oracle]}; for "
                f"{task} take {fits}"
            )
        if self.oracle == "white_box":
            for subject in (case.unlearned, case.original, *case.retrained):
                if subject.access < Access.WEIGHTS:
                    raise Refused(
                        "forgetting_rate with oracle='white_box' reads gradients and needs the "
                        f"model's weights, but a {type(subject).__name__} gives "
                        f"{subject.access.name.lower()} only; take oracle='black_box'"
                    )
            for subject in (case.original, case.unlearned):
                _layer(subject, case.request.forget)
            known = min(len(part) for part in self._inside(case))
            self._enough(torch.arange(2 * known) < known)
        else:
            black_box.library()
            rows = self._rows(case)
            for number in range(self.shadows):
                self._enough(lab_of(case).pool.half(number)[rows])

    def _enough(self, member: Tensor) -> None:
        """Refuse records of which too few on a side would be fitted on, or tried on."""
        share = min(self.tested, 1 - self.tested)
        fewest = int(min(member.sum(), (~member).sum()) * share)
        if fewest < FEWEST:
            raise Refused(
                f"the oracle would be fitted on, or tried on, {fewest} members or others only; it "
                f"takes {FEWEST}: hold more records out, or take other `records` or `tested`"
            )

    def ask(self, subject: Subject, case: Case, seed: int) -> Answer:
        del seed  # one oracle for all models, whatever the seed
        oracle, forget, retain = self._made(case), self._forgotten(case), self._retained(case)

        def called(model: Subject, data: Data) -> Tensor:
            points = oracle.points(model, data)
            if not bool(points.isfinite().all()):
                raise Refused(
                    f"{int((~points.isfinite()).any(1).sum())} of {len(points)} records have "
                    "answers that are not finite; the model diverged, and should be trained or "
                    "unlearned anew"
                )
            return oracle.says(points)

        pairs = [
            pair(called(case.original, data), called(subject, data)) for data in (forget, retain)
        ]
        answer = Answer.over(
            rates,
            *pairs,
            null=_unseen(pairs[0], called(subject, case.nonmembers)),
            arrays={
                "member_before": pairs[0] >= BEFORE,
                "member_after": pairs[0] % BEFORE > 0,
                "index": forget.index.cpu(),
                **(self._pictures(oracle, subject, case) if self.embed else {}),
            },
            warnings=_warnings(oracle.quality, pairs),
        )
        return answer.plus(
            oracle.quality.values()
            | {"oracle_p_chance": oracle.quality.p_chance}
            | (self._nearer(oracle, subject, case) if self.embed else {})
        )

    def _made(self, case: Case) -> Oracle:
        """Return the case's oracle, made once for all its models."""
        place, kept = ("oracle", key(self), *case.place), case.original.answers
        if place not in kept:
            kept[place] = self._within(case) if self.oracle == "white_box" else self._without(case)
        return kept[place]

    def _without(self, case: Case) -> Oracle:
        """Return an oracle that sees posteriors, fitted on those of shadow models."""
        lab, rows = lab_of(case), self._rows(case)
        halves = [lab.pool.half(number)[rows] for number in range(self.shadows)]
        said = [
            lab.said_by_shadow(number, {"top posteriors": black_box.TOP}, top_posteriors)[rows]
            for number in range(self.shadows)
        ]
        # A record is either fitted on or tried on, whichever shadow speaks of it.
        held = apart(halves[0], self.tested, "tested")
        member, points = (torch.stack(part) for part in (halves, said))
        decide = fit_trees(
            points[:, ~held].flatten(0, 1),
            member[:, ~held].flatten(),
            trees=self.trees,
            depth=self.depth,
            rate=self.rate,
        )
        tried = decide(points[:, held].flatten(0, 1))

        def see(model: Subject, data: Data) -> Tensor:
            return model.score(data, case.request.task, top_posteriors, 0)

        return Oracle(see, decide, Quality.of(tried, member[:, held].flatten()))

    def _rows(self, case: Case) -> Tensor:
        """Return which records of the pool an oracle learns from: none of the forget set."""
        pool = lab_of(case).pool
        asked = pool.copies[pool.find(case.request.forget)]
        usable = ~torch.isin(pool.copies, asked)
        if self.records == "alike" and case.alike is not None:
            kind = torch.zeros_like(usable)
            kind[pool.find(case.alike)] = True
            usable &= kind
        elif pool.planted:
            order = torch.randperm(pool.planted, generator=generator(0, "asked", "planted"))
            usable[len(pool) - pool.planted + order[len(asked) :]] = False
        return usable.nonzero()[:, 0]

    def _within(self, case: Case) -> Oracle:
        """Return an oracle that sees the weights, fitted on records known to be in or out."""
        recipe, layer = case.request.recipe, _layer(case.original, case.request.forget)

        def read(model: Subject, data: Data) -> Signals:
            return read_signals(model.model, layer, data, recipe.task)

        sides = self._inside(case)
        count = min(len(side) for side in sides)
        told = [read(case.original, some(side, count, "known")) for side in sides]
        signals = {name: torch.cat([part[name] for part in told]) for name in told[0]}
        member = torch.arange(2 * count) < count
        tried = apart(member, self.tested, "tested")
        choosing = torch.zeros_like(tried)
        choosing[~tried] = apart(member[~tried], CHOOSING, "epoch")

        def those(rows: Tensor) -> TensorData:
            part = {name: signal[rows] for name, signal in signals.items()}
            return TensorData(part, member[rows].long())

        network = fit_network(those(~tried & ~choosing), those(choosing), self.encoders, recipe)

        def see(model: Subject, data: Data) -> Tensor:
            return encoded(network, read(model, data))

        decide = partial(says, network)
        its = {name: signal[tried] for name, signal in signals.items()}
        return Oracle(see, decide, Quality.of(decide(encoded(network, its)), member[tried]))

    def _inside(self, case: Case) -> tuple[Data, Data]:
        """Return records that the original was trained on, and others, known to a white box.

        None of the former is asked about for the catastrophic rate.
        """
        request = case.request
        _, known = self._dealt(request.retain)
        # Planted records are of the forget set's kind: with them the oracle would learn the kind.
        planted = case.alike is not None
        others = request.val if planted else request.val.join(request.nonmembers)
        return common(known, others, generator(0, "asked", "known"))

    def _forgotten(self, case: Case) -> Data:
        """Return the forget records that are asked about, of a sequence's copies one."""
        forget = case.request.forget
        return distinct(forget) if self.oracle == "sequence" else forget

    def _retained(self, case: Case) -> Data:
        """Return the retained records that are asked about."""
        if self.oracle == "white_box":
            return self._dealt(case.request.retain)[0]
        return some(case.request.retain, self.retained, "retain")

    def _dealt(self, retain: Data) -> tuple[Data, Data]:
        """Return retained records that are asked about, at most half, and the others."""
        n = len(retain)
        order = torch.randperm(n, generator=generator(0, "asked", "retain"))
        count = min(n // 2, n if self.retained is None else self.retained)
        parts = order[:count].sort().values, order[count:].sort().values
        return retain.select(parts[0]), retain.select(parts[1])

    def _groups(self, oracle: Oracle, model: Subject, case: Case) -> list[Tensor]:
        """Return the largest three points of some training, test and forget records."""
        sets = {"retain": self._retained(case), "test": case.test, "forget": self._forgotten(case)}
        found = [
            oracle.points(model, some(data, self.embed, f"embed {name}"))
            for name, data in sets.items()
        ]
        return [its.topk(min(black_box.TOP, its.shape[1]), dim=1).values for its in found]

    def _pictures(self, oracle: Oracle, subject: Subject, case: Case) -> dict[str, Tensor]:
        """Return places in a plane before and after, and each record's group."""
        before, after = (self._groups(oracle, model, case) for model in (case.original, subject))
        places = embedding.moved(torch.cat(before), torch.cat(after))
        group = torch.cat([torch.full((len(part),), i) for i, part in enumerate(before)])
        return {f"embedding_{name}": its for name, its in places.items()} | {
            "embedding_group": group
        }

    def _nearer(self, oracle: Oracle, subject: Subject, case: Case) -> dict[str, float]:
        """Return which share of the forget records is nearer to training than to test records."""
        found = {}
        for name, model in (("before", case.original), ("after", subject)):
            retain, test, forget = self._groups(oracle, model, case)
            found[f"near_training_{name}"] = embedding.nearer(forget, retain, test)
        return found


def _layer(subject: Subject, data: Data) -> str:
    """Return the name of the layer whose gradients are read.

    Raises:
        Refused: Where the network has none, as several that vote.
    """
    try:
        return find_layer(subject.model, data)
    except ValueError as error:
        raise Refused(
            "forgetting_rate with oracle='white_box' reads the gradient of one last layer: "
            f"{error}; take oracle='black_box'"
        ) from error


def _unseen(forget: Tensor, called: Bool[Tensor, " k"]) -> Interval | None:
    """Return the rate at which records never trained on would put it, at 95 %.

    Of such records the oracle calls some members, and so a rate of 1 is not the goal.

    Args:
        forget: What `pair` gives of the forget set.
        called: Which records never trained on the same model makes it call members.
    """
    n, known = len(forget), int((forget >= BEFORE).sum())
    if not known:
        return None
    false = float((~called).double().mean())
    deviation = math.sqrt(false * (1 - false) * (1 / n + 1 / len(called)))

    def rate(share: float) -> float:
        return (n * min(1.0, max(0.0, share)) - (n - known)) / known

    reach = 1.96 * deviation
    return Interval(rate(false), rate(false - reach), rate(false + reach))


def _warnings(quality: Quality, pairs: list[Tensor]) -> tuple[str, ...]:
    told = []
    if not quality.p_chance < LEVEL:
        told.append(
            "the oracle is no better than chance: of records that it was not fitted on it calls "
            f"{quality.found} of {quality.members} members members, and "
            f"{quality.others - quality.spared} of {quality.others} others; no rate by it tells "
            "anything"
        )
    for name, rate, records in zip(("forget", "retained"), ("fr", "cfr"), pairs, strict=True):
        if not bool((records >= BEFORE).any()):
            told.append(
                f"the oracle called none of {len(records)} {name} records a member before "
                f"unlearning, so {rate} is a rate of nothing and not a number: the original does "
                "not show them, or the oracle is too weak"
            )
    return tuple(told)
