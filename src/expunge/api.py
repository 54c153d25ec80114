"""The verbs, for use from Python: pose a problem, unlearn, audit, report."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as packed
from torch import Tensor, nn

from expunge import registry
from expunge.audit import Audit, Case, Finding
from expunge.bench import run as grid
from expunge.bench.check import applicable, check
from expunge.bench.problem import Problem, Training, on_device, pose
from expunge.bench.record import outcome, record
from expunge.bench.spec import read as read_spec
from expunge.bench.store import Store, guarded
from expunge.core.cost import Meter
from expunge.core.state import finite
from expunge.data.forget import ById
from expunge.data.objects import from_dataset
from expunge.data.split import Forget, Holdout
from expunge.mask import Mask
from expunge.method import Method, Outcome
from expunge.models.given import Given
from expunge.models.sklearn_models import check_estimator, from_sklearn, is_estimator
from expunge.pool import Kept
from expunge.subject import Subject, WhiteBox
from expunge.types import Architecture, Json, Recipe, Refused, Sets, Source, Trace

Named = str | Mapping[str, Json]


def problem(
    data: Named | Source | Sets | Any,
    model: Named | Architecture | nn.Module | Any,
    forget: Named | Forget | Iterable[str | int],
    *,
    training: Training | None = None,
    holdout: Holdout | None = None,
    device: str = "cpu",
) -> Problem:
    """Pose a deletion problem.

    Args:
        data: The name of a data set, its settings with a `name`, a source, sets, or any
            map-style data set of `(x, y)`.
        model: An architecture's name, its settings with a `name`, a network, or a fitted linear
            classifier of scikit-learn's (see `expunge.models.sklearn_models`).
        forget: Ids of the training records to forget, or the settings of a choice.
        training: How the original was trained; retraining follows it.
        holdout: How the held-out records are divided.
        device: cpu, cuda or mps.

    Raises:
        ValueError: In one sentence, for what does not fit together.
    """
    on_device(device)
    source = _built(registry.data, data)
    sets = source.load() if isinstance(source, Source) else source
    if not isinstance(sets, Sets):
        sets = from_dataset(*(sets if isinstance(sets, tuple) else (sets,)))
    made = isinstance(model, nn.Module) or is_estimator(model)
    if is_estimator(model):
        check_estimator(model, sets.train.shape, sets.classes)
        model = from_sklearn(model)[1]
    elif isinstance(model, nn.Module):
        model = Given(module=model)
    if not isinstance(forget, str | Mapping | Forget):
        forget = ById(ids=tuple(map(str, forget)))
    posed = pose(
        sets,
        _built(registry.forget, forget),
        _built(registry.models, model),
        training or Training(),
        holdout=holdout,
        source=source if isinstance(source, Source) else None,
        device=device,
    )
    if training is None and (made or isinstance(model, Given)):
        posed = replace(posed, known=False)  # how it was trained only its owner can say
    check(posed)
    return posed


class Trained(NamedTuple):
    """An original that a method trained its own way, and what it needs to unlearn from it.

    Attributes:
        model: The original.
        trace: What training left behind, by name; to be kept as long as the model is.
    """

    model: nn.Module
    trace: Trace


def train(problem: Problem, method: Named | Method = "finetune", *, seed: int = 0) -> Trained:
    """Train an original as a method wants it: SISA in shards and slices, others by the recipe."""
    chosen: Method = _built(registry.methods, method)
    return Trained(*chosen.train(problem.recipe, problem.sets.train, seed))


def unlearn(
    model: nn.Module | Trained | Any,
    problem: Problem,
    method: Named | Method = "finetune",
    *,
    seed: int = 0,
    meter: Meter | None = None,
) -> Outcome:
    """Return an unlearned copy of `model`, and what it cost.

    An estimator of scikit-learn's is taken as the network it is; what comes back is one, which
    `expunge.models.sklearn_models.to_sklearn` makes an estimator of again.

    Raises:
        Refused: Where the method unlearns from what its own training left behind (`train`), and
            only a model is given.
    """
    chosen, request = _built(registry.methods, method), problem.request
    if isinstance(model, Trained):
        model, request = model.model, replace(request, trace=model.trace)
    elif chosen.trains:
        raise Refused(
            f"{chosen.card.name} unlearns from an original that it has trained its own way, and "
            "from what that left behind; make both by api.train(problem, method), or run it from "
            "a spec (`expunge run`)"
        )
    return chosen(_network(model, problem), request, seed=seed, meter=meter)


def mask(
    original: nn.Module | Any, unlearned: nn.Module | Outcome | Any, method: Named | Method = ""
) -> Mask:
    """Return what unlearning took from each weight: it can be saved, shown, sent and applied.

    Args:
        original: The model before; an estimator of scikit-learn's is taken as the network it is.
        unlearned: The model after.
        method: What made the one of the other.

    Raises:
        Refused: Where they differ in more than their parameters, as in BatchNorm's statistics.
    """
    after = unlearned.model if isinstance(unlearned, Outcome) else unlearned
    original, after = (from_sklearn(m)[0] if is_estimator(m) else m for m in (original, after))
    name = method if isinstance(method, str) else _built(registry.methods, method).card.name
    try:
        return Mask.between(original, after, name)
    except ValueError as error:
        raise Refused(str(error)) from error


def audit(
    problem: Problem,
    original: nn.Module | Subject | Any,
    unlearned: nn.Module | Subject | Outcome | Any,
    retrained: int | Sequence[nn.Module | Subject] = 0,
    *,
    audits: Sequence[Named | Audit] | None = None,
    shadows: Kept | None = None,
    seed: int = 0,
) -> list[Finding]:
    """Ask audits of an unlearned model, beside the original and retrained models.

    Args:
        problem: What was to be forgotten.
        original: The model before, or anything that answers for it; an estimator of
            scikit-learn's too.
        unlearned: The model after.
        retrained: Models that never saw the forget set, or how many to train now.
        audits: What to ask; left out, everything the subjects can answer without further models.
        shadows: Shadow models' answers that were kept before (`Kept.load`), of this recipe and
            these records; left out, shadows are trained where an audit needs them.
        seed: Of everything random in the audits.
    """
    lab = problem.lab(seed, given=shadows)
    controls = lab.retrained(retrained) if isinstance(retrained, int) else retrained
    case = Case(
        original=_subject(_network(original, problem)),
        unlearned=_subject(_network(unlearned, problem)),
        retrained=tuple(map(_subject, controls)),
        request=problem.request,
        test=problem.test,
        alike=problem.alike,
        unseen=problem.sets.unseen,
        lab=lab,
    )
    if audits is not None:
        asked: list[Audit] = [_built(registry.audits, one) for one in audits]
    else:
        asked = applicable(case)
    return [one(case, seed=seed) for one in asked]


def report(problem: Problem, findings: Mapping[str, Sequence[Finding]], path: str | Path) -> None:
    """Write one HTML file of what was found, by the name of each method.

    Runs of a spec keep records, with costs and several seeds; `expunge report` reads them.
    """
    from expunge.report.page import write  # charts are slow to import

    records = [
        record("report", problem, name, 0, outcome(found[0].case, found))
        for name, found in findings.items()
    ]
    write(records, Path(path))


def run(
    spec: str | Path,
    out: str | Path | None = None,
    *,
    store: str | Path = "runs/store",
    device: str = "cpu",
) -> list[Json]:
    """Compute a grid, or what is missing of it, and return its records.

    Args:
        spec: The TOML file that says what to compute.
        out: Where `records.jsonl` and `report.html` go; left out, `runs/<name>`.
        store: Where models and findings are kept.
        device: cpu, cuda or mps.
    """
    from expunge.report.page import write  # charts are slow to import

    wanted = read_spec(Path(spec))
    folder = Path(out) if out else Path("runs") / wanted.name
    records = grid.run(wanted, folder, Store(Path(store)), device=device)
    write(records, folder / "report.html")
    return records


def load(path: str | Path, recipe: Recipe, device: str | torch.device = "cpu") -> nn.Module:
    """Load a checkpoint into the recipe's network.

    Raises:
        ValueError: When the file is not safetensors, holds NaN, or does not fit the model.
    """
    state = weights(path)
    network = recipe.fresh()
    _check_fit(path, state, network.state_dict())
    network.load_state_dict(state)
    if not finite(network):
        raise ValueError(f"{path} holds NaN or infinite weights; this model is broken already")
    return network.to(device).eval()


def weights(path: str | Path) -> dict[str, Tensor]:
    """Read a checkpoint's weights.

    Raises:
        ValueError: When there is none, or it is not safetensors.
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no checkpoint at {path}; expected a safetensors file")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a safetensors file ({error}); save the state dict with "
            "safetensors.torch.save_file. Pickled checkpoints are never loaded"
        ) from error


def save(model: nn.Module, path: str | Path) -> None:
    """Write a model's state as safetensors, whole or not at all."""
    write(model.state_dict(), path)


def write(state: Mapping[str, Tensor], path: str | Path) -> None:
    """Write weights as safetensors, whole or not at all."""
    path = Path(path)
    state = {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}
    draft = path.with_name(f".draft-{path.name}")
    with guarded(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_bytes(packed(state))
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def _check_fit(path: str | Path, state: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    lacking = [k for k in wanted if k not in state]
    beyond = [k for k in state if k not in wanted]
    if lacking or beyond:
        name = (lacking or beyond)[0]
        near = difflib.get_close_matches(name, beyond if lacking else lacking, n=1)
        hint = f" (the file has '{near[0]}')" if near and lacking else ""
        raise ValueError(
            f"{path} does not fit the model: {len(lacking)} entries are missing and "
            f"{len(beyond)} are not the model's, such as '{name}'{hint}; check the model's "
            "name and settings"
        )
    for name, tensor in wanted.items():
        if state[name].shape != tensor.shape:
            raise ValueError(
                f"{path} does not fit the model: '{name}' has shape "
                f"{tuple(state[name].shape)}, the model wants {tuple(tensor.shape)}; check the "
                "model's settings, and that its head has as many outputs as the data classes"
            )


def _built(kind: registry.Kind, value: Any) -> Any:
    if isinstance(value, str):
        return kind.build({"name": value})
    return kind.build(value) if isinstance(value, Mapping) else value


def _network(model: Any, problem: Problem) -> Any:
    """Return an estimator as the network it is, where the records are; all else as it is."""
    if not is_estimator(model):
        return model
    return from_sklearn(model)[0].to(problem.request.retain.y.device)


def _subject(model: nn.Module | Subject | Outcome) -> Subject:
    if isinstance(model, Outcome):
        return WhiteBox(model.model, cost=model.cost, notes=model.notes)
    return model if isinstance(model, Subject) else WhiteBox(model)
