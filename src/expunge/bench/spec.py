"""What a run computes: a strict TOML file that becomes dataclasses."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

from expunge import registry
from expunge.audit import Audit
from expunge.bench.problem import Pretraining, Training
from expunge.bench.traces import Tracing
from expunge.config import build, suggest
from expunge.data.split import Forget, Holdout
from expunge.method import Method
from expunge.types import Architecture, Json, Settings, Source

KINDS = {
    "data": registry.data,
    "models": registry.models,
    "forget": registry.forget,
    "methods": registry.methods,
    "audits": registry.audits,
}


class SpecError(ValueError):
    """A spec that cannot be run; the message names the file, the key and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Combination(Settings):
    """Records, a model and a forget set that belong together.

    Attributes:
        data: Where the records come from.
        model: Architecture of the original.
        forget: What is to be forgotten.
        training: How originals are trained; left out, as the spec says for all.
    """

    data: Source
    model: Architecture
    forget: Forget
    training: Training | None = None


@dataclass(frozen=True, kw_only=True)
class Spec(Settings):
    """A grid: every combination of data, model, forget set, method and seed.

    Attributes:
        name: Of the run, its folder and its report.
        data: Where records come from.
        models: Architectures of the original.
        forget: What is to be forgotten.
        problems: Instead of these three, the combinations of them that make sense: a text has
            another model than a picture.
        methods: What is to be compared.
        audits: What is asked of every unlearned model; empty, all that apply.
        training: How originals are trained.
        pretraining: What they start from; left out, from chance.
        holdout: What of the held-out records is for validation and for non-members.
        seeds: Each trains an original of its own and unlearns from it.
        retrained: Negative controls to train; 0 does without.
        trace: What is looked at after every round of every method; left out, nothing.
        tied: Seeds of the forget sets that are for some of the run's seeds only.
    """

    name: str
    data: tuple[Source, ...] = ()
    models: tuple[Architecture, ...] = ()
    forget: tuple[Forget, ...] = ()
    problems: tuple[Combination, ...] = ()
    methods: tuple[Method, ...]
    audits: tuple[Audit, ...] = ()
    training: Training = field(default_factory=Training)
    pretraining: Pretraining | None = None
    holdout: Holdout = Holdout()
    seeds: tuple[int, ...] = (0,)
    retrained: int = 3
    trace: Tracing | None = None
    tied: Mapping[Forget, tuple[int, ...]] = field(default_factory=dict, metadata={"key": False})

    def __post_init__(self) -> None:
        lists = ("data", "models", "forget")
        if self.problems and any(getattr(self, name) for name in lists):
            raise SpecError(
                "expected either 'problems' or 'data', 'models' and 'forget', got both; write "
                "every combination under 'problems', or none"
            )
        for name in (*(() if self.problems else lists), "methods", "seeds"):
            if not getattr(self, name):
                raise SpecError(f"expected at least one entry under '{name}', got none")
        if self.retrained < 0:
            raise SpecError(f"expected retrained >= 0, got {self.retrained}")
        if len(set(self.seeds)) < len(self.seeds):
            raise SpecError(f"expected different seeds, got {list(self.seeds)}")

    def combinations(self) -> Iterator[Combination]:
        """Yield what is to be posed: the problems named, or all of the grid."""
        yield from self.problems
        for data, model, forget in product(self.data, self.models, self.forget):
            yield Combination(data=data, model=model, forget=forget)

    def seeds_of(self, forget: Forget) -> tuple[int, ...]:
        """Return the seeds that a forget set is for."""
        return self.tied.get(forget, self.seeds)


def read(path: Path) -> Spec:
    """Read a spec from a file.

    Raises:
        SpecError: In one sentence, with the file's name.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SpecError(f"there is no spec at {path}") from error
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror}; expected a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not valid TOML: {error}") from error
    try:
        return parse({"name": path.stem} | table)
    except ValueError as error:
        raise SpecError(f"{path}: {error}") from error


def parse(table: Mapping[str, Json]) -> Spec:
    """Build a spec from plain data.

    Raises:
        SpecError: Naming the first unknown key, name or ill-typed value.
    """
    known = [f.name for f in fields(Spec) if f.metadata.get("key", True)]
    for name in table:
        if name not in known:
            raise SpecError(suggest(name, known, "key"))
    rest: dict[str, Any] = dict(table)
    _check_plain(rest)
    seeds = rest["seeds"] = tuple(rest.get("seeds", (0,)))
    rest["forget"], splits = _untied(rest.get("forget", []), seeds)
    lists: dict[str, Any] = {name: _several(name, rest.pop(name, [])) for name in KINDS}
    lists["problems"] = _several("problems", rest.pop("problems", []))
    whole: dict[str, Any] = {
        name: _one(name, cls, rest.pop(name, {}))
        for name, cls in (("training", Training), ("holdout", Holdout))
    }
    if "pretraining" in rest:
        whole["pretraining"] = _one("pretraining", Pretraining, rest.pop("pretraining"))
    if "trace" in rest:
        whole["trace"] = _tracing(rest.pop("trace"))
    if "audits" in table and not lists["audits"]:
        raise SpecError("expected at least one entry under 'audits', or none of the key, got []")
    tied = {lists["forget"][place]: (seed,) for place, seed in splits.items()}
    if tied and len(set(lists["forget"])) < len(lists["forget"]):
        raise SpecError(
            "[[forget]] expected different forget sets beside seed = 'run', got one twice"
        )
    return Spec(**lists, **whole, **rest, tied=tied)


def _one(name: str, cls: type, table: Json) -> Json:
    if not isinstance(table, Mapping):
        raise SpecError(f"expected '{name}' as a table, [{name}], got {table!r}")
    try:
        return build(cls, table)
    except ValueError as error:
        raise SpecError(f"[{name}] {error}") from error


def _several(name: str, tables: Json) -> tuple[Json, ...]:
    if not isinstance(tables, Sequence) or not all(isinstance(t, Mapping) for t in tables):
        raise SpecError(f"expected '{name}' as a list of tables, [[{name}]], got {tables!r}")
    built = []
    for table in tables:
        try:
            if name == "problems":
                built.append(build(Combination, table))
            else:
                built += [KINDS[name].build(each) for each in _presets(table)]
        except ValueError as error:
            raise SpecError(f"[[{name}]] {error}") from error
    return tuple(built)


def _presets(table: Mapping[str, Json]) -> list[Mapping[str, Json]]:
    """Return a table for each of several presets: the same method at several lengths, say."""
    presets = table.get("preset")
    if not isinstance(presets, list):
        return [table]
    named = all(isinstance(preset, str) for preset in presets)
    if not presets or not named or len(set(presets)) < len(presets):
        raise SpecError(f"preset: expected a name, or a list of different names, got {presets!r}")
    return [{**table, "preset": preset} for preset in presets]


def _untied(tables: Json, seeds: Sequence[int]) -> tuple[Json, dict[int, int]]:
    """Return a table for each seed where the seed is the run's, and which seed it is for."""
    out, splits = [], dict[int, int]()
    if not isinstance(tables, list):
        return tables, splits
    for table in tables:
        if not isinstance(table, Mapping) or table.get("seed") != "run":
            out.append(table)
            continue
        for seed in seeds:
            splits[len(out)] = seed
            out.append({**table, "seed": seed})
    return out, splits


def _tracing(value: Json) -> Tracing | None:
    if isinstance(value, bool):
        return Tracing() if value else None
    return _one("trace", Tracing, value)


def _check_plain(rest: Mapping[str, Json]) -> None:
    wanted = {"name": str, "retrained": int}
    for name, kind in wanted.items():
        if name in rest and (not isinstance(rest[name], kind) or isinstance(rest[name], bool)):
            raise SpecError(f"{name}: expected {kind.__name__}, got {rest[name]!r}")
    seeds = rest.get("seeds", [0])
    if not isinstance(seeds, Sequence) or not all(type(s) is int for s in seeds):
        raise SpecError(f"seeds: expected a list of integers, got {seeds!r}")
