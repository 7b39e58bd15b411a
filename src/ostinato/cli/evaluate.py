"""``ostinato evaluate``: a model's metrics on data that it hasn't seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ostinato.cli.model import add_bad_rows, add_model, load
from ostinato.cli.printing import say

if TYPE_CHECKING:
    import argparse

SUMMARY = "measure a model on its held-out data or on files"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_model(parser)
    parser.add_argument(
        "data", nargs="*", metavar="DATA", help="files; none: the part held out in training"
    )
    add_bad_rows(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(args: argparse.Namespace) -> int:
    """Print metrics and tables."""
    from ostinato.cli.report import evaluation_text
    from ostinato.data import BadRows

    task, model, _ = load(args)
    data = [Path(path) for path in args.data] or None
    evaluation = task.evaluate(model, data, BadRows(args.bad_rows))
    if args.json:
        tables = [
            {"title": t.title, "columns": t.columns, "rows": t.rows} for t in evaluation.tables
        ]
        found = {"metrics": evaluation.metrics, "tables": tables, "notes": evaluation.notes}
        say(json.dumps(found, ensure_ascii=False))
    else:
        say(evaluation_text(evaluation))
    return 0
