"""What happens to rows that can't be used: the first one ends the work, or they are counted."""

from __future__ import annotations

from collections import Counter
from typing import Literal, get_args

from ostinato.errors import DataError, InputError

Policy = Literal["fail", "skip"]
#: How many bad rows a summary shows.
SHOWN = 5


class BadValue(Exception):  # noqa: N818 - it never leaves a reader, which makes a rejection of it
    """A row's value can't be used: ``why`` in words, ``kind`` without the row's own details."""

    def __init__(self, why: str, kind: str | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.kind = kind or why


class BadRows:
    """Rejects rows as a policy says, and keeps count.

    Args:
        policy: ``"fail"``: the first bad row is an error; ``"skip"``: bad rows are left out and
            counted.

    Attributes:
        policy: as given.
        count: rows rejected so far.
        reasons: how many for which reason.
        examples: the first five, ``"reviews.csv:17: the label is missing"``.

    Raises:
        InputError: ``policy`` is another word.

    Example:
        >>> bad = BadRows("skip")
        >>> bad.reject("reviews.csv:17", "the label is missing")
        >>> print(bad.summary())
        1 bad row left out: the label is missing (reviews.csv:17)
    """

    def __init__(self, policy: Policy = "fail") -> None:
        if policy not in get_args(Policy):
            raise InputError(f"bad rows: expected 'fail' or 'skip', got {policy!r}")
        self.policy = policy
        self.count = 0
        self.reasons: Counter[str] = Counter()
        self.examples: list[str] = []
        self._first: dict[str, str] = {}

    def reject(self, where: str, why: str, kind: str | None = None) -> None:
        """Reject the row at ``where``.

        Args:
            where: the place, ``reviews.csv:17``.
            why: what is wrong with it.
            kind: under which name it is counted, where ``why`` has details of this one row.

        Raises:
            DataError: the policy is ``"fail"``.
        """
        if self.policy == "fail":
            raise DataError(f"{where}: {why} (--bad-rows skip leaves bad rows out and counts them)")
        kind = kind or why
        self.count += 1
        self.reasons[kind] += 1
        self._first.setdefault(kind, where)
        if len(self.examples) < SHOWN:
            self.examples.append(f"{where}: {why}")

    def summary(self) -> str:
        """One line: how many rows were left out, why, and where the first of each reason is."""
        if not self.count:
            return "no bad rows"
        rows = "1 bad row" if self.count == 1 else f"{self.count:,} bad rows"
        parts = []
        for kind, count in self.reasons.most_common(SHOWN):
            place = self._first[kind]
            parts.append(
                f"{kind} ({place})" if count == 1 else f"{count:,} times {kind} ({place}, …)"
            )
        if len(self.reasons) > SHOWN:
            parts.append("…")
        return f"{rows} left out: {'; '.join(parts)}"


class Once:
    """Rejects each row of a file once, though the file is read several times.

    Rows are told apart by their position, which ascends in each reading.
    """

    def __init__(self, bad: BadRows) -> None:
        self._bad = bad
        self._reported = -1

    def reject(self, position: int, where: str, why: str, kind: str | None = None) -> None:
        """As :meth:`BadRows.reject`, for the row at ``position``, if that is new."""
        if position > self._reported:
            self._bad.reject(where, why, kind)
            self._reported = position
