"""Signed envelopes of releases and erasures, and the keys that sign them: a file, the environment, or a KMS.

An envelope is DSSE (Dead Simple Signing Envelope, the form of in-toto and sigstore) around canonical JSON. DSSE's
pre-authentication encoding is one line; signing and verifying with Ed25519 are `cryptography`'s. securesystemslib reads
and writes the same envelopes (a test holds us to it), but importing it pulls in boto3, one second of every command: it
is imported where a KMS signs, and where a KMS's key (ECDSA or RSA) is verified.

The public half lies in a file, `STEM.pub.pem` beside a private key file, else `ASSAY_HOME/keys/release.pub.pem`: it is
written with the first signature, and a reader needs nothing else.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pipelines.core.digests import canonical_json, digest_bytes
from pipelines.errors import BackendError, BadConfig, IntegrityError
from pipelines.settings import KeyReference

PAYLOAD_TYPE = "application/vnd.assay.release+json"

PublicKey = Any
"""Ed25519PublicKey, or of a KMS: EllipticCurvePublicKey, RSAPublicKey."""


class Signing(Protocol):
    """What signs bytes; `cryptography`'s Ed25519PrivateKey is one."""

    def public_key(self) -> PublicKey: ...
    def sign(self, data: bytes, /) -> bytes: ...


def _pae(payload: bytes, payload_type: str) -> bytes:
    """DSSE's pre-authentication encoding: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def key_id(key: PublicKey) -> str:
    """sha256 (hex) of the raw 32 bytes of an Ed25519 public key; of any other, of its SubjectPublicKeyInfo in DER."""
    if isinstance(key, Ed25519PublicKey):
        return digest_bytes(key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw))
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    return digest_bytes(key.public_bytes(serialization.Encoding.DER, info))


def seal(body: Mapping[str, Any], key: Signing, *, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """The signed envelope, as JSON. Ed25519 is deterministic: same body and key, same bytes; a KMS's key is not."""
    payload = canonical_json(body).encode()
    signature = {
        "keyid": key_id(key.public_key()),
        "sig": base64.b64encode(key.sign(_pae(payload, payload_type))).decode(),
    }
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [signature],
    }
    return json.dumps(envelope, indent=1).encode()


def _verify(key: PublicKey, signature: bytes, data: bytes) -> None:
    """InvalidSignature when `key` did not sign `data`."""
    if isinstance(key, Ed25519PublicKey):
        key.verify(signature, data)
        return
    from securesystemslib.exceptions import UnverifiedSignatureError
    from securesystemslib.signer import Signature, SSlibKey

    try:
        SSlibKey.from_crypto(key, "release").verify_signature(Signature("release", signature.hex()), data)
    except UnverifiedSignatureError as exc:
        raise InvalidSignature from exc


def unseal(envelope: bytes, key: PublicKey, *, subject: str, payload_type: str = PAYLOAD_TYPE) -> dict[str, Any]:
    """The body of an envelope that `key` signed; IntegrityError, naming `subject`, in every other case."""
    try:
        parsed = json.loads(envelope)
        payload = base64.b64decode(parsed["payload"], validate=True)
        signatures = [(s["keyid"], base64.b64decode(s["sig"], validate=True)) for s in parsed["signatures"]]
        kind = parsed["payloadType"]
    except (ValueError, KeyError, TypeError) as exc:
        raise IntegrityError(f"{subject} is not a signed envelope: {exc!r}") from exc
    if kind != payload_type:
        raise IntegrityError(f"{subject} holds {kind!r}, not {payload_type}")
    ours = [signature for keyid, signature in signatures if keyid == key_id(key)]
    if not ours:
        signers = ", ".join(keyid[:12] for keyid, _ in signatures) or "nobody"
        raise IntegrityError(f"{subject} is signed by {signers}, not by the release key {key_id(key)[:12]}")
    try:
        _verify(key, ours[0], _pae(payload, payload_type))
        body: dict[str, Any] = json.loads(payload)
    except (InvalidSignature, ValueError) as exc:
        raise IntegrityError(f"{subject}: the signature does not match the manifest; it was altered") from exc
    return body


def read_public_key(path: Path) -> PublicKey:
    """BadConfig when the file is not there or holds no public key in PEM."""
    try:
        return serialization.load_pem_public_key(path.read_bytes())
    except OSError as exc:
        raise BadConfig(f"no public key of releases at {path}; it is made with the first release") from exc
    except ValueError as exc:
        raise BadConfig(f"{path} is not a public key in PEM form") from exc


def _create(path: Path, data: bytes, mode: int) -> None:
    """Whole or not at all, and never over an existing file: written beside it, then linked to the name."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        os.fchmod(descriptor, mode)
        with os.fdopen(descriptor, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.link(temporary, path)
    except FileExistsError:
        pass  # another process made it first: its key is the key
    finally:
        Path(temporary).unlink()


def _loaded(pem: bytes, where: str) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as exc:
        raise BadConfig(f"{where} is not a readable Ed25519 private key in PEM form (ASSAY_SIGNING_KEY)") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise BadConfig(f"{where} is not an Ed25519 private key (ASSAY_SIGNING_KEY)")
    return key


class _Kms:
    """A key that never leaves its KMS, by securesystemslib's signer for it. BackendError when it does not sign."""

    def __init__(self, reference: KeyReference) -> None:
        self._reference = reference

    def _asked(self, what: Any) -> Any:
        try:
            return what()
        except Exception as exc:  # each vendor has exceptions of its own
            said = f"{type(exc).__name__}: {' '.join(str(exc).split())[:200]}"
            raise BackendError(f"{self._reference.uri} (ASSAY_SIGNING_KEY) did not sign: {said}") from exc

    @cached_property
    def _public(self) -> PublicKey:
        file, uri = self._reference.public, self._reference.uri
        if file.is_file():
            return read_public_key(file)
        scheme, _, name = uri.partition(":")
        if scheme != "awskms":
            raise BadConfig(f"{uri} (ASSAY_SIGNING_KEY): put its public key, in PEM form, at {file}")
        from securesystemslib.signer import AWSSigner

        found = self._asked(lambda: AWSSigner.import_(name)[1])
        return serialization.load_pem_public_key(found.keyval["public"].encode())

    def public_key(self) -> PublicKey:
        return self._public

    def sign(self, data: bytes, /) -> bytes:
        from securesystemslib.signer import Signer, SSlibKey

        known = SSlibKey.from_crypto(self._public, "release")
        made = self._asked(lambda: Signer.from_priv_key_uri(self._reference.uri, known).sign(data))
        signature = bytes.fromhex(made.signature)
        try:
            _verify(self._public, signature, data)
        except InvalidSignature as exc:
            raise BadConfig(
                f"{self._reference.public} does not belong to {self._reference.uri}; readers would refuse what it signs"
            ) from exc
        return signature


def _signing(place: Path | KeyReference) -> tuple[Signing, str]:
    """(what signs, its name in errors); a key file that is not there is made (mode 0600)."""
    if isinstance(place, Path):
        if not place.is_file():
            made = Ed25519PrivateKey.generate().private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            _create(place, made, 0o600)
        try:
            return _loaded(place.read_bytes(), str(place)), str(place)
        except OSError as exc:
            raise BadConfig(f"{place} is not readable (ASSAY_SIGNING_KEY): {exc.strerror}") from exc
    if place.uri == "env":
        return _loaded((place.pem or "").encode(), "ASSAY_SIGNING_KEY_PEM"), "ASSAY_SIGNING_KEY_PEM"
    return _Kms(place), place.uri


def signer(place: Path | KeyReference) -> Signing:
    """What signs, with its public half in its file (written here where it is not there yet).

    BadConfig when there is no such key, or when that file holds the public half of another one."""
    key, name = _signing(place)
    public = public_file(place)
    if not public.is_file():
        info = serialization.PublicFormat.SubjectPublicKeyInfo
        _create(public, key.public_key().public_bytes(serialization.Encoding.PEM, info), 0o644)
    if key_id(read_public_key(public)) != key_id(key.public_key()):
        raise BadConfig(f"{public} does not belong to {name}; readers would refuse what it signs")
    return key


def public_file(place: Path | KeyReference) -> Path:
    """Where the public half of a key is."""
    return place.with_name(f"{place.stem}.pub.pem") if isinstance(place, Path) else place.public
