"""Digests: sha256 over canonical forms, and an order-free digest of a set of rows. No I/O."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from itertools import islice
from typing import Any

_MODULUS = 1 << 256


def digest_bytes(data: bytes) -> str:
    """sha256, hex."""
    return hashlib.sha256(data).hexdigest()


def digest_text(text: str) -> str:
    """sha256 (hex) of the UTF-8 form; lone surrogates are kept apart rather than refused."""
    return digest_bytes(text.encode("utf-8", "surrogatepass"))


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no white space; NaN is refused (ValueError)."""
    return _CANONICAL.encode(value)


def digest_json(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of `value`."""
    return digest_bytes(canonical_json(value).encode())


def digest_list(items: Iterable[Any]) -> str:
    """`digest_json` of the list of `items`, which is never whole in memory."""
    digest, comma, rest = hashlib.sha256(b"["), b"", iter(items)
    while piece := list(islice(rest, 4096)):
        digest.update(comma + canonical_json(piece)[1:-1].encode())
        comma = b","
    digest.update(b"]")
    return digest.hexdigest()


def digest_row(*fields: bytes) -> int:
    """One row as an integer below 2**256. Fields are length-prefixed, so no two field lists collide by joining."""
    h = hashlib.sha256()
    for item in fields:
        h.update(len(item).to_bytes(8, "big"))
        h.update(item)
    return int.from_bytes(h.digest(), "big")


def digest_set(rows: Iterable[int]) -> str:
    """Order-free digest (64 hex) of a multiset of `digest_row` values: their sum modulo 2**256.

    Additive multiset hash after Clarke et al., "Incremental Multiset Hash Functions" (2003), with 256 bits:
    it guards against loss and duplication, not against an adversary who can choose millions of rows.
    """
    total = 0
    for row in rows:
        total = (total + row) % _MODULUS
    return f"{total:064x}"


def combine_sets(digests: Iterable[str]) -> str:
    """Digest of the union (as multisets) of sets digested by `digest_set`, e.g. one per partition."""
    return f"{sum(int(d, 16) for d in digests) % _MODULUS:064x}"
