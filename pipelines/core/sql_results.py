"""Whether two queries give the same answer: execution accuracy of text-to-SQL. No I/O, nothing is executed here.

The comparison is that of the Spider test suite's evaluation (Zhong, Yu and Klein, "Semantic Evaluation for Text-to-SQL
with Distilled Test Suites", EMNLP 2020; `result_eq` of its exec_eval.py): results are multisets of rows, the order of
the rows counts only where the gold query orders them, and the order of the columns never. Unlike its default, DISTINCT
is left as written in both queries, and numbers agree within a relative 1e-6, as a sum in another order differs.
Like every comparison on one database it takes queries for equal that happen to agree on it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

Value = int | float | str | bytes | None
Row = tuple[Value, ...]

ERRORS = ("empty", "invalid", "several", "denied", "time", "size", "memory")
"""Why a query has no result: no statement in it; not valid SQL here; more than one statement; it would do more than
read; out of time; its result is too large; out of memory, or its process died."""

_TOLERANCE = 1e-6
_WAYS = 100  # column orders that are tried; more are possible only where the gold result repeats a column
_FENCE = re.compile(r"```[ \t]*\w*[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
_ORDER = re.compile(r"\border\s+by\b", re.IGNORECASE)


@dataclass(frozen=True)
class Result:
    """What a query gave: its rows, or one of `ERRORS` with the engine's words. `seconds` are CPU-seconds."""

    rows: tuple[Row, ...] = ()
    error: str | None = None
    detail: str = ""
    seconds: float = 0.0


def sql_of(reply: str) -> str:
    """The SQL of a reply: what stands in its first code fence, else all of it."""
    fenced = _FENCE.search(reply)
    return (fenced[1] if fenced else reply).strip()


def orders(sql: str) -> bool:
    """True when the outermost query has an ORDER BY; one in a subquery, a string or a comment does not count."""
    depth, outermost = 0, []
    for character in _QUOTED.sub(" ", sql):
        depth += (character == "(") - (character == ")")
        outermost.append(character if depth == 0 else " ")
    return bool(_ORDER.search("".join(outermost)))


def _alike(one: Value, other: Value) -> bool:
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == other or math.isclose(one, other, rel_tol=_TOLERANCE, abs_tol=1e-9)
    return type(one) is type(other) and one == other


def _key(value: Value) -> tuple[int, float, str]:
    """Sorts values of all types; numbers that are alike stand side by side."""
    if value is None:
        return (0, 0.0, "")
    if isinstance(value, int | float):
        return (1, float(value), "")
    return (2, 0.0, value) if isinstance(value, str) else (3, 0.0, value.hex())


def _row_key(row: Row) -> tuple[object, ...]:
    """Sorts rows by what cannot be rounded first, so that two numbers of another last digit do not stand in another
    place."""
    keys = [_key(value) for value in row]
    exact = [(kind, text) for kind, _, text in keys]
    rounded = [float(f"{number:.6g}") for _, number, _ in keys]
    return (*exact, *rounded, *(number for _, number, _ in keys))


def _rows_alike(gold: Sequence[Row], said: Sequence[Row], *, ordered: bool) -> bool:
    """Whether rows agree one by one, in their order or as multisets."""
    if not ordered:
        gold, said = (sorted(rows, key=_row_key) for rows in (gold, said))
    return all(all(map(_alike, a, b)) for a, b in zip(gold, said, strict=True))


def _orders_of_columns(gold: Sequence[Row], said: Sequence[Row], *, ordered: bool) -> list[list[int]]:
    """Ways to lay the columns of `said` on those of `gold`, each on one of the same values; at most `_WAYS`."""
    given = [[(value,) for value in column] for column in zip(*said, strict=True)]
    ways: list[list[int]] = [[]]
    for column in zip(*gold, strict=True):
        wanted = [(value,) for value in column]
        fit = [at for at, other in enumerate(given) if _rows_alike(wanted, other, ordered=ordered)]
        ways = [[*way, at] for way in ways for at in fit if at not in way][:_WAYS]
    return ways


def same_result(gold: Sequence[Row], said: Sequence[Row], *, ordered: bool) -> bool:
    """True when both results are the same. `ordered`: the order of the rows counts. Two empty results are the same,
    whatever their columns, as in the source."""
    if not gold and not said:
        return True
    if len(gold) != len(said) or len(gold[0]) != len(said[0]):
        return False
    for way in _orders_of_columns(gold, said, ordered=ordered):
        if _rows_alike(gold, [tuple(row[at] for at in way) for row in said], ordered=ordered):
            return True
    return False
