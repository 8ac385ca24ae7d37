"""The object store on obstore: a local folder or `s3://bucket/prefix`, behind `ports.ObjectStore`.

Each write is whole or absent: a folder gets a staged file that is renamed, S3 a single put. Nothing is cached. Of a
large object single ranges can be read.
Credentials and endpoint of S3 come from the usual AWS_* variables.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from pipelines.errors import BackendError, BadConfig, BadInput

KEY_FORM = "POSIX path segments joined by single slashes, none of them . or .., e.g. builds/b_support/seal.json"
_KEY = re.compile(r"[^/\\\x00-\x1f\x7f#]+(?:/[^/\\\x00-\x1f\x7f#]+)*")


def valid_key(key: str) -> str:
    """The key itself; BadInput when it could leave the store, or when backends would read it differently."""
    if _KEY.fullmatch(key) is None or any(part in (".", "..") for part in key.split("/")):
        raise BadInput(f"object key {key!r} is not valid; a key is {KEY_FORM}")
    return key


TAIL = 65_536
"""Bytes at the end of an object that its reader fetches at once: what Parquet's reader begins with."""


class Ranged(io.RawIOBase):
    """An object as a file to read from: its last bytes, which are here, and of the rest one range for each read."""

    def __init__(self, tail: bytes, *, size: int, fetch: Callable[[int, int], bytes]) -> None:
        """`fetch(start, length)` gets a range; `size` is the whole object's, in bytes."""
        super().__init__()
        self._tail, self._size, self._fetch, self._at = tail, size, fetch, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        start, here = self._at, self._size - len(self._tail)
        end = self._size if size is None or size < 0 else min(start + size, self._size)
        if end <= start:
            return b""
        self._at = end
        return self._tail[start - here : end - here] if start >= here else self._fetch(start, end - start)


class ObstoreObjects:
    """Keys to bytes below `uri`. It may be pickled into worker processes: only the address travels."""

    def __init__(self, uri: str) -> None:
        if "://" in uri and not uri.startswith("s3://"):
            raise BadConfig(f"ASSAY_OBJECTS_URI is {uri!r}; it is a folder or s3://bucket/prefix")
        self._base = uri.rstrip("/")

    def __reduce__(self) -> tuple[Any, ...]:
        return ObstoreObjects, (self._base,)

    @cached_property
    def _store(self) -> Any:
        import os

        from obstore.store import LocalStore, S3Store

        if not self._base.startswith("s3://"):
            with self._said_plainly("opening"):
                Path(self._base).mkdir(parents=True, exist_ok=True)
                return LocalStore(self._base, automatic_cleanup=True)
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        options: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}
        if endpoint and endpoint.startswith("http://"):
            options["client_options"] = {"allow_http": True}
        return S3Store.from_url(self._base, **options)

    @contextmanager
    def _said_plainly(self, doing: str) -> Iterator[None]:
        """Vendor errors as one line; a full disk is named as such, with the place."""
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, OSError) as exc:
            text = " ".join(str(exc).partition("Debug source:")[0].split())
            if "No space left on device" in text or "Disk quota exceeded" in text:
                raise BadInput(f"no space left in {self._base}; free some, or set ASSAY_OBJECTS_URI") from exc
            raise BackendError(f"object store {self._base}: {doing}: {text[:300]}") from exc

    def get(self, key: str) -> bytes:
        """The object; KeyError when there is none."""
        from obstore import get

        valid_key(key)
        with self._said_plainly(f"reading {key}"):
            try:
                return bytes(get(self._store, key).bytes())
            except FileNotFoundError as exc:
                raise KeyError(key) from exc

    def reader(self, key: str) -> Ranged:
        """The object as a file of which only what is read is fetched; KeyError when there is none."""
        from obstore import get

        valid_key(key)
        with self._said_plainly(f"reading {key}"):
            try:
                end = get(self._store, key, options={"range": {"suffix": TAIL}})
                return Ranged(bytes(end.bytes()), size=end.meta["size"], fetch=partial(self._range, key))
            except FileNotFoundError as exc:
                raise KeyError(key) from exc

    def _range(self, key: str, start: int, length: int) -> bytes:
        from obstore import get_range

        with self._said_plainly(f"reading {key}"):
            return bytes(get_range(self._store, key, start=start, length=length))

    def put(self, key: str, data: bytes) -> None:
        """Write or replace, whole or not at all."""
        from obstore import put

        valid_key(key)
        with self._said_plainly(f"writing {key}"):
            put(self._store, key, data)

    def create(self, key: str, data: bytes) -> bool:
        """Exclusive create (a conditional put): exactly one of several creators gets True."""
        from obstore import put
        from obstore.exceptions import AlreadyExistsError

        valid_key(key)
        with self._said_plainly(f"creating {key}"):
            try:
                put(self._store, key, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
        return True

    def list(self, prefix: str) -> list[str]:
        """Keys below a prefix of whole segments (`builds/x` does not find `builds/xy/z`), sorted; "" lists all."""
        from obstore import list as list_objects

        prefix = prefix.rstrip("/")
        if prefix:
            valid_key(prefix)
        with self._said_plainly(f"listing {prefix or '/'}"):
            found = list_objects(self._store, prefix=prefix or None)
            return sorted(str(entry["path"]) for batch in found for entry in batch)

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects in the order given, one by one: a killed removal leaves the last of them. Those that are gone
        already are no error; folders that it empties go too."""
        from obstore import delete

        for key in keys:
            valid_key(key)
            with self._said_plainly(f"removing {key}"), suppress(FileNotFoundError):
                delete(self._store, key)

    def uri(self, key: str) -> str:
        """A local path, or `s3://bucket/prefix/key`."""
        return f"{self._base}/{valid_key(key)}"
