"""The figures of one group: which charts there are, and their words."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from expunge.report import charts, comparison, evidence
from expunge.report.charts import Kinds
from expunge.report.evidence import Risky
from expunge.report.marks import Chart
from expunge.study.rows import Column, Row

# Sets of records as the report calls them.
SETS = {"forget": "records to forget", "test": "test records", "retain": "records kept"}


class Figure(NamedTuple):
    """A chart in the page: the page finds its specification by `id`."""

    id: str
    title: str
    note: str = ""
    kind: str = ""
    records: Sequence[Risky] = ()


class Section(NamedTuple):
    """Figures of one sort, side by side."""

    title: str
    figures: list[Figure]


@dataclass(frozen=True, eq=False)
class Album:
    """Collects the page's specifications by the figures' ids."""

    specs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, chart: Chart | None, title: str, words: str, **more: Any) -> Iterator[Figure]:
        """Yield the chart's figure, or nothing where there is no chart."""
        if chart is None:
            return
        name = f"chart-{len(self.specs)}"
        self.specs[name] = charts.spec(chart, f"{title}: {words}")
        yield Figure(name, title, **more)


@dataclass(frozen=True, eq=False)
class Group:
    """Draws the figures of one group's rows into an album."""

    rows: Sequence[Row]
    album: Album

    @property
    def methods(self) -> list[Row]:
        return [row for row in self.rows if row.kind == "method" and row.cells]

    @property
    def controls(self) -> dict[str, Row | None]:
        """Return the original's and the retrained models' rows; None where there is none."""
        found = {row.kind: row for row in self.rows if row.kind != "method"}
        return {kind: found.get(kind) for kind in ("original", "retrained")}

    @property
    def classes(self) -> Sequence[str]:
        return self.rows[0].group.first["data"].get("classes") or ()

    def _column(self, audit: str, value: str) -> Column | None:
        return next((c for c in self.rows[0].columns if (c.audit, c.value) == (audit, value)), None)

    def _kinds(self, row: Row, ask: Callable[[Row | None], Any]) -> Kinds:
        return Kinds(ask(row), *(ask(control) for control in self.controls.values()))

    def overview(self) -> list[Figure]:
        """Draw forgetting against utility, by the attack and by accuracy."""
        utility = self._column("accuracy", "test")
        out: list[Figure] = []
        for audit, value in (("loss_attack", "auc"), ("accuracy", "forget")):
            forgetting = self._column(audit, value)
            if utility and forgetting:
                out += self.album.add(
                    comparison.tradeoff(self.rows, forgetting, utility),
                    f"{forgetting.title} and {utility.title.lower()}",
                    "each model's forgetting against its utility, sized by its cost",
                )
        return out

    def distances(self) -> list[Figure]:
        """Draw how far every model is from retraining, one chart for each audit."""
        out: list[Figure] = []
        for column in self.rows[0].columns:
            if column.headline and column.decides:
                out += self.album.add(
                    comparison.distances(self.rows, column),
                    f"{column.heading}",
                    "each model's distance from the retrained models' mean",
                )
        return out

    def rocs(self) -> list[Section]:
        """Draw every method's ROC curves, one section for each attack."""
        return [
            Section(audit, [f for row in self.methods for f in self._roc(row, audit)])
            for audit in evidence.holding(self.methods, "roc_fpr", "roc_tpr")
        ]

    def _roc(self, row: Row, audit: str) -> Iterator[Figure]:
        curves = self._kinds(row, lambda r: evidence.curve(r, audit))
        auc = self._column(audit, "auc")
        cell = row.cells.get(auc) if auc else None
        note = f"AUC {auc.show(cell.estimate.value)}" if auc and cell else ""
        yield from self.album.add(
            charts.roc(curves),
            row.label,
            f"ROC curve of {audit}, on logarithmic axes. {note}",
            note=note,
            kind=row.verdict,
        )

    def per_class(self) -> list[Section]:
        """Draw every method's accuracy by class, one section for each set of records."""
        return [
            Section(
                f"On {SETS.get(part, part)}",
                [f for row in self.methods for f in self._classes(row, audit, part)],
            )
            for audit in self._audits("per_class_")
            for part in evidence.parts(self.methods, audit, "per_class_")
            if part in ("forget", "test")
        ]

    def _audits(self, prefix: str) -> list[str]:
        audits = dict.fromkeys(c.audit for c in self.rows[0].columns)
        return [a for a in audits if evidence.parts(self.methods, a, prefix)]

    def _classes(self, row: Row, audit: str, part: str) -> Iterator[Figure]:
        accuracy = self._kinds(row, lambda r: evidence.per_class(r, audit, part))
        yield from self.album.add(
            charts.classes(accuracy, self.classes),
            row.label,
            f"accuracy by class on {SETS.get(part, part)}, with both controls",
            kind=row.verdict,
        )

    def confusions(self) -> list[Section]:
        """Draw everyone's confusion matrices, one section for each set of records."""
        everyone = [row for row in self.rows if row.cells]
        sections = []
        for audit in self._audits("confusion_"):
            for part in evidence.parts(self.methods, audit, "confusion_"):
                if part not in SETS:
                    continue
                figures: list[Figure] = []
                for row in everyone:
                    counts = evidence.confusion(row, audit, part)
                    if counts is not None and counts.sum():
                        figures += self.album.add(
                            charts.confusion(counts, self.classes),
                            row.label,
                            f"confusion matrix on {SETS.get(part, part)}",
                            kind=row.verdict or row.kind,
                        )
                sections.append(Section(f"On {SETS.get(part, part)}", figures))
        return sections

    def risks(self) -> list[Section]:
        """Draw the risk of every record to forget, one section for each attack."""
        return [
            Section(audit, [f for row in self.methods for f in self._risk(row, audit)])
            for audit in evidence.holding(self.methods, "risk")
        ]

    def _risk(self, row: Row, audit: str) -> Iterator[Figure]:
        shares = self._kinds(row, lambda r: evidence.spread(evidence.arrays(r, audit, "risk")))
        controls: Mapping[str, Row | None] = self.controls
        yield from self.album.add(
            charts.risk(shares),
            row.label,
            "how the probability of membership is spread over the records to forget",
            kind=row.verdict,
            records=evidence.riskiest(row, controls, audit),
        )
