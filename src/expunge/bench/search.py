"""A search of one method's settings: which are tried next, and what came of those before.

Akiba, Sano, Yanase, Ohta and Koyama, "Optuna: A Next-generation Hyperparameter Optimization
Framework", KDD 2019, https://arxiv.org/abs/1907.10902; its sampler is the tree-structured Parzen
estimator of Bergstra, Bardenet, Bengio and Kégl, "Algorithms for Hyper-Parameter Optimization",
NeurIPS 2011.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

from expunge.config import key
from expunge.core.rng import derive
from expunge.method import Method, Search
from expunge.types import Descent

DECADES = 100.0  # a learning rate is searched from a hundredth to a hundred times the given one
STARTUP = 5  # trials drawn at random before the sampler models what came of them


def space(method: Method) -> dict[str, Search]:
    """Return what is searched, by dotted name of the setting; empty where nothing can be.

    It is what the method's card names; else the learning rate of its `descent`, or of every
    descent it has, over two decades either side. Ends give way to the settings as given.

    Raises:
        ValueError: In one sentence, where a setting as given is no place to start from.
    """
    found = dict(method.card.search)
    if not found:
        names = [f.name for f in dataclasses.fields(method)]
        descents = [n for n in names if isinstance(getattr(method, n), Descent)]
        rates = [f"{n}.lr" for n in (["descent"] if "descent" in descents else descents)]
        found = {n: Search(at(method, n) / DECADES, at(method, n) * DECADES) for n in rates}
    return {name: _around(method, name, search) for name, search in found.items()}


def _around(method: Method, name: str, search: Search) -> Search:
    value = at(method, name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(
            f"{method.card.name}: expected a number at '{name}' to start the search from, got "
            f"{value!r}; give it one in the spec"
        )
    low, high = min(search.low, value), max(search.high, value)
    if search.log and low <= 0:
        raise ValueError(
            f"{method.card.name}: expected '{name}' above 0, since it is searched by orders of "
            f"magnitude, got {value}; give it another value in the spec"
        )
    return Search(low, high, search.log)


def at(settings: object, name: str) -> Any:
    """Return the setting of a dotted name."""
    return reduce(getattr, name.split("."), settings)


def changed(settings: Any, name: str, value: float) -> Any:
    """Return the settings with another value under a dotted name; an integer stays one."""
    first, _, rest = name.partition(".")
    old = getattr(settings, first)
    new = changed(old, rest, value) if rest else round(value) if type(old) is int else value
    return dataclasses.replace(settings, **{first: new})


def tidy(value: float, search: Search) -> float:
    """Return the value to three digits, which say all that a search of few trials knows."""
    return min(max(float(f"{value:.3g}"), search.low), search.high)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a trial.

    Attributes:
        objective: What is minimised; None where the method diverged.
        parts: What the objective is the mean of, by set.
        values: The model's accuracy by set, or its mean loss where the task has no accuracy.
        seconds: That unlearning took; None where it diverged.
        why: What went wrong, if it diverged.
    """

    objective: float | None
    parts: Mapping[str, float]
    values: Mapping[str, float]
    seconds: float | None
    why: str | None = None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A method with settings that were tried.

    Attributes:
        number: From 0, which is the method as given.
        method: With these settings.
        settings: Those that are searched, by dotted name.
        result: What came of it.
    """

    number: int
    method: Method
    settings: Mapping[str, float]
    result: Result


class Study:
    """Asks for trials of a method and is told what came of them.

    What is asked depends on results, never on when they came: trial n is chosen from the trials
    up to n - `abreast`, once all of those are told. A search that is run again with as many
    workers thus asks the same again, and finds it in the store.

    Args:
        method: As given; its settings are the first trial.
        seed: Of the search.
        trials: How many there are at most.
        seconds: Of unlearning, after which no further trial begins; None sets no limit.
        abreast: How many trials may run at once.
    """

    def __init__(
        self,
        method: Method,
        *,
        seed: int,
        trials: int,
        seconds: float | None = None,
        abreast: int = 1,
    ) -> None:
        optuna = library()
        self.method, self.space = method, space(method)
        self.asked: list[tuple[Method, dict[str, float]]] = []
        self._limit, self._seconds, self._abreast = trials, seconds, abreast
        self._results: dict[int, Result] = {}
        self._heard = 0
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=STARTUP, seed=derive(seed, "search", key(method)) % 2**32
        )
        self._study = optuna.create_study(sampler=sampler)
        self._study.enqueue_trial({name: at(method, name) for name in self.space})
        self._ranges = {
            name: optuna.distributions.FloatDistribution(s.low, s.high, log=s.log)
            for name, s in self.space.items()
        }

    @property
    def running(self) -> int:
        """How many trials were asked for and not told of."""
        return len(self.asked) - len(self._results)

    @property
    def over(self) -> bool:
        """Whether no further trial will begin, as far as is known."""
        count = self._known()
        spent = sum(self._results[i].seconds or 0.0 for i in range(count) if i in self._results)
        late = self._seconds is not None and count > 0 and spent >= self._seconds
        return late or len(self.asked) >= self._limit

    @property
    def ready(self) -> bool:
        """Whether another trial can be asked for now."""
        return not self.over and all(i in self._results for i in range(self._known()))

    def _known(self) -> int:
        """Return how many trials the next one is chosen from."""
        return max(0, len(self.asked) - self._abreast + 1)

    def ask(self) -> tuple[int, Method]:
        """Return the number of the next trial and the method to try."""
        for number in range(self._heard, self._known()):
            self._hear(number)
        self._heard = self._known()
        drawn = self._study.ask(self._ranges).params
        method, number = self.method, len(self.asked)
        if number:
            for name, value in drawn.items():
                method = changed(method, name, tidy(value, self.space[name]))
        self.asked.append((method, {name: at(method, name) for name in self.space}))
        return number, method

    def _hear(self, number: int) -> None:
        """Tell the sampler of a trial; one that diverged is worse than all that did not."""
        objective = self._results[number].objective
        if objective is None:
            self._study.tell(number, state=library().trial.TrialState.PRUNED)
        else:
            self._study.tell(number, objective)

    def tell(self, number: int, result: Result) -> None:
        """Take the result of a trial."""
        self._results[number] = result

    @property
    def trials(self) -> list[Trial]:
        """The trials that are done, in the order they were asked for."""
        return [
            Trial(number=i, method=method, settings=settings, result=self._results[i])
            for i, (method, settings) in enumerate(self.asked)
            if i in self._results
        ]


def library() -> Any:
    """Return Optuna.

    Raises:
        ValueError: Where it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ValueError("Optuna is not installed; `pip install 'expunge[tune]'`") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
