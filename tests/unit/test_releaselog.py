"""Signed manifests: what cannot be altered, copied, signed by others or published twice."""

import base64
import json
import os
import stat
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, SSlibKey

from pipelines import signing
from pipelines.backends.objects import ObstoreObjects
from pipelines.backends.releaselog import SignedReleaseLog
from pipelines.errors import BadConfig, IntegrityError, NotFound, PromotionConflict

KEY = Ed25519PrivateKey.generate()


def manifest(generation, candidate="c1", corpus="hb"):
    return {"corpus": corpus, "generation": generation, "candidate": candidate, "created": "2026-01-02T03:04:05+00:00"}


@pytest.fixture
def place(tmp_path):
    return ObstoreObjects(str(tmp_path / "objects")), tmp_path / "keys" / "release.pem"


@pytest.fixture
def log(place):
    return SignedReleaseLog(place[0], key_file=place[1])


def test_what_was_appended_is_read_back_the_newest_by_default(log):
    assert log.generations("hb") == []
    for generation in (1, 2):
        log.append("hb", manifest(generation), generation=generation)
    assert log.generations("hb") == [1, 2]
    assert log.read("hb") == manifest(2)
    assert log.read("hb", 1) == manifest(1)


def test_corpora_do_not_mix(log):
    log.append("hb", manifest(1), generation=1)
    assert log.generations("h") == []
    assert log.generations("hb_two") == []


def test_not_found_says_what_there_is(log):
    with pytest.raises(NotFound, match="hb has no release yet; run: assay run hb"):
        log.read("hb")
    log.append("hb", manifest(1), generation=1)
    with pytest.raises(NotFound, match="hb has no generation 7; there are: 1"):
        log.read("hb", 7)


def test_a_generation_is_published_once_and_the_loser_learns_who_won(log):
    log.append("hb", manifest(1, "winner"), generation=1)
    with pytest.raises(PromotionConflict, match=r"generation 1 was published by another promotion .*winner"):
        log.append("hb", manifest(1, "loser"), generation=1)
    assert log.read("hb")["candidate"] == "winner"


def test_of_many_racing_promotions_one_wins(log):
    log.append("hb", manifest(1), generation=1)
    lost, barrier = [], threading.Barrier(8)

    def publish(number):
        barrier.wait()
        try:
            log.append("hb", manifest(2, f"c{number}"), generation=2)
        except PromotionConflict:
            lost.append(number)

    threads = [threading.Thread(target=publish, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lost) == 7
    assert log.read("hb")["candidate"] not in {f"c{n}" for n in lost}


def test_the_private_key_is_made_once_for_its_owner_only(place):
    first, second = signing.signer(place[1]), signing.signer(place[1])
    assert first.private_bytes_raw() == second.private_bytes_raw()
    assert stat.S_IMODE(place[1].stat().st_mode) == 0o600
    assert sorted(p.name for p in place[1].parent.iterdir()) == ["release.pem", "release.pub.pem"]


def test_reading_needs_no_private_key(log, place):
    log.append("hb", manifest(1), generation=1)
    place[1].unlink()
    assert log.read("hb") == manifest(1)


def test_another_key_is_refused(log, place):
    log.append("hb", manifest(1), generation=1)
    for name in ("release.pem", "release.pub.pem"):
        (place[1].parent / name).unlink()
    signing.signer(place[1])
    with pytest.raises(IntegrityError, match="not by the release key"):
        log.read("hb")


def test_a_public_key_of_somebody_else_beside_the_private_one_is_refused_before_signing(log, place):
    other = place[1].parent / "other.pem"
    signing.signer(other)
    signing.public_file(other).rename(signing.public_file(place[1]))
    with pytest.raises(BadConfig, match="does not belong to"):
        log.append("hb", manifest(1), generation=1)
    assert log.generations("hb") == []


def test_a_key_file_that_is_no_key_is_named(place):
    place[1].parent.mkdir()
    place[1].write_text("hello")
    with pytest.raises(BadConfig, match="not a readable Ed25519 private key in PEM form"):
        signing.signer(place[1])


def test_a_valid_release_copied_under_another_name_is_refused(log, place):
    log.append("hb", manifest(1), generation=1)
    place[0].create(SignedReleaseLog.key("hb", 2), log.envelope("hb", 1))
    with pytest.raises(IntegrityError, match="release hb@2 holds hb@1"):
        log.read("hb")


@given(st.data())
def test_no_byte_of_the_payload_can_be_changed(data):
    envelope = json.loads(signing.seal(manifest(1), KEY))
    payload = bytearray(base64.b64decode(envelope["payload"]))
    at = data.draw(st.integers(0, len(payload) - 1))
    payload[at] ^= data.draw(st.integers(1, 255))
    envelope["payload"] = base64.b64encode(payload).decode()
    with pytest.raises(IntegrityError):
        signing.unseal(json.dumps(envelope).encode(), KEY.public_key(), subject="it")


@given(st.binary(max_size=200))
def test_junk_is_an_integrity_error(junk):
    with pytest.raises(IntegrityError):
        signing.unseal(junk, KEY.public_key(), subject="it")


@pytest.mark.parametrize("cut", [0, 1, 100])
def test_half_an_envelope_is_an_integrity_error(cut):
    with pytest.raises(IntegrityError):
        signing.unseal(signing.seal(manifest(1), KEY)[:cut], KEY.public_key(), subject="it")


@pytest.mark.parametrize("signatures", [[], [{"keyid": "x", "sig": ""}], "no", [{}]])
def test_no_signature_is_no_release(signatures):
    envelope = json.loads(signing.seal(manifest(1), KEY)) | {"signatures": signatures}
    with pytest.raises(IntegrityError):
        signing.unseal(json.dumps(envelope).encode(), KEY.public_key(), subject="it")


def test_the_envelope_is_dsse_securesystemslib_reads_ours_and_we_read_its():
    ours = Envelope.from_dict(json.loads(signing.seal(manifest(1), KEY)))
    keyid = signing.key_id(KEY.public_key())
    public = SSlibKey.from_crypto(KEY.public_key(), keyid)
    assert list(ours.verify([public], 1)) == [keyid]
    theirs = Envelope(ours.payload, signing.PAYLOAD_TYPE, {})
    theirs.sign(CryptoSigner(KEY, public))
    assert signing.unseal(json.dumps(theirs.to_dict()).encode(), KEY.public_key(), subject="it") == manifest(1)


def test_a_key_half_written_by_a_killed_process_is_never_taken_for_a_key(place):
    place[1].parent.mkdir()
    (place[1].parent / ".release.pem.abcd").write_bytes(b"-----BEGIN")
    assert signing.signer(place[1])
    assert os.access(signing.public_file(place[1]), os.R_OK)


def test_a_log_that_was_cut_or_replaced_by_an_earlier_state_is_not_followed(place, tmp_path):
    objects, key = place
    log = SignedReleaseLog(objects, key_file=key, seen=tmp_path / "seen")
    for generation in (1, 2, 3):
        log.append("hb", manifest(generation), generation=generation)
    assert log.read("hb") == manifest(3)
    newest = log.key("hb", 3)
    envelope = objects.get(newest)
    objects.delete([newest])
    with pytest.raises(IntegrityError, match="newest release of hb is 2, but generation 3 was read here before"):
        log.read("hb")
    assert log.read("hb", 2) == manifest(2)  # asked for by number
    assert SignedReleaseLog(objects, key_file=key).read("hb") == manifest(2)  # a reader that saw nothing newer
    objects.put(newest, envelope)
    assert log.read("hb") == manifest(3)
    objects.delete([log.key("hb", number) for number in (1, 2, 3)])
    with pytest.raises(IntegrityError, match="newest release of hb is none"):
        log.read("hb")
    (tmp_path / "seen" / "hb").unlink()
    with pytest.raises(NotFound):
        log.read("hb")


def test_readers_side_by_side_remember_the_newest(place, tmp_path):
    objects, key = place
    SignedReleaseLog(objects, key_file=key).append("hb", manifest(1), generation=1)
    logs = [SignedReleaseLog(objects, key_file=key, seen=tmp_path / "seen") for _ in range(8)]
    threads = [threading.Thread(target=log.read, args=("hb",)) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in (tmp_path / "seen").iterdir()] == ["hb"]
    assert (tmp_path / "seen" / "hb").read_text() == "1\n"
