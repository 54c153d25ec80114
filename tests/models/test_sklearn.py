"""scikit-learn's linear classifiers as networks and back: nothing is lost on the way."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC, LinearSVC
from torch import nn

from expunge import api
from expunge.core.grads import mean_gradient
from expunge.data.tensors import TensorData
from expunge.models.convnet import ConvNet
from expunge.models.linear import Linear
from expunge.models.sklearn_models import from_sklearn, is_estimator, to_sklearn
from expunge.models.svm import SVM
from expunge.tasks.categorical import SURE, Classification
from expunge.types import Sets

MADE = {
    "logistic": lambda: LogisticRegression(C=0.1),
    "svc": lambda: LinearSVC(C=0.1),
    "svc without intercept": lambda: LinearSVC(C=0.1, fit_intercept=False),
    "svc plain": lambda: LinearSVC(C=0.1, loss="hinge", max_iter=50_000),
    "sgd hinge": lambda: SGDClassifier(random_state=0),
    "sgd squared": lambda: SGDClassifier(
        loss="squared_hinge",
        learning_rate="constant",
        eta0=1e-4,
        tol=None,
        max_iter=20,
        random_state=0,
    ),
    "sgd logistic": lambda: SGDClassifier(loss="log_loss", random_state=0),
    "scaled logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression()),
    "scaled svc": lambda: make_pipeline(StandardScaler(with_mean=False), LinearSVC()),
}
every = pytest.mark.parametrize("name", MADE)
counts = pytest.mark.parametrize("classes", [2, 4])


def records(classes: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = make_blobs(120, 5, centers=classes, cluster_std=4.0, random_state=1)
    x[:, 0] = 3 + 0.1 * x[:, 0]
    return x.astype(np.float32), y


def fitted(name: str, classes: int) -> tuple[Any, np.ndarray, np.ndarray]:
    x, y = records(classes)
    return MADE[name]().fit(x.astype(float), y), x, y


def outputs(model: nn.Module, x: np.ndarray) -> np.ndarray:
    """Return a network's outputs in double precision, so that rounding hides nothing."""
    with torch.no_grad():
        return copy.deepcopy(model).double()(torch.from_numpy(x).double()).numpy()


def margins(model: nn.Module, x: np.ndarray) -> np.ndarray:
    """Return what the linear layer gives."""
    assert isinstance(model, nn.Sequential)
    return outputs(model[:3], x)


def agree(estimator: Any, model: nn.Module, x: np.ndarray, *, hinge: bool) -> None:
    """Compare classes, decision values and probabilities."""
    given, linear = outputs(model, x), margins(model, x)
    assert (given.argmax(1) == estimator.predict(x)).all()
    if linear.shape[1] == 2:
        linear = (linear[:, 1] - linear[:, 0]) / (2 if hinge else 1)
    found = estimator.decision_function(x)
    if linear.ndim > 1 and hasattr(estimator, "predict_proba") and not sigmoids(model):
        found = found - found.mean(1, keepdims=True)  # a softmax knows differences alone
        linear = linear - linear.mean(1, keepdims=True)
    np.testing.assert_allclose(linear, found, rtol=1e-6, atol=1e-6 * np.abs(found).max())
    if hasattr(estimator, "predict_proba"):
        posterior = torch.from_numpy(given).softmax(1).numpy()
        np.testing.assert_allclose(posterior, estimator.predict_proba(x), atol=1e-6)


def sigmoids(model: nn.Module) -> bool:
    return any(isinstance(layer, nn.LogSigmoid) for layer in model)  # pyright: ignore[reportGeneralTypeIssues]


@every
@counts
def test_a_network_decides_as_its_estimator(name: str, classes: int) -> None:
    estimator, x, _ = fitted(name, classes)
    model, architecture = from_sklearn(estimator)
    agree(estimator, model, x, hinge=isinstance(architecture, SVM))
    assert not model.training
    fresh = architecture.build((5,), classes)
    assert {k: v.shape for k, v in fresh.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }


@every
@counts
def test_an_estimator_decides_as_its_network(name: str, classes: int) -> None:
    estimator, x, _ = fitted(name, classes)
    before = estimator.decision_function(x)
    model, architecture = from_sklearn(estimator)
    with torch.no_grad():  # as unlearning may leave it: two rows are no longer opposites
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    made = to_sklearn(model, like=estimator)
    agree(made, model, x, hinge=isinstance(architecture, SVM))
    assert type(made) is type(estimator)
    assert not np.allclose(made.decision_function(x), before)
    assert np.array_equal(estimator.decision_function(x), before)


@every
@counts
def test_controls_are_trained_by_the_loss_of_the_estimator(name: str, classes: int) -> None:
    estimator, x, y = fitted(name, classes)
    model, architecture = from_sklearn(estimator)
    task = architecture.adapt(Classification(classes=classes))
    found = task.training_losses(torch.tensor(outputs(model, x)), torch.from_numpy(y)).numpy()
    decided = estimator.decision_function(x)
    if classes == 2:
        decided = np.stack([-decided, decided], 1)
    margins = np.where(y[:, None] == np.arange(classes), decided, -decided)
    classifier = estimator[-1] if hasattr(estimator, "steps") else estimator
    if getattr(classifier, "loss", None) == "hinge":
        expected = np.maximum(0, 1 - margins).sum(1)
    elif getattr(classifier, "loss", None) == "squared_hinge":
        expected = (np.maximum(0, 1 - margins) ** 2).sum(1)
    elif name == "sgd logistic" and classes > 2:
        each = np.logaddexp(0, -margins)  # this estimator's margins are in the hundreds
        wrong = (margins != decided) & (each > -np.log(SURE))
        expected = np.where(wrong, -np.log(SURE), each).sum(1)
    elif classes == 2:
        expected = np.logaddexp(0, -margins[np.arange(len(y)), y])
    else:
        expected = -estimator.predict_log_proba(x)[np.arange(len(y)), y]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * expected.max())


def test_sigmoids_that_are_sure_have_losses_and_gradients() -> None:
    task = Linear(one_vs_rest=True).adapt(Classification(classes=2))
    for z in (0.0, 20.0, -20.0, 40.0, 200.0, -200.0):
        logits = torch.tensor([[z, -z]], requires_grad=True)
        for answer in (0, 1):
            loss = task.training_losses(nn.functional.logsigmoid(logits), torch.tensor([answer]))
            (slope,) = torch.autograd.grad(loss.sum(), logits)
            sign = 1.0 if answer == 0 else -1.0
            assert bool(slope.isfinite().all())
            if abs(z) > 40:
                continue
            exact = 2 * np.logaddexp(0, -sign * z)
            assert float(loss.detach()) == pytest.approx(exact, rel=1e-4, abs=1e-7)
            expected = -2 * sign / (1 + np.exp(sign * z))
            assert float(slope[0, 0] - slope[0, 1]) == pytest.approx(expected, abs=1e-5)


def test_the_penalty_of_two_logistic_classes_is_twice_the_decay() -> None:
    x, y = records(2)
    estimator = LogisticRegression(C=0.1, tol=1e-10, max_iter=10_000).fit(x, y)
    model, architecture = from_sklearn(estimator)
    data = TensorData(torch.from_numpy(x), torch.from_numpy(y))
    task = architecture.adapt(Classification(classes=2))
    slope = mean_gradient(model, task, data.batches(50))
    weight, decay = model.get_submodule("2").weight.detach(), 2 / (0.1 * len(y))
    torch.testing.assert_close(slope["2.weight"], -decay * weight, rtol=1e-3, atol=1e-5)


@every
@counts
def test_there_and_back_is_the_same_but_for_rounding(name: str, classes: int) -> None:
    estimator, _, _ = fitted(name, classes)
    back = to_sklearn(from_sklearn(estimator)[0], like=estimator)
    one, other = ((e[-1] if hasattr(e, "steps") else e) for e in (back, estimator))
    assert one.coef_.shape == other.coef_.shape
    scale = 1e-6 * np.abs(other.coef_).max()
    np.testing.assert_allclose(one.coef_, other.coef_, rtol=1e-6, atol=scale)
    np.testing.assert_allclose(one.intercept_, other.intercept_, rtol=1e-5, atol=1e-6)


def test_the_first_layer_is_folded_in_where_the_estimator_has_no_scaler() -> None:
    estimator, x, _ = fitted("logistic", 4)
    mean, std = (0.5, 1.0, -2.0, 0.0, 3.0), (2.0, 0.5, 1.0, 4.0, 1.5)
    for levels in ({"mean": mean, "std": std}, {"mean": 0.5, "std": 0.25}):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = Linear(**levels).build((5,), 4)
        agree(to_sklearn(model, like=estimator), model, x, hinge=False)


def test_channels_of_images_are_folded_in_pixel_by_pixel() -> None:
    x = torch.rand(20, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    flat, y = x.flatten(1).numpy(), np.arange(20) % 3
    estimator = LogisticRegression().fit(flat, y)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Linear(mean=(0.2, 0.7), std=(0.5, 0.1)).build((2, 3, 3), 3)
    made = to_sklearn(model, like=estimator)
    posterior = model(x).softmax(1).detach().numpy()
    np.testing.assert_allclose(made.predict_proba(flat), posterior, atol=1e-5)


def test_a_temperature_changes_no_decision_value() -> None:
    estimator, x, _ = fitted("svc", 4)
    cold, _ = from_sklearn(estimator)
    warm = SVM(temperature=3.0, mean=0.0, std=1.0).build((5,), 4)
    warm.load_state_dict(cold.state_dict())
    made = to_sklearn(warm, like=estimator)
    np.testing.assert_allclose(made.decision_function(x), margins(cold, x), rtol=1e-6, atol=1e-6)


def test_sparse_coefficients_are_taken_as_they_are() -> None:
    estimator, x, _ = fitted("svc", 4)
    dense = margins(from_sklearn(estimator)[0], x)
    assert np.array_equal(margins(from_sklearn(estimator.sparsify())[0], x), dense)


@pytest.mark.parametrize("name", ["scaled logistic", "svc", "svc plain", "sgd logistic"])
@counts
def test_an_estimator_is_unlearned_from_and_audited(name: str, classes: int) -> None:
    estimator, x, y = fitted(name, classes)
    data = TensorData(torch.from_numpy(x), torch.from_numpy(y))
    whole = torch.arange(120)
    sets = Sets(data.select(whole[:80]), data.select(whole[80:]), tuple(map(str, range(classes))))
    problem = api.problem(sets, estimator, ["0", "1", "2"])
    assert not problem.known
    method = {"name": "finetune", "descent": {"lr": 1e-3, "epochs": 1, "batch_size": 16}}
    outcome = api.unlearn(estimator, problem, method)
    findings = api.audit(problem, estimator, outcome, audits=["accuracy"])
    again = to_sklearn(outcome.model, like=estimator)
    agree(again, outcome.model, x, hinge="svc" in name)
    right = (again.predict(x[:3]) == y[:3]).mean()
    assert findings[0].unlearned.values["forget"] == pytest.approx(right)
    same = api.audit(problem, estimator, again, audits=["accuracy"])
    assert same[0].unlearned.values == findings[0].unlearned.values
    for after in (outcome, outcome.model, again):
        mask = api.mask(estimator, after, method)
        assert mask.whole().nonzeros > 0
        applied = mask.apply(from_sklearn(estimator)[0])
        np.testing.assert_allclose(outputs(applied, x), outputs(from_sklearn(again)[0], x), 1e-4)


def test_classes_and_features_of_other_records_are_refused() -> None:
    x, y = records(3)
    names = np.array(["ant", "bee", "cow"])
    estimator = LogisticRegression().fit(x, names[y])
    data = TensorData(torch.from_numpy(x), torch.from_numpy(y))
    forget = ["0"]
    api.problem(Sets(data, data, ("ant", "bee", "cow")), estimator, forget)
    with pytest.raises(ValueError, match="classes are ant, bee, cow, the records' bee, ant, cow"):
        api.problem(Sets(data, data, ("bee", "ant", "cow")), estimator, forget)
    short = TensorData(data.take(torch.arange(120)).x[:, :4], data.y)
    with pytest.raises(ValueError, match=r"fitted on 5 features, but records have shape \(4,\)"):
        api.problem(Sets(short, short, ("ant", "bee", "cow")), estimator, forget)
    whole = LogisticRegression().fit(x, y.astype(float))  # 0.0, 1.0, 2.0
    api.problem(Sets(data, data, ("0", "1", "2")), whole, forget)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (SVC(), "a SVC has no weights .* LinearSVC"),
        (SVC(kernel="linear"), "a SVC has no weights"),
        (
            LinearSVC(multi_class="crammer_singer", max_iter=50_000),
            "one hinge over all classes .* fit it with",
        ),
        (RandomForestClassifier(), "got RandomForestClassifier; only linear classifiers"),
        (SGDClassifier(loss="modified_huber"), "log_loss, hinge, squared_hinge, got .*huber"),
        (make_pipeline(MinMaxScaler(), LinearSVC()), "one of MinMaxScaler, LinearSVC"),
        (make_pipeline(StandardScaler(), StandardScaler(), LinearSVC()), "transform the records"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_linear_classifier_is_refused(estimator: Any, message: str) -> None:
    x, y = records(3)
    for one in (estimator, estimator.fit(x, y)):
        with pytest.raises(ValueError, match=message):
            from_sklearn(one)


def test_an_estimator_that_is_not_fitted_is_refused() -> None:
    for one in (LinearSVC(), make_pipeline(StandardScaler(), LinearSVC())):
        with pytest.raises(ValueError, match="is not fitted; call `fit`"):
            from_sklearn(one)


def test_networks_of_another_kind_are_refused() -> None:
    softmax, svc, ovr = (fitted(name, 4)[0] for name in ("logistic", "svc", "sgd logistic"))
    for model, like, message in (
        (
            ConvNet(width=2).build((1, 8, 8), 4),
            softmax,
            "architecture 'linear', .*got a Sequential",
        ),
        (nn.Linear(5, 4), softmax, "got a Linear of no layers"),
        (SVM(temperature=2.0).build((5,), 4), softmax, "architecture 'linear'.*Temperature"),
        (Linear().build((5,), 4), ovr, "'linear' with one_vs_rest"),
        (from_sklearn(ovr)[0], svc, "architecture 'svm'"),
        (Linear().build((5,), 3), softmax, "5 features and 4 classes, .* got one of 5 and 3"),
    ):
        with pytest.raises(ValueError, match=message):
            to_sklearn(model, like=like)


def test_only_objects_of_scikit_learn_are_taken_for_estimators() -> None:
    assert is_estimator(LinearSVC())
    assert is_estimator(make_pipeline(StandardScaler()))
    for other in (nn.Linear(1, 1), "svm", {"name": "svm"}, SVM()):
        assert not is_estimator(other)
