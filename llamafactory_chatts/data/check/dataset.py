"""Checking a dataset before a training: rows are read one by one, so that memory does not grow with the file."""

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ...core.contract import COLUMN
from ...core.errors import ChatTSError, shorten
from ...rows import mapped_columns as series_columns
from ...rows.cells import read_cell
from ...rows.layout import Layout
from ...rows.reading import UnreadableRow, read_rows
from .answer_checks import AnswerChecker
from .findings import Findings
from .leakage import Parts, Place, Repeats
from .preview import Sample
from .row_checks import CheckedRow, RowChecker
from .targets import Part, resolve


DEFAULT_LIMIT = 32768
"""Points of the longest series when no model is named: ``ts.max_sequence_length`` of the published checkpoints."""

LABELS_KEPT = 2000
"""Different labels that are counted; more are no labels."""

IMBALANCE = 10
"""Warn when the most common label occurs this many times as often as the rarest one."""

ENOUGH_LABELS = 50
"""Fewer occurrences than this say nothing about the balance."""


def model_limit(model: str | os.PathLike) -> int:
    """Return the points of the longest series that a checkpoint takes, from the ``config.json`` in its folder.

    Raises:
        ChatTSError: it is missing or describes no ChatTS.
    """
    path = Path(model, "config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        limit = config["ts"]["max_sequence_length"]
    except OSError as error:
        raise ChatTSError(
            f"cannot be read ({error.strerror})", where=str(path), fix="Name a local ChatTS folder"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise ChatTSError("no ts.max_sequence_length in it", where=str(path), fix="Name a ChatTS folder") from None

    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ChatTSError(f"ts.max_sequence_length is {shorten(limit)}", where=str(path), fix="Name a ChatTS folder")

    return limit


def check(
    dataset: str | os.PathLike,
    *,
    dataset_info: str | os.PathLike | None = None,
    model: str | os.PathLike | None = None,
    answer_schema: str | os.PathLike | None = None,
    against: str | os.PathLike | None = None,
    samples: int = 0,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Findings:
    """Check a dataset.

    Args:
        dataset: file (``.jsonl``, ``.json``, ``.parquet``), folder of files, or name in dataset_info.json; the name
            without ``_train``, ``_validation``, ``_test`` means all parts of a split.
        dataset_info: a dataset_info.json or its folder; ``dataset_info/`` if None.
        model: ChatTS folder whose limit on the length of a series counts; otherwise :data:`DEFAULT_LIMIT`.
        answer_schema: JSON schema (a file, or ``intervals``) for every answer. Without one, only answers meant as a
            list of intervals are checked.
        against: another dataset whose series must not be in this one.
        samples: rows to draw for a preview.
        seed: of the drawing.
        progress: called with the number of rows now and then.

    Raises:
        ChatTSError: the dataset cannot be found or opened, or another argument cannot be used.
    """
    limit = DEFAULT_LIMIT if model is None else model_limit(model)
    answers = AnswerChecker(answer_schema)
    parts, others = resolve(dataset, dataset_info)
    if against is not None:
        named, siblings = resolve(against, dataset_info)
        others += named + siblings if len(named) == 1 else named

    known = {file.resolve() for part in parts for file in part.files}
    seen: set[Path] = set()
    compared = []
    for part in others:
        files = {file.resolve() for file in part.files} - known
        if files - seen:
            compared.append(part)
            seen |= files
        elif not files and against is not None and part in resolve(against, dataset_info)[0]:
            raise ChatTSError("a dataset is not compared with itself", where="--against", fix="Name another one")

    run = _Run(Findings(os.fspath(dataset)), answers, limit, random.Random(seed), samples, progress)
    for index, part in enumerate(parts):
        run.check_part(index, part)

    for index, part in enumerate(compared, start=len(parts)):
        run.compare_part(index, part)

    run.finish()
    return run.findings


class _Run:
    """State of one check."""

    def __init__(
        self,
        findings: Findings,
        answers: AnswerChecker,
        limit: int,
        rng: random.Random,
        samples: int,
        progress: Callable[[int], None] | None,
    ) -> None:
        self.findings, self.answers, self.limit = findings, answers, limit
        self.rng, self.samples, self.progress = rng, samples, progress
        self.parts, self.repeats = Parts(), Repeats()
        self.files: list[str] = []
        self.drawn: list[tuple[int, Sample]] = []
        self.read = self.usable = self.structured = 0
        self.prose: list[tuple[str, str]] = []
        self.prose_total = 0
        self.short_answers: Counter | None = Counter()

    def _rows(self, part: Part) -> Iterator[tuple[int, int, object, Layout | None]]:
        """Yield (number of the file, row, content, layout) of a part."""
        for file in part.files:
            number, layout = len(self.files), part.layout
            self.files.append(str(file))
            for row, content in read_rows(file):
                if layout is None and isinstance(content, dict):
                    layout = Layout.of_row(content, f"{file}:{row}")

                yield number, row, content, layout
                self.read += 1
                if self.progress and self.read % 200 == 0:
                    self.progress(self.read)

    def _where(self, place: Place) -> str:
        return f"{self.files[place[0]]}:{place[1]}"

    def check_part(self, index: int, part: Part) -> None:
        """Check every row of a part."""
        checker, used, counts = None, None, Counter()
        for file in part.skipped:
            self.findings.add("skipped-file", str(file))

        first = len(self.files)
        unmapped: dict[tuple[str, str], list[str]] = {}
        carried = False
        for number, row, content, layout in self._rows(part):
            counts[number] += 1
            where = self._where((number, row))
            if isinstance(content, UnreadableRow):
                self.findings.add("unreadable", where, str(content))
                continue

            if layout is None:
                self.findings.add("structure", where, f"the row is {type(content).__name__}, not an object")
                continue

            if checker is None or layout is not used:
                checker, used = RowChecker(self.findings, layout, self.answers, self.limit, part.media_dir), layout

            named = layout.columns.get(COLUMN)
            if named in content and content[named] is not None and len(content[named]):
                carried = True  # other columns may hold what they like

            columns = [] if carried else series_columns.unmapped(content, layout.columns.values())
            marked = (
                []
                if carried
                else series_columns.unmapped(content, layout.columns.values(), series_columns.holds_placeholder)
            )
            for code, names in (("series-unmapped", columns), ("placeholders-unmapped", marked)):
                for name in names:
                    unmapped.setdefault((code, name), []).append(where)

            checked = checker.check(content, where, text_only=bool(named) or not columns)
            if checked is not None:
                self._keep(index, (number, row), checked)

        for (code, name), places in unmapped.items() if not carried else ():
            role = COLUMN if code == "series-unmapped" else "prompt"
            if len(places) < counts.total():
                if role == "prompt":
                    continue

                code += "-some"

            for where in places:
                self.findings.add(code, where, f'add "{role}": "{name}" to `columns`')

        for number in range(first, len(self.files)):
            self.findings.parts.append((self.files[number], counts[number]))
            self.findings.rows += counts[number]
            if not counts[number]:
                self.findings.add("no-rows", self.files[number])

    def _keep(self, index: int, place: Place, checked: CheckedRow) -> None:
        where = self._where(place)
        self.repeats.add(index, place, checked.question, checked.answer)
        self._compare(index, place, checked.series)
        self._count_labels(where, checked)
        if self.samples and checked.series:
            self.usable += 1  # reservoir: each row has the same chance, without knowing how many there are
            slot = len(self.drawn) if len(self.drawn) < self.samples else self.rng.randrange(self.usable)
            if slot < self.samples:
                talk = checked.conversation
                question = "\n\n".join(turn["content"] for turn in talk.turns)
                sample = Sample(where, question, talk.answers[0] if talk.answers else "", checked.series)
                self.drawn[slot : slot + 1] = [(self.usable, sample)]

    def _compare(self, index: int, place: Place, series: list[np.ndarray]) -> None:
        for values in series:
            earlier = self.parts.add(index, place, values)
            if earlier is not None:
                self.findings.add("leakage", self._where(place), f"the series is in {self._where(earlier)}, too")

    def _count_labels(self, where: str, checked: CheckedRow) -> None:
        if not checked.series or not checked.conversation.answers:
            return

        answer = checked.conversation.answers[0].strip()
        if checked.labels is not None:
            self.structured += 1
            for label in checked.labels:
                if label in self.findings.labels or len(self.findings.labels) < LABELS_KEPT:
                    self.findings.labels[label] += 1

            return

        if not answer:
            return

        self.prose_total += 1
        if len(self.prose) < self.findings.shown:
            self.prose.append((where, answer))

        if self.short_answers is not None:
            self.short_answers[answer[:80]] += 1
            if len(self.short_answers) > LABELS_KEPT:
                self.short_answers = None  # texts, not labels

    def compare_part(self, index: int, part: Part) -> None:
        """Read the series of a part, to find those that were checked already."""
        self.findings.compared.append(part.name)
        for number, row, content, layout in self._rows(part):
            try:
                if isinstance(content, UnreadableRow) or layout is None:
                    raise ChatTSError(str(content))

                column = layout.columns.get("timeseries")
                series, wrong = read_cell(content[column] if column else None, part.media_dir)
                self._compare(index, (number, row), series)
                if wrong:
                    raise wrong[0]
            except (ChatTSError, KeyError, TypeError) as error:
                self.findings.add("not-compared", self._where((number, row)), shorten(error))

    def finish(self) -> None:
        """Add what only shows when all rows are read."""
        for code, place, earlier in self.repeats.found():
            self.findings.add(code, self._where(place), f"see {self._where(earlier)}")

        if self.structured > self.prose_total:
            for index, (where, answer) in enumerate(self.prose):
                unseen = self.prose_total - len(self.prose) if index == 0 else 0  # only the first ones were kept
                self.findings.add("answer-mixed", where, answer, 1 + unseen)

        elif self.short_answers and len(self.short_answers) * 5 <= self.prose_total:
            self.findings.labels = self.short_answers  # classes

        self._balance()
        self.findings.samples = [sample for _, sample in sorted(self.drawn, key=lambda item: item[0])]

    def _balance(self) -> None:
        labels = self.findings.labels
        if labels.total() < ENOUGH_LABELS:
            return

        (most, common), (least, rare) = labels.most_common()[0], labels.most_common()[-1]
        if len(labels) == 1:
            self.findings.add("imbalance", self.findings.dataset, f"every answer is {shorten(most, 40)!r}")
        elif common >= IMBALANCE * rare:
            detail = f"{shorten(most, 40)!r} {common} times, {shorten(least, 40)!r} {rare} times"
            self.findings.add("imbalance", self.findings.dataset, detail)
