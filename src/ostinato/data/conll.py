"""Reads tagged sentences: CoNLL-style columns, or rows with lists of tokens and of tags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ostinato.data.bad_rows import BadValue
from ostinato.data.columns import named_column, no_rows
from ostinato.data.examples import TaggedExamples
from ostinato.data.lines import open_lines
from ostinato.data.reading import Paths, paths_of
from ostinato.data.rows import Row, Rows, format_of, read_rows, require_columns
from ostinato.data.tables import NOT_UTF8
from ostinato.data.values import missing
from ostinato.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ostinato.data.bad_rows import BadRows

_TOKENS = ("tokens", "words", "text")
_TAGS = ("tags", "labels", "label", "pos_tags", "ner_tags")
#: CoNLL-U's: ID FORM LEMMA UPOS ...
_CONLLU_COLUMNS = (1, 3)


def read_tagged(
    paths: Paths,
    bad: BadRows,
    *,
    token: int | str | None = None,
    tag: int | str | None = None,
    format: str | None = None,
) -> TaggedExamples:
    """Sentences with a tag for each token.

    CoNLL-style files (any name but a table's): one token a line, its columns separated by tabs,
    or, in a line without tabs, by spaces; an empty line between sentences; lines that begin with
    ``-DOCSTART-`` are left out. In files that end in ``.conllu``, so are comments (``#``) and
    tokens whose number isn't whole (``4-5``, ``4.1``). JSON lines and Parquet: a list of tokens
    and a list of tags a row.

    Args:
        paths: one or several files; each may be .gz.
        bad: takes lines that lack a column or aren't UTF-8, with the sentence that they are in;
            rows whose lists are missing, empty or not equally long.
        token: its column: a number from 0, -1 is the last; by default the first, 1 of .conllu.
            In tables a name, by default ``tokens``, ``words`` or ``text``.
        tag: as ``token``; by default the last column, 3 of .conllu. In tables by default
            ``tags``, ``labels``, ``label``, ``pos_tags`` or ``ner_tags``.
        format: ``conll``, ``jsonl`` or ``parquet``, where the name doesn't say it.

    Raises:
        DataError: a file or a column isn't there, or no sentence can be used.
    """
    tokens: list[list[str]] = []
    tags: list[list[str]] = []
    where: list[str] = []
    for path in paths_of(paths):
        form = format or format_of(path) or "conll"
        if form == "conll":
            sentences = _conll(path, bad, token, tag)
        else:
            sentences = _rows(read_rows(path, bad, format=form), bad, token, tag)
        for place, some_tokens, some_tags in sentences:
            tokens.append(some_tokens)
            tags.append(some_tags)
            where.append(place)
    if not tokens:
        raise no_rows(paths_of(paths), "sentence", bad)
    return TaggedExamples(tokens, tags, where)


_Sentence = tuple[str, list[str], list[str]]


def _conll(
    path: Path, bad: BadRows, token: int | str | None, tag: int | str | None
) -> Iterator[_Sentence]:
    universal = path.name.lower().removesuffix(".gz").endswith(".conllu")
    defaults = _CONLLU_COLUMNS if universal else (0, -1)
    columns = _number(path, token, defaults[0]), _number(path, tag, defaults[1])
    needed = max(2, *(c + 1 if c >= 0 else -c for c in columns))
    tokens: list[str] = []
    tags: list[str] = []
    first, broken = 0, False
    for number, raw in _with_an_empty_line(path):
        where = f"{path}:{number}"
        try:
            line = raw.decode()
        except UnicodeDecodeError:
            bad.reject(where, f"{NOT_UTF8}; its sentence is left out", NOT_UTF8)
            broken = True
            continue
        if not line.strip():
            if tokens and not broken:
                yield f"{path}:{first}", tokens, tags
            tokens, tags, broken = [], [], False
            continue
        if line.startswith("-DOCSTART-") or (universal and line.startswith("#")):
            continue
        fields = [f.strip() for f in line.split("\t")] if "\t" in line else line.split()
        if universal and not fields[0].isdigit():
            continue
        if len(fields) < needed or not fields[columns[0]] or not fields[columns[1]]:
            kind = "a token without its tag"
            shown = f"{kind}: expected {needed} columns or more, none empty, got {line[:60]!r}"
            bad.reject(where, f"{shown}; its sentence is left out", kind)
            broken = True
            continue
        if not tokens:
            first = number
        tokens.append(fields[columns[0]])
        tags.append(fields[columns[1]])


def _with_an_empty_line(path: Path) -> Iterator[tuple[int, bytes]]:
    """The file's lines and one more, which ends the last sentence."""
    number = 0
    for number, raw in open_lines(path):
        yield number, raw
    yield number + 1, b""


def _number(path: Path, column: int | str | None, default: int) -> int:
    if column is None:
        return default
    try:
        return int(column)
    except ValueError:
        raise DataError(
            f"{path}: columns of CoNLL-style files are numbers from 0, got {column!r}"
        ) from None


def _rows(
    rows: Rows, bad: BadRows, token: int | str | None, tag: int | str | None
) -> Iterator[_Sentence]:
    token_column = _name(rows, token, _TOKENS)
    tag_column = _name(rows, tag, _TAGS)
    for row in rows:
        try:
            tokens, tags = _strings(row, token_column), _strings(row, tag_column)
            if len(tokens) != len(tags):
                kind = "as many tags as tokens are expected"
                raise BadValue(f"{kind}, got {len(tokens)} tokens, {len(tags)} tags", kind)
        except BadValue as error:
            bad.reject(row.where, error.why, error.kind)
            continue
        yield row.where, tokens, tags


def _name(rows: Rows, column: int | str | None, names: tuple[str, ...]) -> str:
    found = named_column(rows, names) if column is None else str(column)
    require_columns(rows, [found or names[0]])
    return found or names[0]


def _strings(row: Row, column: str) -> list[str]:
    value: Any = row.values.get(column)
    if value is None:
        raise missing(column)
    if isinstance(value, list) and value and all(isinstance(v, str | int) for v in value):
        return [str(v) for v in value]
    kind = f"{column!r} isn't a list of one or more strings"
    raise BadValue(f"{kind} but {str(value)[:40]!r}", kind)
