"""``ostinato predict``: a prediction a row, as CSV or JSON lines, while the rows come in."""

from __future__ import annotations

import csv
import json
import sys
from itertools import chain
from typing import TYPE_CHECKING, Any

from ostinato.cli.model import add_bad_rows, add_model, load
from ostinato.cli.printing import note
from ostinato.cli.usage import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from ostinato.tasks.task import Task

SUMMARY = "predict for each row of files or of standard input"

FORMATS = ("csv", "tsv", "tsv-raw", "jsonl", "parquet", "lines", "conll")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_model(parser)
    parser.add_argument(
        "data", nargs="*", default=[], metavar="DATA", help="files, or - for standard input"
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="what DATA is, where its name doesn't say it; lines: each line is a text",
    )
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="COLUMN",
        help="copy a column of DATA beside the prediction; may be given several times",
    )
    parser.add_argument(
        "--as",
        dest="output",
        choices=("csv", "jsonl"),
        default="csv",
        help="what is printed (default: csv)",
    )
    add_bad_rows(parser)


def run(args: argparse.Namespace) -> int:
    """Print one line a prediction."""
    paths = args.data or ([] if sys.stdin.isatty() else ["-"])
    if not paths or ("-" in paths and len(paths) > 1):
        raise UsageError("predict: give DATA: files, or - alone for standard input")
    from ostinato.cli.prediction_rows import Origins, RecordedBadRows, rows_of
    from ostinato.cli.streaming import pieces

    task, model, _ = load(args)
    single = _row_by_row(task)
    if args.keep and not single:
        raise UsageError("predict: --keep needs a model that predicts for single rows")
    bad = RecordedBadRows(args.bad_rows)
    # Files are opened one after the other, when it is their turn.
    rows = chain.from_iterable(rows_of(path, args.format, task.name, bad) for path in paths)
    write = _Writer(args.output)
    if not single:
        write.all(task.predict(model, rows, bad))
    else:
        # Where rows are left out, lines of the output aren't lines of the input any more.
        origins = Origins(args.keep, bad, with_place=args.bad_rows == "skip")
        parts: Iterable[Any] = pieces(rows) if paths == ["-"] else [rows]
        for some in parts:
            write.all(origins.beside(task.predict(model, origins.noted(some), bad)))
    if bad.count:
        note(f"ostinato: {bad.summary()}")
    return 0


def _row_by_row(task: Task) -> bool:
    """Whether a prediction is of one row, so that rows can be predicted as they come."""
    return task.name != "forecast" and task.config.group is None


class _Writer:
    """Predictions to standard output, flushed with every batch that is done."""

    def __init__(self, output: str) -> None:
        self._output = output
        self._columns: list[str] | None = None
        self._csv = csv.writer(sys.stdout, lineterminator="\n")

    def all(self, predictions: Iterator[dict[str, Any]]) -> None:
        """Write them, each as it is there."""
        for one in predictions:
            shown = {name: _short(value) for name, value in one.items()}
            if self._output == "jsonl":
                sys.stdout.write(json.dumps(shown, ensure_ascii=False, default=str) + "\n")
                continue
            if self._columns is None:
                self._columns = list(shown)
                self._csv.writerow(self._columns)
            self._csv.writerow([_cell(shown.get(name)) for name in self._columns])
        sys.stdout.flush()


def _short(value: Any) -> Any:
    """Numbers with the seven digits that float32 has."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _cell(value: Any) -> Any:
    """A list becomes words; JSON lines keep it a list."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else value
