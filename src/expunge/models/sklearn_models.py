"""scikit-learn's linear classifiers as networks of ours, and back again.

    from sklearn.linear_model import LogisticRegression
    from expunge import api
    from expunge.models.sklearn_models import to_sklearn

    estimator = LogisticRegression(C=0.1, max_iter=1000).fit(x, y)
    problem = api.problem(data, estimator, forget=["17", "42"])
    outcome = api.unlearn(estimator, problem, "finetune")
    forgotten = to_sklearn(outcome.model, like=estimator)
    forgotten.predict(x)

Nothing is lost either way but the rounding to single precision: classes, decision values and
probabilities are the same. Controls are retrained by the recipe's gradient descent, not by
scikit-learn's solver, with the estimator's own loss: cross-entropy, or of each class against the
rest the log loss, the hinge or its square. With C = 1 / (records x weight decay), or
alpha = weight decay, they have the same L2 penalty but for the intercept's; a logistic regression
of two classes takes twice that decay, since each of its two rows has half of the coefficients.
Other penalties and class weights are not taken over. A scaler's mean and deviation are statistics
of the records it was fitted on, forgotten ones included, and every control has the same: fit it
on other records where that matters.

A support vector machine's margins have the temperature 1, original and controls alike
(`expunge.models.svm`).

A pickled estimator is never loaded, since a pickle may run code when it is read; persist
estimators with `skops.io`, and hand over the object.
"""

import copy
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from expunge.models.linear import Linear
from expunge.models.normalize import Normalize
from expunge.models.svm import SVM, Temperature
from expunge.types import Architecture

Kind = Literal["softmax", "sigmoids", "hinge", "squared_hinge"]

LOSSES: dict[str, Kind] = {
    "log_loss": "sigmoids",
    "hinge": "hinge",
    "squared_hinge": "squared_hinge",
}
TAIL: dict[Kind, tuple[type[nn.Module], ...]] = {
    "softmax": (),
    "sigmoids": (nn.LogSigmoid,),
    "hinge": (Temperature,),
    "squared_hinge": (Temperature,),
}


class Parts(NamedTuple):
    """An estimator, taken apart.

    Attributes:
        classifier: That which decides.
        kind: What its probabilities are of, or that it has none.
        mean: What a scaler before it subtracts from each feature.
        std: What the scaler divides each feature by.
    """

    classifier: Any
    kind: Kind
    mean: Float[np.ndarray, " features"]
    std: Float[np.ndarray, " features"]

    @property
    def pair(self) -> float:
        """How far apart two classes' outputs are for a decision value of 1."""
        return 2.0 if self.kind in ("hinge", "squared_hinge") else 1.0


def is_estimator(model: object) -> bool:
    """Return whether this is an object of scikit-learn's; the library is not imported for it."""
    return any(cls.__module__.partition(".")[0] == "sklearn" for cls in type(model).__mro__)


def check_estimator(estimator: Any, inputs: tuple[int, ...], classes: tuple[str, ...]) -> None:
    """Refuse an estimator of other records: of another width, or with its classes otherwise.

    Args:
        estimator: One that `from_sklearn` takes.
        inputs: Shape of one record.
        classes: Names of the records' classes, in order; empty where they have none.

    Raises:
        ValueError: Where features or classes are not the records'.
    """
    classifier, _, mean, _ = _apart(estimator)
    if len(mean) != prod(inputs):
        raise ValueError(
            f"the estimator was fitted on {len(mean)} features, but records have shape {inputs}; "
            "give it the records that it was fitted on"
        )
    named = tuple(map(_name, classifier.classes_))
    if classes and named != classes:
        raise ValueError(
            f"the estimator's classes are {', '.join(named[:5])}, the records' "
            f"{', '.join(classes[:5])}; number the records' classes by their place in "
            "`estimator.classes_`, and name them so"
        )


def from_sklearn(estimator: Any) -> tuple[nn.Module, Architecture]:
    """Return the network that decides as a fitted estimator does, and its architecture.

    Two classes, of which scikit-learn keeps one row of coefficients, have two rows here: half of
    it and its opposite for a logistic regression, the whole of it and its opposite for a
    support vector machine, so that both hinges are met alike.

    Args:
        estimator: A LogisticRegression, a LinearSVC of one class against the rest, or an
            SGDClassifier by `log_loss`, `hinge` or `squared_hinge`; or a Pipeline of a
            StandardScaler and one of these.

    Raises:
        ValueError: For any other, or one that is not fitted.
    """
    classifier, kind, mean, std = parts = _apart(estimator)
    weight, bias = _coefficients(classifier)
    if len(weight) == 1:
        weight, bias = (np.concatenate([-part, part]) / 2 * parts.pair for part in (weight, bias))
    plain = bool((mean == 0).all() and (std == 1).all())
    levels: dict[str, Any] = {
        "mean": 0.0 if plain else tuple(mean.tolist()),
        "std": 1.0 if plain else tuple(std.tolist()),
    }
    made: dict[Kind, Architecture] = {
        "softmax": Linear(**levels),
        "sigmoids": Linear(**levels, one_vs_rest=True),
        "hinge": SVM(**levels, squared=False),
        "squared_hinge": SVM(**levels),
    }
    network = made[kind].build((len(mean),), len(weight))
    with torch.no_grad():
        layer = network.get_submodule("2")
        for p, values in zip(layer.parameters(), (weight, bias), strict=True):
            p.copy_(torch.tensor(values))
    return network.eval(), made[kind]


def to_sklearn(module: nn.Module, like: Any) -> Any:
    """Return a fitted estimator that decides as a network does.

    Args:
        module: Of the kind that `from_sklearn` makes of `like`. Its first layer is folded into
            the coefficients, as far as a scaler in `like` does not do the same.
        like: A fitted estimator, which gives its settings and its names of classes; it is
            left as it is.

    Raises:
        ValueError: Where the network is none of these, or is not of the estimator's kind.
    """
    made = copy.deepcopy(like)
    parts = _apart(made)
    weight, bias, mean, std = _read(module, parts.kind, len(parts.mean))
    classifier, classes = parts.classifier, len(parts.classifier.classes_)
    if weight.shape != (classes, len(parts.mean)):
        raise ValueError(
            f"expected a network of {len(parts.mean)} features and {classes} classes, as the "
            f"estimator has, got one of {weight.shape[1]} and {weight.shape[0]}"
        )
    # W (x - m) / s + b in the scaler's coordinates, where x = m' + s' u.
    bias = bias + weight @ ((parts.mean - mean) / std)
    weight = weight * (parts.std / std)
    if classes == 2:
        weight, bias = ((part[1:] - part[:1]) / parts.pair for part in (weight, bias))
    classifier.coef_, classifier.intercept_ = weight, bias
    return made


def _apart(estimator: Any) -> Parts:
    """Return the classifier and what a scaler before it does.

    Raises:
        ValueError: For an estimator that is no linear classifier, or is not fitted.
    """
    from sklearn.exceptions import NotFittedError
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.utils.validation import check_is_fitted

    scaler, classifier = None, estimator
    if isinstance(estimator, Pipeline):
        *before, classifier = (step for _, step in estimator.steps)
        if len(before) > 1 or not all(isinstance(step, StandardScaler) for step in before):
            raise ValueError(
                "expected a Pipeline of at most a StandardScaler and a classifier, got one of "
                f"{', '.join(type(step).__name__ for _, step in estimator.steps)}; transform "
                "the records beforehand, and give the classifier alone"
            )
        scaler = before[0] if before else None
    kind = _kind(classifier)
    try:
        for part in (scaler, classifier):
            if part is not None:
                check_is_fitted(part)
    except NotFittedError:
        raise ValueError(
            f"the {type(estimator).__name__} is not fitted; call `fit` before it is handed over"
        ) from None
    if kind == "sigmoids" and len(classifier.classes_) == 2:
        kind = "softmax"  # of one row and its opposite a sigmoid is one
    features = classifier.coef_.shape[1]
    mean = scaler.mean_ if scaler is not None and scaler.with_mean else None
    std = scaler.scale_ if scaler is not None and scaler.with_std else None
    return Parts(
        classifier,
        kind,
        np.zeros(features) if mean is None else np.asarray(mean, float),
        np.ones(features) if std is None else np.asarray(std, float),
    )


def _kind(classifier: Any) -> Kind:
    from sklearn.linear_model import LogisticRegression, SGDClassifier
    from sklearn.svm import SVC, LinearSVC, NuSVC

    if isinstance(classifier, SVC | NuSVC):
        raise ValueError(
            f"a {type(classifier).__name__} has no weights that could be changed: it keeps "
            "training records themselves, in a kernel; take a LinearSVC, perhaps on features of a "
            "sklearn.kernel_approximation.Nystroem, or retrain it"
        )
    if isinstance(classifier, LogisticRegression):
        each = getattr(classifier, "multi_class", None) == "ovr"  # until scikit-learn 1.7
        return "sigmoids" if each or classifier.solver == "liblinear" else "softmax"
    if isinstance(classifier, LinearSVC):
        if classifier.multi_class == "crammer_singer":
            raise ValueError(
                "expected a LinearSVC of one class against the rest, got multi_class="
                "'crammer_singer', whose one hinge over all classes no network here is trained "
                "by, so that no control could be retrained as it was; fit it with "
                "multi_class='ovr'"
            )
        return LOSSES[classifier.loss]
    if isinstance(classifier, SGDClassifier):
        if classifier.loss not in LOSSES:
            raise ValueError(
                f"expected an SGDClassifier by one of {', '.join(LOSSES)}, got loss="
                f"'{classifier.loss}', which no network here is trained by"
            )
        return LOSSES[classifier.loss]
    raise ValueError(
        f"expected a LogisticRegression, LinearSVC or SGDClassifier, or a Pipeline of a "
        f"StandardScaler and one of them, got {type(classifier).__name__}; only linear "
        "classifiers are networks of one layer"
    )


def _coefficients(classifier: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients and intercepts in double precision, a row for each of scikit-learn's."""
    weight = classifier.coef_
    weight = weight.toarray() if hasattr(weight, "toarray") else np.asarray(weight)
    bias = np.broadcast_to(np.asarray(classifier.intercept_, float), len(weight))
    return weight.astype(float), bias


def _read(module: nn.Module, kind: Kind, features: int) -> tuple[np.ndarray, ...]:
    """Return weights, biases, and the first layer's mean and deviation of each feature."""
    layers = [*module.children()]
    start, layer, tail = layers[:1], layers[2:3], layers[3:]
    if not (
        isinstance(module, nn.Sequential)
        and [*map(type, start)] == [Normalize]
        and [*map(type, layer)] == [nn.Linear]
        and all(type(one) in TAIL[kind] for one in tail)
        and (kind != "sigmoids" or tail)
    ):
        known = {"softmax": "'linear'", "sigmoids": "'linear' with one_vs_rest"}
        raise ValueError(
            f"expected a network of architecture {known.get(kind, repr('svm'))}, as "
            f"`from_sklearn` makes of this estimator, got a {type(module).__name__} of "
            f"{', '.join(type(one).__name__ for one in layers) or 'no layers'}"
        )
    found = {name: _double(value) for name, value in module.state_dict().items()}
    levels = [found[f"0.{name}"] for name in ("mean", "std")]
    each = [level.repeat(features // len(level)) for level in levels]  # a channel is a run
    return found["2.weight"], found["2.bias"], *each


def _double(value: Tensor) -> np.ndarray:
    return value.detach().cpu().double().numpy()


def _name(label: Any) -> str:
    """Return a class as records name it: a whole number without its decimals."""
    number = isinstance(label, float | np.floating) and float(label).is_integer()
    return str(int(label)) if number else str(label)
