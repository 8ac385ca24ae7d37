"""The release log: numbered, signed manifests in the object store, published by exclusive creation.

Each object `releases/CORPUS/GENERATION.json` is a DSSE envelope (Dead Simple Signing Envelope, the form of in-toto
and sigstore) around the manifest's canonical JSON, signed with Ed25519. It is verified on every read, for which the
public key beside the private one is enough. Who may publish, and what, is decided elsewhere.

DSSE's pre-authentication encoding is one line; signing and verifying are `cryptography`'s. securesystemslib reads
and writes the same envelopes (a test holds us to it), but importing it pulls in boto3, one second of every command.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pipelines.core.digests import canonical_json, digest_bytes
from pipelines.errors import BadConfig, IntegrityError, NotFound, PromotionConflict

if TYPE_CHECKING:
    from pipelines.ports import ObjectStore

PAYLOAD_TYPE = "application/vnd.assay.release+json"


def _pae(payload: bytes, payload_type: str) -> bytes:
    """DSSE's pre-authentication encoding: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def key_id(key: Ed25519PublicKey) -> str:
    """sha256 (hex) of the raw 32 bytes of the public key."""
    return digest_bytes(key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw))


def seal(manifest: Mapping[str, Any], key: Ed25519PrivateKey, *, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """The signed envelope of a manifest, as JSON. Ed25519 is deterministic: same manifest and key, same bytes."""
    payload = canonical_json(manifest).encode()
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


def unseal(envelope: bytes, key: Ed25519PublicKey, *, subject: str, payload_type: str = PAYLOAD_TYPE) -> dict[str, Any]:
    """The manifest in an envelope that `key` signed; IntegrityError, naming `subject`, in every other case."""
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
        key.verify(ours[0], _pae(payload, payload_type))
        manifest: dict[str, Any] = json.loads(payload)
    except (InvalidSignature, ValueError) as exc:
        raise IntegrityError(f"{subject}: the signature does not match the manifest; it was altered") from exc
    return manifest


def read_public_key(path: Path) -> Ed25519PublicKey:
    """BadConfig when the file is not there or holds no Ed25519 public key in PEM."""
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as exc:
        raise BadConfig(f"no public key of releases at {path}; it is made with the first release") from exc
    except ValueError as exc:
        raise BadConfig(f"{path} is not a public key in PEM form") from exc
    if not isinstance(key, Ed25519PublicKey):
        raise BadConfig(f"{path} is not an Ed25519 public key")
    return key


def _create(path: Path, data: bytes, mode: int) -> None:
    """Whole or not at all, and never over an existing file: written beside it, then linked to the name."""
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


def private_key(path: Path) -> Ed25519PrivateKey:
    """The signing key, made on first use (mode 0600), with its public half beside it as `STEM.pub.pem`."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        _create(path, made, 0o600)
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, OSError) as exc:
        raise BadConfig(f"{path} is not a readable Ed25519 private key in PEM form (ASSAY_SIGNING_KEY)") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise BadConfig(f"{path} is not an Ed25519 private key (ASSAY_SIGNING_KEY)")
    public = public_file(path)
    if not public.is_file():
        pem = serialization.PublicFormat.SubjectPublicKeyInfo
        _create(public, key.public_key().public_bytes(serialization.Encoding.PEM, pem), 0o644)
    if key_id(read_public_key(public)) != key_id(key.public_key()):
        raise BadConfig(f"{public} does not belong to {path}; readers would refuse what it signs")
    return key


def public_file(key_file: Path) -> Path:
    """Where the public half of a private key file is."""
    return key_file.with_name(f"{key_file.stem}.pub.pem")


class SignedReleaseLog:
    """A `ports.ReleaseLog` on an object store. Reading needs the public key only.

    `seen` is a folder of this reader's own, a file a corpus with the newest generation that it ever read. Generations
    only grow (a rollback is a new one), so a log whose newest is older was cut or replaced by an earlier state.
    """

    def __init__(self, objects: ObjectStore, *, key_file: Path, seen: Path | None = None) -> None:
        self._objects = objects
        self._key_file = key_file
        self._seen = seen

    @staticmethod
    def key(corpus: str, generation: int) -> str:
        """The object of a generation."""
        return f"releases/{corpus}/{generation:09d}.json"

    def append(self, corpus: str, manifest: Mapping[str, Any], *, generation: int) -> None:
        """Publish as exactly that generation; PromotionConflict names the release that has it already."""
        envelope = seal(manifest, private_key(self._key_file))
        if not self._objects.create(self.key(corpus, generation), envelope):
            winner = self.read(corpus, generation)
            raise PromotionConflict(
                f"{corpus} generation {generation} was published by another promotion at {winner.get('created')} "
                f"(candidate {str(winner.get('candidate'))[:12]}); judge again against it"
            )

    def generations(self, corpus: str) -> list[int]:
        """Ascending; empty before the first release."""
        names = (key.rsplit("/", 1)[-1] for key in self._objects.list(f"releases/{corpus}/"))
        return sorted(int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit())

    def envelope(self, corpus: str, generation: int) -> bytes:
        """The signed bytes as they were published; NotFound lists what there is."""
        try:
            return self._objects.get(self.key(corpus, generation))
        except KeyError as exc:
            known = ", ".join(map(str, self.generations(corpus))) or "none"
            raise NotFound(f"{corpus} has no generation {generation}; there are: {known}") from exc

    def _newest(self, corpus: str) -> int:
        """NotFound before the first release; IntegrityError when a newer one was seen here before."""
        known, file = self.generations(corpus), self._seen and self._seen / corpus
        seen = int(file.read_text(encoding="ascii")) if file and file.is_file() else 0
        newest = known[-1] if known else 0
        if newest < seen:
            raise IntegrityError(
                f"the newest release of {corpus} is {newest or 'none'}, but generation {seen} was read here before: "
                f"the log was cut or replaced; if that was meant, remove {file}"
            )
        if not known:
            raise NotFound(f"{corpus} has no release yet; run: assay run {corpus}")
        return newest

    def _saw(self, corpus: str, generation: int) -> None:
        file = self._seen and self._seen / corpus
        if file and (not file.is_file() or int(file.read_text(encoding="ascii")) < generation):
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as out:  # readers run side by side
                out.write(f"{generation}\n")
            Path(out.name).replace(file)

    def read(self, corpus: str, generation: int | None = None) -> dict[str, Any]:
        """The verified manifest (the newest by default). NotFound before the first release; IntegrityError when
        the signature is not the release key's, when the manifest is that of another corpus or generation, or when the
        newest is older than one that was read here before."""
        newest = generation is None
        if generation is None:
            generation = self._newest(corpus)
        envelope = self.envelope(corpus, generation)
        subject = f"release {corpus}@{generation}"
        manifest = unseal(envelope, read_public_key(public_file(self._key_file)), subject=subject)
        if (manifest.get("corpus"), manifest.get("generation")) != (corpus, generation):
            # A validly signed manifest copied under another name would otherwise pass for that release.
            raise IntegrityError(f"{subject} holds {manifest.get('corpus')}@{manifest.get('generation')}")
        if newest:
            self._saw(corpus, generation)
        return manifest
