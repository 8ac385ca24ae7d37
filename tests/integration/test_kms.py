"""Releases signed by a key that never leaves its KMS: AWS's, served by moto on loopback."""

import json
import os
from unittest import mock

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from pipelines import signing
from pipelines.backends.objects import ObstoreObjects
from pipelines.backends.releaselog import SignedReleaseLog
from pipelines.errors import BackendError, BadConfig, IntegrityError
from pipelines.settings import KeyReference, Settings
from tests.s3_kit import served

pytestmark = pytest.mark.integration
MANIFEST = {"corpus": "hb", "generation": 1, "candidate": "c1", "created": "2026-01-02T03:04:05+00:00"}


def key_of(tmp_path, uri):
    with mock.patch.dict(os.environ, {"ASSAY_HOME": str(tmp_path), "ASSAY_SIGNING_KEY": uri}):
        return Settings.from_env().signing_key


def log(tmp_path, key):
    return SignedReleaseLog(ObstoreObjects(str(tmp_path / "objects")), key_file=key)


@pytest.fixture(scope="module")
def kms():
    """moto's KMS; it hashes what it is given whatever MessageType says, so here it is told that it is given a hash, as
    securesystemslib's signer gives it and AWS understands it."""
    import boto3
    from moto.kms import utils

    curves, rsa = utils.ECDSAPrivateKey, utils.RSAPrivateKey
    hashed, padded = "_ECDSAPrivateKey__hash_algorithm", "_RSAPrivateKey__padding_and_hash_algorithm"
    curve_of, padding_of = getattr(curves, hashed), getattr(rsa, padded)

    def padding(self, algorithm):
        pad, digest = padding_of(self, algorithm)
        return pad, Prehashed(digest)

    with served(), pytest.MonkeyPatch.context() as told:
        told.setattr(curves, hashed, lambda self, algorithm: Prehashed(curve_of(self, algorithm)))
        told.setattr(rsa, padded, padding)
        yield boto3.client("kms")


@pytest.mark.parametrize("spec", ["ECC_NIST_P256", "RSA_2048"])
def test_a_kms_signs_and_readers_need_its_public_key_alone(tmp_path, kms, spec):
    made = kms.create_key(KeyUsage="SIGN_VERIFY", KeySpec=spec)["KeyMetadata"]["KeyId"]
    key = key_of(tmp_path, f"awskms:{made}")
    log(tmp_path, key).append("hb", MANIFEST, generation=1)
    reader = KeyReference("awskms:nobody-is-asked", key.public)
    assert log(tmp_path, reader).read("hb") == MANIFEST
    envelope = json.loads(log(tmp_path, reader).envelope("hb", 1))
    envelope["signatures"][0]["sig"] = "A" + envelope["signatures"][0]["sig"][1:-4] + "AAA="
    with pytest.raises(IntegrityError, match="the signature does not match"):
        signing.unseal(json.dumps(envelope).encode(), signing.read_public_key(key.public), subject="it")
    other = kms.create_key(KeyUsage="SIGN_VERIFY", KeySpec=spec)["KeyMetadata"]["KeyId"]
    with pytest.raises(BadConfig, match="does not belong to awskms:"):
        log(tmp_path, KeyReference(f"awskms:{other}", key.public)).append("hb", MANIFEST, generation=2)


def test_a_kms_that_does_not_sign_is_one_line_and_nothing_is_published(tmp_path, kms):
    key = key_of(tmp_path, "awskms:alias/unknown")
    with pytest.raises(BackendError, match=r"awskms:alias/unknown \(ASSAY_SIGNING_KEY\) did not sign: NotFound"):
        log(tmp_path, key).append("hb", MANIFEST, generation=1)
    assert log(tmp_path, key).generations("hb") == [] and not (tmp_path / "keys").exists()
    with pytest.raises(BadConfig, match=r"put its public key, in PEM form, at .*release\.pub\.pem"):
        log(tmp_path, key_of(tmp_path, "gcpkms:projects/p/keys/k")).append("hb", MANIFEST, generation=1)
