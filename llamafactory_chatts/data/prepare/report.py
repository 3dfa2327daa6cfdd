"""What a run of ``prepare`` did: counts per source, files, and the provenance that is stored with the dataset."""

import sys
from collections import Counter
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from ... import __version__
from .config import Recipe


@dataclass
class SourceReport:
    """Counts of one source; ``read = written + rejected`` counts labels.

    Attributes:
        rows: rows of the dataset; with windows a label has several.
        duplicates: rows left out because they were there already.
        files, files_used: series files of its folder, and how many of them a label meant.
        resumed: labels that an earlier, interrupted run had done.
        reasons: why labels were rejected.
        tally: what was done to the others.
    """

    name: str
    read: int = 0
    written: int = 0
    rejected: int = 0
    rows: int = 0
    duplicates: int = 0
    files: int = 0
    files_used: int = 0
    resumed: int = 0
    reasons: Counter = field(default_factory=Counter)
    tally: Counter = field(default_factory=Counter)

    def as_dict(self) -> dict[str, object]:
        """Return it as JSON knows it; counts of 0 are left out of the two counters."""
        content = dict(vars(self))
        for key in ("reasons", "tally"):
            content[key] = {name: count for name, count in sorted(content[key].items()) if count}

        return content

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "SourceReport":
        """Return what :meth:`as_dict` wrote."""
        return cls(**{**content, "reasons": Counter(content["reasons"]), "tally": Counter(content["tally"])})


@dataclass
class Report:
    """A finished run.

    Attributes:
        sources: counts, in the order of the recipe.
        outputs: part ("" without a split) -> file; parts without rows have none.
        part_rows: part -> rows.
        rejects, provenance: files.
        dataset_info, dataset_names: the file and its entries, "" and [] if the recipe names none.
    """

    sources: list[SourceReport]
    outputs: dict[str, str]
    part_rows: dict[str, int]
    rejects: str
    provenance: str
    dataset_info: str = ""
    dataset_names: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return sum(self.part_rows.values())

    def total(self) -> SourceReport:
        """Return the sum of all sources."""
        total = SourceReport("total")
        for source in self.sources:
            for key in ("read", "written", "rejected", "rows", "duplicates", "files", "files_used", "resumed"):
                setattr(total, key, getattr(total, key) + getattr(source, key))

            total.reasons.update(source.reasons)
            total.tally.update(source.tally)

        return total

    def as_dict(self) -> dict[str, object]:
        """Return it as JSON knows it."""
        return {**vars(self), "rows": self.rows, "sources": [source.as_dict() for source in self.sources]}

    def lines(self) -> list[str]:
        """Return what a reader should know besides the counts per source."""
        found = [f"{path}: {self.part_rows[part]} rows" for part, path in self.outputs.items()]
        total = self.total()
        if not found:
            found.append("no row could be used, nothing was written")

        if total.rejected:
            found.append(f"{self.rejects}: {total.rejected} rejected rows, each with its reason")

        if self.dataset_names:
            found.append(f"{self.dataset_info}: {', '.join(self.dataset_names)}")

        found.append(f"{self.provenance}: recipe, versions, counts")
        for source in self.sources:
            if source.files > source.files_used:
                found.append(
                    f"note: {source.files - source.files_used} series files of {source.name} belong to no label"
                )

        if total.resumed:
            found.append(f"note: {total.resumed} labels had been done by an interrupted run")

        return found

    def provenance_of(self, recipe: Recipe, inputs: list[dict[str, str]]) -> dict[str, object]:
        """Return the content of the provenance file; it holds no date, so equal runs give equal files.

        Args:
            inputs: per source the hashes of its files' names, sizes and times.
        """
        packages = {name: metadata.version(name) for name in ("numpy", "pandas", "pyarrow")}
        counts = []
        for source, digests in zip(self.sources, inputs):
            content = source.as_dict()
            content.pop("resumed")
            counts.append({**content, "inputs_sha256": digests})

        return {
            "versions": {"llamafactory-chatts": __version__, "python": sys.version.split()[0], **packages},
            "recipe": dict(recipe.config),
            "outputs": [{"file": path, "rows": self.part_rows[part]} for part, path in self.outputs.items()],
            "sources": counts,
        }
