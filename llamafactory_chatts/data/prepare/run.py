"""Label files and folders of series become a dataset: the parent process that reads labels and writes rows.

Labels are read one after the other and given to a pool of workers in chunks, a few at a time; finished chunks are
written in order. Nothing but hashes is kept of what was written, so memory does not grow with the data.
"""

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from ...core.atomic import write_text
from ...rows import dataset_info
from ..labels.matching import FolderIndex
from . import dedupe
from .config import Recipe, load
from .inputs import chunks, count, digests, fingerprint, wants_messages
from .pool import cores, in_order
from .report import Report, SourceReport
from .row_writing import keep_rows
from .worker import Done, Worker
from .writers import Output


REJECTS, SEEN = "rejects", "seen"


def prepare(
    config: str | os.PathLike | Mapping[str, Any],
    *,
    workers: int | None = None,
    exact_only: bool = False,
    progress: bool = True,
    **changes: Any,
) -> Report:
    """Prepare a dataset.

    An interrupted run of the same recipe over the same files is continued. Output files appear at the end, at once.

    Args:
        config: path of a recipe (YAML), or its content; keys in ``schema/prepare.schema.json``.
        workers: processes; one per CPU core if None, none besides this one if 1.
        exact_only: match by exact name only and write ``NAME_exact_only``; shows what the matching rules bring.
        progress: show a progress bar on stderr.
        changes: keys of the recipe to override, such as ``output``.

    Returns:
        what was read, written and rejected, per source.

    Raises:
        ChatTSError: the recipe is wrong, a label file or folder is missing, or a file cannot be written. Rows that
            cannot be used raise nothing; they are in the rejects file.
    """
    recipe = load(config, exact_only, **changes)
    indexes = [FolderIndex(source.series) if source.series else None for source in recipe.sources]
    inputs = [digests(source, index) for source, index in zip(recipe.sources, indexes)]
    messages = wants_messages(recipe)
    run = _Run(recipe, messages, [SourceReport(source.name) for source in recipe.sources])
    for report, index in zip(run.reports, indexes):
        report.files = len(index.paths) if index else 0

    size = workers or cores()
    output = run.open(fingerprint(recipe, inputs, messages))
    try:
        if not output.finished:
            worker = Worker(recipe, messages, indexes)
            for done in in_order(chunks(recipe, run.chunks), worker, size, run.bar(progress)):
                run.commit(done)

            output.checkpoint(run.memory, finished=True, now=True)
    except BaseException:
        if run.whole:
            with suppress(Exception):  # the error that led here is the one to show
                output.checkpoint(run.memory, now=True)

        output.close()
        raise

    return run.finish(inputs)


class _Run:
    """What the parent knows while it writes.

    Attributes:
        whole: False while a chunk is being written; a run that ends then must not note how far it is.
    """

    def __init__(self, recipe: Recipe, messages: bool, reports: list[SourceReport]) -> None:
        self.recipe, self.messages, self.reports = recipe, messages, reports
        self.chunks, self.whole = 0, True
        self.part_rows = {part: 0 for part in recipe.parts}
        self.seen = dedupe.Seen()
        self.files: list[set[int]] = [set() for _ in reports]

    def open(self, fingerprint: str) -> Output:
        files = {part: self.recipe.part_file(part) for part in self.recipe.parts}
        files |= {REJECTS: self.recipe.rejects, SEEN: self.recipe.beside(".seen")}
        framed = frozenset(self.recipe.parts) if self.recipe.parquet else frozenset()
        self.output = Output(files, self.recipe.beside(".part.state"), fingerprint, framed)
        if self.output.resumed:
            self._recall(self.output.memory)

        return self.output

    def memory(self) -> dict[str, Any]:
        """Return what is needed to go on after an interruption; what grows is in the file ``SEEN``."""
        return {
            "chunks": self.chunks,
            "rows": self.part_rows,
            "sources": [
                {**report.as_dict(), "files_used": len(used)} for report, used in zip(self.reports, self.files)
            ],
        }

    def _recall(self, memory: dict[str, Any]) -> None:
        self.chunks, self.part_rows = memory["chunks"], memory["rows"]
        files = [report.files for report in self.reports]
        self.reports = [SourceReport.from_dict(content) for content in memory["sources"]]
        for report, there in zip(self.reports, files):
            report.files, report.resumed = there, report.read

        if not self.output.finished:
            for line in self.output.earlier_bytes(SEEN).splitlines():
                number, files_read, records = json.loads(line)
                self.files[number].update(files_read)
                self.seen.restore(records)

    def bar(self, progress: bool) -> Any:
        from tqdm import tqdm

        total = count(self.recipe) if progress else None
        read = sum(report.read for report in self.reports)
        self.progress = tqdm(
            desc="prepare", total=total, initial=read, unit=" rows", disable=not progress, file=sys.stderr
        )
        return self.progress

    def commit(self, done: Done) -> None:
        """Write a finished chunk."""
        self.whole = False
        report, records = self.reports[done.source], []
        placed: list[str | None] = []  # the part of each row, None for one that is left out
        written = 0
        for position, rows in groupby(done.rows, key=itemgetter(0)):
            mine, refused = self._place([row[1:] for row in rows], records)
            placed += mine
            report.duplicates += sum(reason == "duplicate" for reason, _ in refused)
            if len(refused) < len(mine):
                written += 1
            else:
                reason, detail = refused[0]
                done.rejects[position] = {**done.labels[position], "reason": reason, "detail": detail}

        for part in self.recipe.parts:
            kept = [place == part for place in placed]
            if any(kept):
                self.output.append(part, keep_rows(done.payload, self.recipe.parquet, done.sizes, kept))
                self.part_rows[part] += sum(kept)

        lines = [json.dumps(done.rejects[position], ensure_ascii=False) for position in sorted(done.rejects)]
        self.output.append(REJECTS, "".join(line + "\n" for line in lines).encode("utf-8", "surrogatepass"))
        files = sorted(set(done.files) - self.files[done.source])
        if files or records:
            self.files[done.source].update(files)
            self.output.append(SEEN, (json.dumps([done.source, files, records]) + "\n").encode())

        report.read += done.read
        report.written += written
        report.rejected += len(done.rejects)
        report.rows += len(placed) - placed.count(None)
        report.reasons.update(item["reason"] for item in done.rejects.values())
        report.tally.update(done.tally)
        self.chunks, self.whole = self.chunks + 1, True
        self.progress.set_postfix(rejects=sum(item.rejected for item in self.reports), refresh=False)
        self.progress.update(done.read)
        self.output.checkpoint(self.memory)

    def _place(
        self, rows: list[tuple[str, dedupe.Key | None]], records: list[Any]
    ) -> tuple[list[str | None], list[tuple[str, str]]]:
        """Return the part of each row of a label (None for one that is left out) and why rows are left out."""
        keys = [key for _, key in rows if key is not None]
        part = self.seen.part_of(keys, rows[0][0]) if keys else rows[0][0]
        placed: list[str | None] = []
        refused = []
        for _, key in rows:
            why = self.seen.refused(key, part) if key is not None else None
            placed.append(None if why else part)
            if why:
                refused.append(why)
            elif key is not None:
                records.append(self.seen.add(key, part))

        return placed, refused

    def finish(self, inputs: list[dict[str, str]]) -> Report:
        """Let the files appear, then write provenance and dataset_info.json."""
        self.progress_close()
        for report, used in zip(self.reports, self.files):
            report.files_used = report.files_used if self.output.finished else len(used)

        keep = {part: self.part_rows[part] > 0 for part in self.recipe.parts} | {REJECTS: True, SEEN: False}
        provenance = self.recipe.beside(".provenance.json")
        outputs = {part: str(self.recipe.part_file(part)) for part in self.recipe.parts if keep[part]}
        report = Report(
            sources=self.reports,
            outputs=outputs,
            part_rows={part: self.part_rows[part] for part in outputs},
            rejects=str(self.recipe.rejects),
            provenance=str(provenance),
        )
        info = self.recipe.dataset_info
        write_text(
            provenance, json.dumps(report.provenance_of(self.recipe, inputs), indent=2, ensure_ascii=False) + "\n"
        )
        self.output.finish(keep, self.messages)
        if info is not None and outputs:
            names = {part: self.recipe.part_name(part) for part in outputs}
            dataset_info.write(info, {names[part]: self._entry(outputs[part], info) for part in outputs})
            report.dataset_info, report.dataset_names = str(info), list(names.values())

        return report

    def progress_close(self) -> None:
        if hasattr(self, "progress"):
            self.progress.close()

    def _entry(self, output: str, info: Path) -> dict[str, Any]:
        name = Path(os.path.relpath(output, info.parent)).as_posix()
        if not self.messages:
            return {
                "file_name": name,
                "columns": {"prompt": "input", "response": "output", "timeseries": "timeseries"},
            }

        tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
        return {
            "file_name": name,
            "formatting": "sharegpt",
            "columns": {"messages": "messages", "timeseries": "timeseries"},
            "tags": {**tags, "system_tag": "system"},
        }
