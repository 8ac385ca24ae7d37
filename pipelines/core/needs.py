"""What a regular expression needs in order to match, read off its parse tree: where that is not, it need not be tried.

A hundred expressions cost a hundred searches of a text, nearly all of which find nothing. Engines for sets of them
(Hyperscan, Rust's regex) look first for strings that every match must hold; this is what of it takes no engine. All is
a necessary condition: what is not understood asks for nothing. The tree is CPython's own (`re._parser`), not an API.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from re import _constants as ops  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

WORD = "\N{MIDDLE DOT}"
"""Begins a beginning before which the boundary of a word is wanted. No folded text holds it."""
_REPEATS = (ops.MAX_REPEAT, ops.MIN_REPEAT, ops.POSSESSIVE_REPEAT)
_LATIN = {"\u0130": "i", "\u0131": "i", "\u017f": "s", "\u212a": "k"}  # what matches ASCII where case is ignored

Tree = Iterable[tuple[Any, Any]]


def folded(text: str) -> str:
    """A text in lower case, character for character, with `?` for what is not ASCII."""
    if not text.isascii():
        for letter, same in _LATIN.items():
            text = text.replace(letter, same)
        text = text.encode("ascii", "replace").decode()
    return text.lower()


@cache
def needed(pattern: re.Pattern[str]) -> frozenset[str]:
    """Strings, as the pattern has them, of which every match holds one (in some case, where case is ignored); empty
    where none is known. Of several such sets the last one of the fewest strings, if these have three characters."""
    return _needed(parser.parse(pattern.pattern, pattern.flags))


def _needed(tree: Tree) -> frozenset[str]:
    sets, run = [frozenset[str]()], ""
    for kind, value in [*tree, (None, None)]:
        if kind is ops.LITERAL:
            run += chr(value)
            continue
        sets.append(frozenset([run] if run else []))
        run = ""
        if kind is ops.SUBPATTERN:
            sets.append(_needed(value[3]))
        elif kind in _REPEATS and value[0]:
            sets.append(_needed(value[2]))
        elif kind is ops.BRANCH and all(branches := [_needed(branch) for branch in value[1]]):
            sets.append(frozenset().union(*branches))
    return max(reversed(sets), key=lambda strings: (min([3, *map(len, strings)]) if strings else 0, -len(strings)))


def beginnings(pattern: re.Pattern[str], *, most: int) -> set[str]:
    """Strings with one of which every match begins, in a folded text, but for a match at the very start of the text
    (`\\A`). They are as long as is known, up to `most` characters; an empty one says that nothing is known."""
    done, open_ = _begin(parser.parse(pattern.pattern, pattern.flags), {""}, most)
    return {"" if text == WORD else text for text in done | open_}


def _joined(begun: str, letter: str) -> str:
    """Folding keeps the boundary only of words that begin with a letter of ASCII."""
    return letter if begun == WORD and not re.match(r"\w", letter) else begun + letter


def _begin(tree: Tree, begun: set[str], most: int) -> tuple[set[str], set[str]]:
    """(beginnings of which no more is known, those that what follows the tree continues)."""
    done: set[str] = set()
    for kind, value in tree:
        if kind is ops.AT and value is ops.AT_BEGINNING_STRING:
            begun = begun - {""}
        elif kind is ops.AT and value is ops.AT_BOUNDARY:
            begun = {text or WORD for text in begun}
        elif kind in (ops.AT, ops.ASSERT, ops.ASSERT_NOT):
            continue
        elif kind is ops.LITERAL or (kind is ops.IN and all(of is ops.LITERAL for of, _ in value)):
            letters = [code for _, code in value] if kind is ops.IN else [value]
            begun = {_joined(text, folded(chr(code))) for text in begun for code in letters}
        elif kind in (ops.SUBPATTERN, ops.BRANCH):
            ways = [_begin(way, begun, most) for way in (value[1] if kind is ops.BRANCH else [value[3]])]
            done, begun = done.union(*(of for of, _ in ways)), set().union(*(of for _, of in ways))
        elif kind in _REPEATS:
            least, times, item = value
            over, once = _begin(item, begun, most)
            done |= over if times == 1 else over | once
            begun = (set() if least else begun) | (once if times == 1 else set())
        else:
            return done | begun, set()
        done |= {text for text in begun if len(text) > most}
        begun = {text for text in begun if len(text) <= most}
    return done, begun
