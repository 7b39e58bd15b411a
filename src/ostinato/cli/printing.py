"""Text for people: tables, counts, durations, equations. Plain, so that it can be piped."""

from __future__ import annotations

import math
import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: What looks like a number in a table's cell stands on the right.
_NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?( ?(%|x|ms|s))?|nan|-|")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side, two spaces apart; a column of numbers is flush right.

    >>> print(table(["name", "count"], [["a", "7"], ["long", "12"]]))
    name  count
    a         7
    long     12
    """
    lines = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(columns))]
    right = [
        bool(rows) and all(_NUMBER.fullmatch(row[k].strip()) for row in rows)
        for k in range(len(columns))
    ]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def count(number: int) -> str:
    """A count with its thousands apart.

    >>> count(1234567)
    '1,234,567'
    """
    return f"{number:,}"


def counted(number: int, thing: str) -> str:
    """So many things.

    >>> counted(1, "epoch"), counted(1200, "epoch")
    ('1 epoch', '1,200 epochs')
    """
    return f"{count(number)} {thing}" + ("" if number == 1 else "s")


def figure(value: float) -> str:
    """A loss or a metric with four digits that count.

    >>> figure(0.93), figure(1.0), figure(2.61249), figure(12345.6), figure(0.0)
    ('0.9300', '1.000', '2.612', '12,346', '0')
    """
    if value == 0 or not math.isfinite(value) or abs(value) >= 1e15:
        return f"{value:.4g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.4g}"


def duration(seconds: float) -> str:
    """A time as a person says it.

    >>> duration(0.04), duration(7.25), duration(83.4), duration(7384)
    ('40 ms', '7.2 s', '1 min 23 s', '2 h 3 min')
    """
    if seconds < 0.0995:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def rate(amount: float) -> str:
    """A rate or another positive number with three digits that count.

    >>> rate(64512.3), rate(8.214), rate(0.01234)
    ('64,500', '8.21', '0.0123')
    """
    if amount == 0 or amount != amount:
        return f"{amount:g}"
    if amount >= 100:
        digits = max(0, len(str(int(amount))) - 3)
        return f"{round(amount, -digits):,.0f}"
    return f"{amount:.3g}"


_SYMBOLS = {
    r"\sigma": "\N{GREEK SMALL LETTER SIGMA}",
    r"\phi": "\N{GREEK SMALL LETTER PHI}",
    r"\gamma": "\N{GREEK SMALL LETTER GAMMA}",
    r"\odot": "\N{CIRCLED DOT OPERATOR}",
    r"\tanh": "tanh",
    r"\\": "",
    "&": "",
}


def equations(docstring: str | None) -> list[str]:
    r"""The equations of a cell's docstring, one a line, in plain letters.

    >>> equations(r"A cell. .. math:: \tanh(x)")
    []
    >>> equations("A cell.\n\n.. math:: h' = \\tanh(W_{ih} x)\n")
    ["h' = tanh(W_ih x)"]
    """
    found = re.search(r"^\s*\.\. math::(.*?)(?:\n\s*\n|\Z)", docstring or "", re.DOTALL | re.M)
    if found is None:
        return []
    lines = re.split(r"\\\\", found[1])
    return [text for line in lines if (text := _plain(line))]


def _plain(line: str) -> str:
    line = re.sub(r"\\mathrm\{(\w+)\}", r"\1", line)
    line = re.sub(r"_\{([^}]*)\}", r"_\1", line)
    for latex, letter in _SYMBOLS.items():
        line = line.replace(latex, letter)
    return " ".join(line.split())


def say(text: str = "") -> None:
    """A line on standard output, at once, so that a pipe sees it when it is said."""
    print(text, flush=True)


def note(text: str) -> None:
    """A line beside the results, on standard error."""
    print(text, file=sys.stderr, flush=True)
