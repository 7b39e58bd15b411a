"""Reads labelled texts, in memory as their numbers are needed again and again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ostinato.data.bad_rows import BadValue
from ostinato.data.columns import guess_columns, no_rows
from ostinato.data.examples import TextExamples
from ostinato.data.rows import read_rows
from ostinato.data.values import label_of, text_of
from ostinato.errors import InputError

if TYPE_CHECKING:
    from ostinato.data.bad_rows import BadRows

#: One file, or several that are read one after another.
Paths = str | Path | Sequence[str | Path]


def paths_of(paths: Paths) -> list[Path]:
    """The files as a list.

    Raises:
        InputError: it is empty.
    """
    several = [paths] if isinstance(paths, str | Path) else list(paths)
    if not several:
        raise InputError("expected one or more files, got none")
    return [Path(path) for path in several]


def read_text_examples(
    paths: Paths,
    text: str | None,
    label: str | None,
    bad: BadRows,
    *,
    format: str | None = None,
) -> TextExamples:
    """Texts with labels from tables.

    Args:
        paths: one or several files, as of :func:`~ostinato.data.read_rows`.
        text: the column of texts; None: :func:`~ostinato.data.guess_columns` tells.
        label: the column of labels, likewise.
        bad: takes rows whose text is missing, empty or no string, or whose label is missing.
        format: of all the files, where their names don't say it.

    Raises:
        DataError: a file or a column isn't there, or no row can be used.
    """
    texts: list[str] = []
    labels: list[str] = []
    where: list[str] = []
    for path in paths_of(paths):
        rows = read_rows(path, bad, format=format)
        text_column, label_column = guess_columns(rows, text, label)
        for row in rows:
            try:
                pair = text_of(row, text_column), label_of(row, label_column)
            except BadValue as error:
                bad.reject(row.where, error.why, error.kind)
                continue
            texts.append(pair[0])
            labels.append(pair[1])
            where.append(row.where)
    if not texts:
        raise no_rows(paths_of(paths), "row", bad)
    return TextExamples(texts, labels, where)
