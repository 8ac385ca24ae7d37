"""A signing key of the environment: it lies in no file."""

import os
from unittest import mock

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pipelines.backends.objects import ObstoreObjects
from pipelines.backends.releaselog import SignedReleaseLog
from pipelines.errors import BadConfig
from pipelines.settings import Settings

MANIFEST = {"corpus": "hb", "generation": 1, "candidate": "c1", "created": "2026-01-02T03:04:05+00:00"}


def pem():
    key, text = Ed25519PrivateKey.generate(), serialization.Encoding.PEM
    return key.private_bytes(text, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()


def settings(tmp_path, **env):
    with mock.patch.dict(os.environ, {"ASSAY_HOME": str(tmp_path), **env}):
        return Settings.from_env().signing_key


def log(tmp_path, key):
    return SignedReleaseLog(ObstoreObjects(str(tmp_path / "objects")), key_file=key)


def test_a_key_of_the_environment_is_written_nowhere(tmp_path):
    text = pem()
    key = settings(tmp_path, ASSAY_SIGNING_KEY="env", ASSAY_SIGNING_KEY_PEM=text)
    log(tmp_path, key).append("hb", MANIFEST, generation=1)
    assert log(tmp_path, key).read("hb") == MANIFEST
    assert [p.name for p in (tmp_path / "keys").iterdir()] == ["release.pub.pem"]
    secret = text.splitlines()[1]
    assert secret not in repr(key)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and secret in p.read_text(errors="replace")]
    other = settings(tmp_path, ASSAY_SIGNING_KEY="env", ASSAY_SIGNING_KEY_PEM=pem())
    with pytest.raises(BadConfig, match="does not belong to ASSAY_SIGNING_KEY_PEM"):
        log(tmp_path, other).append("hb", {**MANIFEST, "generation": 2}, generation=2)


@pytest.mark.parametrize("text", [None, "", "hello"])
def test_an_environment_without_a_key_is_named(tmp_path, text):
    key = settings(tmp_path, ASSAY_SIGNING_KEY="env", **({} if text is None else {"ASSAY_SIGNING_KEY_PEM": text}))
    with pytest.raises(BadConfig, match="ASSAY_SIGNING_KEY_PEM is not a readable Ed25519 private key in PEM form"):
        log(tmp_path, key).append("hb", MANIFEST, generation=1)
    assert not (tmp_path / "keys").exists()
