"""Find things by name: a class is registered by being in a module of its package."""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from expunge.audit import Audit
from expunge.config import build, overlay, suggest
from expunge.data.split import Forget
from expunge.method import Method
from expunge.types import NAMED, Architecture, Json, Source, Task

T = TypeVar("T")


@dataclass(frozen=True)
class Kind(Generic[T]):
    """One kind of named class.

    Attributes:
        what: What to call one of them.
        base: What they all derive from.
        package: The package they live in, and the entry-point group for others' own.
    """

    what: str
    base: type[T]
    package: str

    @cache  # noqa: B019 the kinds below live as long as the process
    def known(self) -> Mapping[str, type[T]]:
        """Import every module of the package and return its classes by name."""
        folder = importlib.import_module(self.package).__path__
        modules = [
            importlib.import_module(f"{self.package}.{module.name}")
            for module in pkgutil.iter_modules(folder)
        ]
        ours = [
            cls
            for module in modules
            for cls in vars(module).values()
            if inspect.isclass(cls) and cls.__module__ == module.__name__
        ]
        theirs = [point.load() for point in entry_points(group=self.package)]
        found: dict[str, type[T]] = {}
        for cls in ours + theirs:
            if not issubclass(cls, self.base) or inspect.isabstract(cls):
                continue
            if "card" not in vars(cls) and hasattr(cls, "card"):
                continue  # what a registered class becomes at run time
            name: str = vars(cls)["card"].name
            if name in found:
                raise ValueError(
                    f"{self.what} name '{name}' is taken by {found[name].__module__}; "
                    f"give the card of {cls.__module__}.{cls.__name__} another"
                )
            found[name] = cls
        return dict(sorted(found.items()))

    def find(self, name: str) -> type[T]:
        """Return the class called `name`."""
        if name not in self.known():
            raise ValueError(suggest(name, self.known(), self.what))
        return self.known()[name]

    def build(self, table: Mapping[str, Json]) -> T:
        """Build from a table: `name`, perhaps `preset`, and what differs from it."""
        rest = dict(table)
        if "name" not in rest:
            raise ValueError(f"a {self.what} needs a name: {', '.join(self.known())}")
        cls = self.find(rest.pop("name"))
        preset = rest.pop("preset", None)
        if preset is not None:
            presets = vars(cls)["card"].presets
            if preset not in presets:
                raise ValueError(suggest(preset, presets, "preset"))
            rest = overlay(dict(presets[preset].settings), rest)
        return build(cls, rest)


methods = Kind("method", Method, "expunge.methods")
audits = Kind("audit", Audit, "expunge.audits")
models = Kind("model", Architecture, "expunge.models")
tasks = Kind("task", Task, "expunge.tasks")
data = Kind("data set", Source, "expunge.data")
forget = Kind("forget set", Forget, "expunge.data")

for _kind in (methods, audits, models, tasks, data, forget):
    NAMED[_kind.base] = _kind.build
