"""The parts of benchmarks/embed.py that are ours: what counts as embedded, the run's score, whole trees measured."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import embed, harness
from benchmarks.alternatives import with_assay
from benchmarks.alternatives.scoring import Reader, best_documents, ndcg, place, tokens_lost
from benchmarks.alternatives.systems import Ours, command
from benchmarks.harness import Cost
from pipelines.errors import BackendError, BadConfig, BadInput, IntegrityError, NotFound


@pytest.fixture
def reader() -> Reader:
    """Every word is a token; three of them fit the window."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Reader(tokenizer, 3)


def test_a_token_beyond_the_window_is_lost_unless_another_chunk_reads_it(reader: Reader) -> None:
    text = "one two three four five six"
    whole = {"document": "d", "start": 0, "text": text}
    # The window ends after `three`, so four, five and six are lost.
    assert tokens_lost({"d": text}, [whole], reader=reader) == (6, 3)
    # A second chunk reads from `four` on: nothing is lost, and its repetition of `three` counts nothing twice.
    second = {"document": "d", "start": text.index("four"), "text": "four five six"}
    assert tokens_lost({"d": text}, [whole, second], reader=reader) == (6, 0)
    # A chunk from `three` on reads three, four, five: six is lost.
    third = {"document": "d", "start": text.index("three"), "text": "three four five six"}
    assert tokens_lost({"d": text}, [whole, third], reader=reader) == (6, 1)


def test_a_document_without_chunks_is_lost_whole(reader: Reader) -> None:
    held = [{"document": "a", "start": 0, "text": "one two"}]
    assert tokens_lost({"a": "one two", "b": "three four five"}, held, reader=reader) == (5, 3)


def test_a_chunk_is_where_its_text_is() -> None:
    assert place("ab ab cd", {"document": "d", "start": 3, "text": "ab"}) == 3
    # LangChain says -1 and LlamaIndex nothing where they did not find their own chunk.
    assert place("ab ab cd", {"document": "d", "start": -1, "text": "cd"}) == 6
    assert place("ab ab cd", {"document": "d", "start": None, "text": "cd"}) == 6
    with pytest.raises(IntegrityError, match="document d does not hold its chunk 'xy'"):
        place("ab ab cd", {"document": "d", "start": 0, "text": "xy"})


def test_documents_rank_by_their_best_chunk_and_ten_count() -> None:
    assert best_documents(["b", "a", "b", "b", "c", "a"]) == ["b", "a", "c"]
    assert best_documents([str(n) for n in range(12)]) == [str(n) for n in range(10)]


def test_the_score_of_a_run_is_ndcg_over_all_questions() -> None:
    questions = [
        {"id": "first", "evidence": [{"document": "a", "relevance": 1}]},
        {"id": "second", "evidence": [{"document": "a", "relevance": 1}]},
        {"id": "silent", "evidence": [{"document": "c", "relevance": 1}]},
    ]
    run = [{"id": "first", "documents": ["a", "b"]}, {"id": "second", "documents": ["b", "b", "a"]}]
    # First at rank 1: 1. Second: two chunks of b are one document, so a is at rank 2: 1 / log2(3). Silent: 0.
    assert ndcg(questions, run) == pytest.approx((1 + 1 / math.log2(3) + 0) / 3)


def test_a_run_that_answers_nothing_that_was_asked_is_refused() -> None:
    with pytest.raises(IntegrityError, match="1 others"):
        ndcg(
            [{"id": "q", "evidence": [{"document": "a", "relevance": 1}]}],
            [{"id": "other", "documents": ["a"]}],
        )
    with pytest.raises(IntegrityError, match="0 questions"):
        ndcg([], [])


def test_rows_are_chosen_at_equal_distances() -> None:
    rows = [{"n": n} for n in range(10)]
    assert [row["n"] for row in embed.evenly(rows, 4)] == [0, 2, 5, 7]
    assert embed.evenly(rows, 0) == embed.evenly(rows, 11) == rows


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "small"
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{n}", "title": "", "text": f"text {n}"} for n in range(4)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
    queries = [{"_id": "q0", "text": "first?"}, {"_id": "q1", "text": "second?"}]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    (folder / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq0\td0\t2\nq0\td1\t0\nq1\td0\t1\nq1\td3\t1\n"
    )
    monkeypatch.setenv("ASSAY_SHARED_DATA", str(tmp_path))


@pytest.mark.usefixtures("sets")
def test_a_part_of_a_set_keeps_the_questions_it_can_answer() -> None:
    _, asked = embed.retrieval_set("small", 0)
    assert [row["id"] for row in asked] == ["q0", "q1"]
    documents, asked = embed.retrieval_set("small", 2)
    assert [row["_id"] for row in documents] == ["d0", "d2"]
    # q1 needs d3 as well; of q0 only d0 is evidence, with its grade.
    assert [(row["id"], row["evidence"]) for row in asked] == [("q0", [{"document": "d0", "relevance": 2}])]


@pytest.mark.usefixtures("sets")
def test_a_part_without_questions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "small" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq0\td3\t1\n")
    with pytest.raises(BadInput, match="small: none of its 1 questions is about the 2 documents chosen"):
        embed.retrieval_set("small", 2)


def test_a_row_takes_steps_and_start_up_apart() -> None:
    step = {"embed": Cost(wall=2.0, cpu=3.0, peak_mib={"a 1": 5.0, "b 2": 7.0}), "check": Cost(wall=2.0, cpu=2.0)}
    idle = {"embed": Cost(wall=1.0, cpu=1.0), "check": Cost(wall=1.0, cpu=1.5)}
    found = embed.Measured("x", built=[step], idle=[idle], chunks=8, tokens=100, lost=5, scores={"s": 0.5})
    row = embed._row(found, 4, ["s"])
    # 100 tokens in 5 CPU-seconds, 2.5 of which are start-up; 4 documents and 8 chunks in 4 seconds.
    assert (row["docs/s"], row["chunks/s"], row["tok/CPU-s"], row["bare"]) == (1.0, 2.0, 20.0, 40.0)
    assert (row["start-up"], row["lost %"], row["MiB"], row["s"]) == (2.5, 5.0, 12, 0.5)
    assert embed._row(found, 4, ["s"], steps=("embed",))["bare"] == 50.0
    # What is left of a run that is nearly all start-up is noise.
    short = embed.Measured("x", built=[{"build": Cost(cpu=5.0, wall=5.0)}], idle=[{"build": Cost(cpu=4.0)}], tokens=9)
    assert embed._row(short, 4, [])["bare"] == "-"
    other = {**row, "system": "y", "tok/CPU-s": 5.0, "bare": 8.0, "lost %": 24.0, "s": 0.4}
    found_ratios = embed.ratios(row, other, ["s"])
    # Of 100 tokens we embed 95, they 76: 4 times as many tokens, 5 times as many embedded.
    assert list(found_ratios.values()) == pytest.approx([4.0, 5.0, 5.0, 1.25])


def test_a_precision_that_there_is_not_is_refused_before_anything_runs() -> None:
    with pytest.raises(BadConfig, match=r"embed\.precision is 'fp7'"):
        Ours("fp7")
    assert Ours("fp32").label == "Assay, fp32"


def test_our_own_index_is_looked_at_by_its_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
    with pytest.raises(NotFound, match="no corpus 'absent'"):
        with_assay.look("absent", str(tmp_path / "questions.jsonl"), str(tmp_path), "50")


BURN = "import time\nwhile time.process_time() < 0.5: pass"


def test_a_process_left_behind_is_waited_for_and_counted(tmp_path: Path) -> None:
    leaves = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {BURN!r}], start_new_session=True)"
    cost = command([sys.executable, "-S", "-c", leaves], os.environ, log=tmp_path / "log")
    assert cost.cpu >= 0.5


def test_a_command_that_fails_says_its_last_line(tmp_path: Path) -> None:
    said = "import sys; print('one'); sys.exit('the disk is full')"
    with pytest.raises(BackendError, match=r"ended with 1: the disk is full \(see "):
        command([sys.executable, "-c", said], os.environ, log=tmp_path / "log")


UNWAITED = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
if os.fork() == 0:
    while time.process_time() < 0.6:
        pass
    os._exit(0)
time.sleep(1.5)
"""


def test_cpu_of_a_worker_that_nobody_waited_for_is_counted():
    """As PySpark's daemon leaves its workers: 0.6 seconds of work, less what ran after the last look at it."""
    with harness.metered(every=0.05) as cost:
        subprocess.run([sys.executable, "-c", UNWAITED], check=True)
    assert cost.cpu > 0.4
