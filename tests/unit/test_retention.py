"""What may be removed: nothing that a retained release or a workspace names, however deep it names it."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from pipelines.core import retention

BUILD, ADAPTER, CHUNKS = "builds/b_x_0123456789abcdef", f"adapters/{'a' * 64}", f"chunks/x/by-key/{'c' * 64}"


def release(generation, candidate):
    return {"generation": generation, "candidate": candidate, "index": {"key": f"builds/b_x_{candidate}"}}


def test_releases_of_the_newest_candidates_are_kept_rollbacks_included():
    log = [release(1, "a"), release(2, "b"), release(3, "c"), release(4, "a")]  # 4 returned to 1
    assert [row["generation"] for row in retention.kept(log, keep=1)] == [1, 4]
    assert [row["generation"] for row in retention.kept(log, keep=2)] == [1, 3, 4]
    assert retention.kept(log, keep=9) == log and retention.kept([], keep=1) == []


@given(st.lists(st.integers(0, 5), min_size=1), st.integers(1, 6))
def test_the_champion_is_always_kept_and_at_most_so_many_candidates(candidates, keep):
    log = [release(number, candidate) for number, candidate in enumerate(candidates, 1)]
    found = retention.kept(log, keep=keep)
    assert log[-1] in found and len({row["candidate"] for row in found}) == min(keep, len(set(candidates)))


nested = st.recursive(st.just(BUILD), lambda inner: st.lists(inner, min_size=1) | st.dictionaries(
    st.text(), inner, min_size=1), max_leaves=5)  # fmt: skip


@given(nested)
def test_a_name_is_found_at_any_depth(document):
    assert retention.needed([document]) == {BUILD}


def test_only_folders_of_what_is_collected_count():
    said = {
        "key": f"{BUILD}/part-0.parquet",
        "adapter": {"key": ADAPTER},
        "chunks": CHUNKS,
        "other": "releases/x/1.json",
    }
    assert retention.needed([said]) == {BUILD, ADAPTER, CHUNKS}
    assert retention.folder_of(f"{CHUNKS}/part-1") == CHUNKS and retention.folder_of("answers/a/b/c/d") is None
    assert retention.folder_of("builds/stray.json") is None


def test_builds_of_other_corpora_are_not_ours():
    assert retention.ours(BUILD, {"x"}) and retention.ours(CHUNKS, {"x"}) and retention.ours(ADAPTER, {"x"})
    assert not retention.ours("builds/b_x_y_0123456789abcdef", {"x", "y"})  # of corpus x_y
    assert not retention.ours("chunks/y/by-key/d", {"x"})


def test_a_tombstone_expires_after_the_grace():
    now = datetime(2026, 11, 25, tzinfo=UTC)
    assert retention.expired({"since": now.isoformat()}, now=now, grace=timedelta(0))
    assert not retention.expired({"since": now.isoformat()}, now=now + timedelta(hours=23), grace=timedelta(hours=24))
