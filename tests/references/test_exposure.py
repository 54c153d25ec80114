"""Exposure against published vectors, loops and numeric integrals."""

import dataclasses
import math

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import skewnorm

from expunge.audit import Case
from expunge.audits.exposure import Exposure
from expunge.core.exposure import (
    MOST,
    by_chance,
    extrapolated,
    interpolated,
    log_perplexity,
    ranks,
)
from expunge.core.losses import PADDING
from expunge.core.rng import generator
from expunge.core.sample import distinct
from expunge.data.tensors import TensorData
from expunge.subject import Refused, Served, WhiteBox


def test_the_published_vector():
    references = torch.arange(1.0, 17.0)
    got = interpolated(torch.tensor([0.0, 0.1, 20.0, 3.5]), references)
    assert got.tolist() == [4.0, 4.0, math.log2(16) - math.log2(17), 2.0]
    # A tie places the secret after the reference.
    assert ranks(torch.tensor([1.0, 16.0]), references).tolist() == [2, 17]


def test_ranks_are_those_of_a_loop_whatever_dimensions_lead():
    draws = generator(0, "ranks")
    secrets, references = (torch.randint(9, (4, k), generator=draws).float() for k in (5, 30))
    got = ranks(secrets, references)
    for i in range(4):
        for j in range(5):
            assert int(got[i, j]) == 1 + sum(r <= secrets[i, j] for r in references[i])


def test_log_perplexity_is_in_bits_and_of_the_secret_alone():
    draws = generator(0, "perplexity")
    logits, y = torch.randn(4, 6, 5, generator=draws), torch.randint(5, (4, 6), generator=draws)
    y[:, :4] = PADDING
    got = log_perplexity(logits, y)
    for i in range(4):
        p = logits[i].double().softmax(-1)
        expected = -sum(math.log2(p[t, y[i, t]]) for t in range(6) if y[i, t] != PADDING)
        assert float(got[i]) == pytest.approx(expected)


def test_by_chance_is_what_secrets_never_shown_have():
    draws = generator(0, "chance")
    for n, m in ((10, 100), (40, 20)):
        means = interpolated(
            torch.rand(4000, n, generator=draws), torch.rand(4000, m, generator=draws)
        ).mean(-1)
        center, deviation = by_chance(n, m)
        assert float(means.mean()) == pytest.approx(center, abs=4 * float(means.std()) / 63)
        assert float(means.std()) == pytest.approx(deviation, rel=0.05)


def test_extrapolated_is_the_integral_of_the_fitted_density():
    draws = generator(0, "fit")
    references = 30 + 4 * torch.randn(400, generator=draws)
    secrets = torch.tensor([12.0, 20.0, 30.0, 60.0])
    got = extrapolated(secrets, references)
    fitted = skewnorm.fit(references.double().numpy())
    for secret, bits in zip(secrets.tolist(), got.exposure.tolist(), strict=True):
        share, _ = quad(lambda x: skewnorm.pdf(x, *fitted), -60, secret, epsabs=0, limit=500)
        assert bits == pytest.approx(-math.log2(min(1.0, share)), rel=1e-3, abs=1e-6)
    assert got.distance < 0.05
    assert got.p > 0.05


def test_extrapolation_ends_and_does_not_overflow():
    references = torch.randn(100, generator=generator(0, "tail"))
    got = extrapolated(torch.tensor([-1e6, -20.0, 1e6]), references)
    assert got.exposure[0] == MOST
    assert 100 < got.exposure[1] < MOST
    assert got.exposure[2] == 0
    alike = extrapolated(torch.tensor([1.0]), torch.ones(100))
    assert alike.exposure.isnan().all()


def test_nothing_is_extrapolated_from_fewer_references_than_fits_converge_on():
    # Of sixteen, one fit in four has an infinite shape: secrets never shown then have 1,000 bits.
    draws = generator(0, "few")
    most = []
    for _ in range(60):
        few = torch.randn(16, generator=draws)
        most.append(float(extrapolated(torch.randn(20, generator=draws), few).exposure.max()))
    assert all(math.isnan(bits) for bits in most)
    for _ in range(20):
        enough = torch.randn(64, generator=draws)
        got = extrapolated(torch.randn(20, generator=draws), enough)
        assert abs(got.shape) < 10
        assert float(got.exposure.max()) < 40


def test_a_bad_fit_shows_in_its_distance():
    two = torch.cat([torch.linspace(0, 1, 100), torch.linspace(50, 51, 100)])
    got = extrapolated(torch.tensor([0.5]), two)
    assert got.distance > 0.15
    assert got.p < 0.05


VOCABULARY, LENGTH, SECRET, REFERENCES = 8, 7, 4, 80


@pytest.fixture
def case(made) -> Case:
    """Secrets of four tokens after the same beginning; most of them are references."""
    draws = generator(0, "secrets")
    tokens = torch.randint(VOCABULARY, (20 + REFERENCES, LENGTH + 1), generator=draws)
    y = tokens[:, 1:].clone()
    y[:, :-SECRET] = PADDING
    held = made["next_token"]
    secrets = TensorData(tokens[:, :-1], y)
    request = dataclasses.replace(held.request, forget=secrets.select(torch.arange(20)))
    box = WhiteBox(held.original)
    references = secrets.select(torch.arange(20, 20 + REFERENCES))
    return Case(original=box, unlearned=box, request=request, test=references)


def knowing(data, count):
    """Return a function that knows the first records by heart, and guesses the others."""
    x, y, _ = data.take(torch.arange(count))
    known = {tuple(row.tolist()): answer for row, answer in zip(x, y, strict=True)}

    def respond(x):
        noise = torch.rand(len(x), LENGTH, VOCABULARY, generator=generator(int(x.sum())))
        p = (0.2 * noise).softmax(-1)
        for i, row in enumerate(x):
            answer = known.get(tuple(row.tolist()))
            if answer is not None:
                sure = torch.full((LENGTH, VOCABULARY), 1e-4 / (VOCABULARY - 1))
                p[i] = sure.scatter(1, answer.clamp(min=0)[:, None], 1 - 1e-4)
        return p

    return Served(respond)


def test_secrets_known_by_heart_are_exposed_as_far_as_ranks_go(case):
    forget = case.request.forget
    answer = Exposure()(dataclasses.replace(case, unlearned=knowing(forget, 20)), seed=0).unlearned
    assert answer.headline == answer.values["cap"] == math.log2(REFERENCES)
    assert answer.values["extractable"] == 1
    assert answer.values["extrapolated"] > 10
    assert answer.null.excludes(answer.headline)
    assert any("at most 6.3 bits" in warning for warning in answer.warnings)
    assert not any("sheer" in warning for warning in answer.warnings)
    assert answer.arrays["rank"].tolist() == [1] * 20


def test_half_of_the_secrets_known_is_half_of_them_extractable(case):
    unlearned = knowing(case.request.forget, 10)
    answer = Exposure()(dataclasses.replace(case, unlearned=unlearned), seed=0).unlearned
    assert answer.values["extractable"] == 0.5
    assert answer.headline == pytest.approx(float(answer.arrays["exposure"].mean()))
    assert (answer.arrays["extrapolated"] > 10).tolist() == [True] * 10 + [False] * 10


def test_secrets_never_shown_lie_where_chance_puts_them(case):
    unlearned = knowing(case.request.forget, 0)
    answer = Exposure()(dataclasses.replace(case, unlearned=unlearned), seed=0).unlearned
    assert not answer.null.excludes(answer.headline)
    assert answer.values["extractable"] == 0


def test_distinct_records_are_the_first_of_each_question_and_answer():
    x = torch.tensor([[1, 2], [1, 2], [3, 4], [1, 2], [3, 4]])
    y = torch.tensor([[2, 5], [2, 6], [4, 5], [2, 5], [4, 5]])
    data = TensorData(x, y)
    assert distinct(data).index.tolist() == [0, 1, 2]
    assert distinct(data.select(torch.arange(3))).index.tolist() == [0, 1, 2]
    whole = data.select(torch.arange(3))
    assert distinct(whole) is whole


def test_copies_of_a_secret_are_one_secret(case):
    forget = case.request.forget
    unlearned = knowing(forget, 10)
    once = Exposure()(dataclasses.replace(case, unlearned=unlearned), seed=0).unlearned
    request = dataclasses.replace(case.request, forget=forget.select(torch.arange(20).repeat(10)))
    often = dataclasses.replace(case, unlearned=unlearned, request=request)
    answer = Exposure()(often, seed=0).unlearned
    assert answer.values == once.values
    assert answer.null == once.null
    assert answer.intervals == once.intervals
    assert {k: v.tolist() for k, v in answer.arrays.items()} == {
        k: v.tolist() for k, v in once.arrays.items()
    }
    assert {len(answer.arrays[k]) for k in ("exposure", "rank", "index", "log_perplexity")} == {20}


def test_of_few_references_ranks_are_told_and_nothing_else(case):
    forget, few = case.request.forget, case.test.select(torch.arange(60))
    few_of = dataclasses.replace(case, unlearned=knowing(forget, 20), test=few)
    answer = Exposure()(few_of, seed=0).unlearned
    assert answer.headline == math.log2(60)
    assert answer.null.excludes(answer.headline)
    assert [*answer.values] == ["exposure", "cap"]
    assert "extrapolated" not in answer.arrays
    (warning,) = answer.warnings
    assert "by rank alone, at most 5.9 bits" in warning
    assert "at least 64 references, got 60" in warning


def test_where_all_references_are_alike_no_share_is_told(case, monkeypatch):
    told = {20: torch.zeros(20), REFERENCES: torch.ones(REFERENCES)}
    monkeypatch.setattr(Served, "score", lambda self, data, *_: told[len(data)])
    unlearned = knowing(case.request.forget, 0)
    answer = Exposure()(dataclasses.replace(case, unlearned=unlearned), seed=0).unlearned
    assert math.isnan(answer.values["extractable"])
    assert "extractable" not in answer.record()["intervals"]
    assert any("equally likely" in warning for warning in answer.warnings)


def test_a_fit_with_a_sheer_end_is_warned_of(case, monkeypatch):
    unlearned = knowing(case.request.forget, 0)
    draws = generator(0, "sheer")
    references = torch.rand(REFERENCES, generator=draws).square()
    told = {20: torch.randn(20, generator=draws), REFERENCES: references}
    monkeypatch.setattr(Served, "score", lambda self, data, *_: told[len(data)])
    answer = Exposure()(dataclasses.replace(case, unlearned=unlearned), seed=0).unlearned
    assert float(answer.arrays["extrapolated"].max()) == MOST
    assert any("sheer end (shape" in warning for warning in answer.warnings)


def test_few_references_and_records_without_a_secret_are_refused(case):
    few = dataclasses.replace(case, test=case.test.select(torch.arange(5)))
    with pytest.raises(Refused, match="at least 8 references"):
        Exposure().check(few)
    x, y, _ = case.test.take(torch.arange(len(case.test)))
    y[3] = PADDING
    with pytest.raises(Refused, match="no position at which an answer"):
        Exposure().check(dataclasses.replace(case, test=TensorData(x, y)))
    with pytest.raises(ValueError, match="threshold above 0"):
        Exposure(threshold=0.0)
