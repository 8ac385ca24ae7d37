"""Erasures in the object store: numbered, signed entries that name documents never to be served again, and a receipt
of each.

An entry `erasures/CORPUS/N.json` is created exclusively and never changed: all of them together are a corpus's deny
list. It names ids, and digests of texts; no text. Every search reads the list, so it holds from the moment that an
entry is there, for every generation. `N.receipt.json` says what a purge found, removed and left; each pass of the purge
signs it anew. What is removed, and how, is decided elsewhere.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.errors import IntegrityError
from pipelines.ports import ObjectStore, Ports
from pipelines.settings import KeyReference
from pipelines.signing import public_file, read_public_key, seal, signer, unseal

ENTRY = "application/vnd.assay.erasure+json"
RECEIPT = "application/vnd.assay.erasure-receipt+json"


class ErasureLog:
    """The erasures of all corpora. Reading needs the public key only; what was read is kept, for entries never change.

    `seen` is a folder of this reader's own, a file a corpus with the highest number that it ever read: a list that is
    shorter was cut, and then nothing is served.
    """

    def __init__(self, objects: ObjectStore, *, key_file: Path | KeyReference, seen: Path | None = None) -> None:
        self._objects, self._key_file, self._seen = objects, key_file, seen
        self._known: dict[str, list[dict[str, Any]]] = {}

    @staticmethod
    def key(corpus: str, number: int) -> str:
        return f"erasures/{corpus}/{number:09d}.json"

    @staticmethod
    def receipt_key(corpus: str, number: int) -> str:
        return f"erasures/{corpus}/{number:09d}.receipt.json"

    def numbers(self, corpus: str) -> list[int]:
        """Ascending; empty before the first erasure. IntegrityError when one is missing, or when more were read here
        before."""
        names = (key.rsplit("/", 1)[-1] for key in self._objects.list(f"erasures/{corpus}"))
        found = sorted(int(name[:-5]) for name in names if name[:-5].isdigit() and name.endswith(".json"))
        file = self._seen and self._seen / "erasures" / corpus
        seen = int(file.read_text(encoding="ascii")) if file and file.is_file() else 0
        if found != list(range(1, len(found) + 1)) or len(found) < max(seen, len(self._known.get(corpus, ()))):
            raise IntegrityError(
                f"the erasures of {corpus} are {', '.join(map(str, found)) or 'none'}, but {seen or 'more'} were read "
                "here before or one is missing: the list was cut; put it back"
            )
        if file and len(found) > seen:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as out:  # readers run side by side
                out.write(f"{len(found)}\n")
            Path(out.name).replace(file)
        return found

    def entries(self, corpus: str) -> list[dict[str, Any]]:
        """The verified entries in their order. IntegrityError on one that the release key did not sign as it is."""
        known, numbers = self._known.get(corpus, []), self.numbers(corpus)
        if len(known) < len(numbers):
            key = read_public_key(public_file(self._key_file))
            known = known + [self._entry(corpus, number, key) for number in numbers[len(known) :]]
            self._known[corpus] = known
        return known

    def _entry(self, corpus: str, number: int, key: Any) -> dict[str, Any]:
        subject = f"erasure {number} of {corpus}"
        entry = unseal(self._objects.get(self.key(corpus, number)), key, subject=subject, payload_type=ENTRY)
        if (entry.get("corpus"), entry.get("number")) != (corpus, number):
            raise IntegrityError(f"{subject} holds erasure {entry.get('number')} of {entry.get('corpus')}")
        return entry

    def erased(self, corpus: str) -> dict[str, str]:
        """Document id -> day of its erasure (YYYY-MM-DD)."""
        return {row["id"]: entry["created"][:10] for entry in self.entries(corpus) for row in entry["documents"]}

    def erased_from(self, collection: str) -> dict[str, str]:
        """The same, of the corpus that a collection is a build of (`b_CORPUS_DIGEST`)."""
        return self.erased(collection.rpartition("_")[0].removeprefix("b_"))

    def append(self, corpus: str, entry: Mapping[str, Any]) -> int:
        """Publish as the next number, whoever else publishes meanwhile; returns it. From here on it holds."""
        signing = signer(self._key_file)
        while True:
            number = len(self.numbers(corpus)) + 1
            made = seal({**entry, "corpus": corpus, "number": number}, signing, payload_type=ENTRY)
            if self._objects.create(self.key(corpus, number), made):
                return number

    def receipt(self, corpus: str, number: int) -> dict[str, Any] | None:
        """The verified receipt of an erasure; None before its first pass is over."""
        try:
            envelope = self._objects.get(self.receipt_key(corpus, number))
        except KeyError:
            return None
        subject, key = f"receipt {number} of {corpus}", read_public_key(public_file(self._key_file))
        receipt = unseal(envelope, key, subject=subject, payload_type=RECEIPT)
        if (receipt.get("corpus"), receipt.get("number")) != (corpus, number):
            raise IntegrityError(f"{subject} holds receipt {receipt.get('number')} of {receipt.get('corpus')}")
        return receipt

    def write_receipt(self, corpus: str, number: int, receipt: Mapping[str, Any]) -> None:
        body = {**receipt, "corpus": corpus, "number": number}
        made = seal(body, signer(self._key_file), payload_type=RECEIPT)
        self._objects.put(self.receipt_key(corpus, number), made)


def log_of(ports: Ports) -> ErasureLog:
    """The erasures in a corpus's object store."""
    return ErasureLog(ports.objects, key_file=ports.settings.signing_key, seen=ports.settings.seen)


def removed_by(objects: ObjectStore, corpus: str, folder: str) -> int | None:
    """The erasure that removed a folder of the object store, for an error's wording: signatures are not checked."""
    for number, removed in _removed(objects, corpus):
        if folder in removed:
            return number
    return None


def _removed(objects: ObjectStore, corpus: str) -> Iterator[tuple[int, set[str]]]:
    for key in objects.list(f"erasures/{corpus}"):
        if key.endswith(".receipt.json"):
            receipt = json.loads(base64.b64decode(json.loads(objects.get(key))["payload"]))
            yield receipt["number"], {row["place"] for row in receipt.get("removed", ())}
