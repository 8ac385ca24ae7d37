"""A corpus with labelled documents from its landing to its readers, on the real stages, milvus-lite and MLflow: who has
no label finds what is public, whatever way is asked. The tests share a home and build on each other, in order."""

import json
import os

import pytest
import yaml

from pipelines.actions import ask, promote, views
from pipelines.client import Release
from pipelines.core.nouns import labelled
from pipelines.errors import BadInput
from pipelines.runner import run_node
from pipelines.wiring import Wiring
from tests import release_kit as kit
from tests.cli_kit import assay
from tests.corpus_kit import read_files
from tests.stage_kit import stages_here

pytestmark = pytest.mark.integration
TINY = kit.CORPUS

SALARY = "The salary of a desk clerk in grade four is 2,917 euros a month, paid on the last working day."
MERGER = "The board has agreed to sell the warehouse in Tarnwick to a competitor in the coming spring."
ASKED = {"hr": "What is the salary of a desk clerk in grade four?", "board": "Is the warehouse in Tarnwick sold?"}
LANDED = {
    "refunds.md": f"# Refunds\n\n{kit.TEXTS['refunds']}\n",
    "shipping.md": f"# Shipping\n\n{kit.TEXTS['shipping']}\n",
    "hr/salaries.md": f"# Salaries\n\n{SALARY}\n",
    "minutes.jsonl": json.dumps({"id": "may", "title": "Minutes", "text": MERGER, "access": "board"})
    + "\n"
    + json.dumps({"id": "typo", "title": "Minutes", "text": MERGER, "access": "Board only"})
    + "\n",
}
QUESTIONS = [
    ("refunds", "Within how many days are refunds paid?", "30 days", "refunds.md", "paid within 30 days"),
    ("salary", ASKED["hr"], "2,917 euros", "hr/salaries.md", "2,917 euros a month"),
    ("merger", ASKED["board"], "yes", "minutes.jsonl#may", "to sell the warehouse"),
    ("lost", "What did the other minutes say?", "the same", "minutes.jsonl#typo", "to sell the warehouse"),
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("access") / "home"
    found = kit.home(
        folder,
        source={"documents": "documents", "questions": "questions.jsonl"},
        fetch={"access": {"hr/*": "hr"}},
        check={"max_quarantined": 0.5},
        split={"validation": 0.0, "test": 0.0},
        generate={"max_new_tokens": 12},
    )
    for name, text in LANDED.items():
        (folder / "documents" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "documents" / name).write_text(text)
    rows = [
        {"id": key, "question": asked, "answers": [answer], "evidence": [{"document": document, "quote": quote}]}
        for key, asked, answer, document, quote in QUESTIONS
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = dict(os.environ)
    os.environ.update(kit.environment(found))
    yield found
    os.environ.clear()
    os.environ.update(before)


def run(settings, *nodes):
    """What each node said."""
    with stages_here():
        return [run_node(settings, TINY, node).summary for node in nodes]


def stored(settings):
    """(key, labelled text digest) of what Milvus holds of the newest build, and its labels by document."""
    wiring = Wiring.of(settings, TINY)
    try:
        collection = wiring.workspace.receipt("index")["collection"]
        rows = {(key, text) for key, text, _ in wiring.store.rows(collection)}
        vectors = wiring.embedder.embed_batch(["What?"])
        (hits,) = wiring.store.search(collection, ["What?"], vectors, k=20, mode="dense", labels=None)
        return rows, {hit.document: hit.access for hit in hits}
    finally:
        wiring.store.close()


def found(settings, question, labels):
    """Documents of the passages that the newest release finds."""
    service = ask.Service(settings, views.release_manifest(settings, TINY, None))
    try:
        (reply,) = service.passages([question], labels=labels)
        return {passage["document"]: passage["access"] for passage in reply["passages"]}
    finally:
        service.ports.store.close()


def test_labels_go_from_the_landing_into_milvus(settings):
    fetched, *_ = run(settings, "fetch", "check", "snapshot", "chunk", "embed", "index")
    assert "; 1 labelled board; 1 labelled hr" in fetched and "1 access label is not valid" in fetched
    files = read_files(Wiring.of(settings, TINY).workspace.versioned)
    labels = {row["id"]: row["access"] for row in files.rows}
    assert labels == {
        "hr/salaries.md": "hr",
        "minutes.jsonl#may": "board",
        "refunds.md": "public",
        "shipping.md": "public",
    }
    assert [record["document"] for record in files.quarantine] == ["minutes.jsonl#typo"]
    rows, held = stored(settings)
    assert held == labels
    assert sorted(text.partition("@")[2] for _, text in rows) == ["", "", "board", "hr"]


def test_the_whole_index_is_judged_and_nothing_restricted_is_trained_on(settings):
    run(settings, "score_retrieval")
    workspace = Wiring.of(settings, TINY).workspace
    scores = [json.loads(line) for line in workspace.scores("retrieval").read_text().splitlines()]
    recall = {row["id"]: row["metrics"]["recall@5"] for row in scores}
    assert recall == {"refunds": 1, "salary": 1, "merger": 1, "lost": 0}
    (mixed,) = run(settings, "mix")
    assert workspace.receipt("mix")["dropped"]["restricted"] == 3
    assert mixed.endswith("; 3 examples rest on restricted documents")
    remarks = [json.loads(line) for line in (workspace.training / "remarks.jsonl").read_text().splitlines()]
    assert {remark["id"]: remark["because"] for remark in remarks} == {
        "salary": "rests on hr/salaries.md, labelled hr",
        "merger": "rests on minutes.jsonl#may, labelled board",
        "lost": "rests on minutes.jsonl#typo, whose access label is not known",
    }


def test_a_reader_of_a_release_finds_what_its_labels_admit(settings):
    wiring = Wiring.of(settings, TINY)
    kit.scored(wiring, wiring.workspace.receipt("index"))
    kit.judged(wiring)
    changed, said = promote.run(wiring.params, wiring.workspace, ports=wiring)
    wiring.store.close()
    assert changed, said
    public = {"refunds.md": "public", "shipping.md": "public"}
    for question in ASKED.values():
        assert found(settings, question, ()) == found(settings, question, ["nobody"]) == public
    assert found(settings, ASKED["hr"], ["hr"]) == {"hr/salaries.md": "hr", **public}
    assert "hr/salaries.md" not in found(settings, ASKED["hr"], ["board"])
    everything = found(settings, ASKED["hr"], ["board", "hr"])
    assert "hr/salaries.md" in everything and len(everything) == 3
    for wrong in (["HR"], ['hr"] or 1 == 1 or access in ["'], ["hr\0"]):
        with pytest.raises(BadInput, match=r"access label .* is not valid"):
            found(settings, ASKED["hr"], wrong)


def test_a_service_answers_from_what_the_reader_may_see(settings):
    with Release(TINY, settings=settings, look_every=None) as release:
        (without,) = release.answer([ASKED["hr"]])
        (with_label,) = release.answer([ASKED["hr"]], labels=["hr"])
        (passages,) = release.passages([ASKED["hr"]], labels=["hr"])
    assert {cited["access"] for cited in without["citations"]} == {"public"}
    assert SALARY not in json.dumps(without) and "2,917" not in json.dumps(without)
    assert with_label["citations"] and passages["passages"][0]["document"] == "hr/salaries.md"


def test_the_command_takes_labels_and_shows_them(settings):
    plain = assay("ask", TINY, ASKED["hr"], "--retrieve")
    assert plain.returncode == 0 and "salar" not in plain.stdout.replace(ASKED["hr"], "")
    shown = assay("ask", TINY, ASKED["hr"], "--retrieve", "--label", "hr", "--label", "board")
    assert "access hr" in shown.stdout and "2,917 euros" in shown.stdout
    machine = json.loads(assay("ask", TINY, ASKED["hr"], "--json", "--label", "hr").stdout)
    assert {cited["access"] for cited in machine["citations"]} <= {"hr", "public"}
    refused = assay("ask", TINY, ASKED["hr"], "--retrieve", "--label", "HR")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("assay: access label 'HR' is not valid; a label is a lower-case letter")


def test_the_registered_model_takes_labels(settings):
    import mlflow

    mlflow.set_tracking_uri(settings.mlflow_uri)
    try:
        model = mlflow.pyfunc.load_model(f"models:/{TINY}@champion")
        cited = {}
        for labels in (None, "", "hr", "hr, board"):
            answers = model.predict([ASKED["board"]], params=None if labels is None else {"labels": labels})
            cited[labels] = {passage["document"] for passage in json.loads(answers["citations"][0])}
        with pytest.raises(BadInput, match="access label 'Board' is not valid"):
            model.predict([ASKED["board"]], params={"labels": "Board"})
        model.unwrap_python_model().service.ports.store.close()
    finally:
        mlflow.set_tracking_uri(None)  # it stands in the environment, which later stages would read
    assert all("minutes.jsonl#may" not in cited[labels] for labels in (None, "", "hr"))
    assert cited["hr, board"]


def test_a_changed_label_is_a_new_index_in_which_nothing_is_embedded_again(settings):
    before, _ = stored(settings)
    built = Wiring.of(settings, TINY).workspace.receipt("index")
    raw = yaml.safe_load(settings.params_file.read_text())
    raw["corpora"][TINY]["fetch"] = {"access": {"hr/*": "managers"}}
    settings.params_file.write_text(yaml.safe_dump(raw))
    said = run(settings, "fetch", "check", "snapshot", "chunk", "embed", "index")
    assert "1 labelled managers" in said[0] and said[4].startswith("0 embedded, 4 reused")
    rows, held = stored(settings)
    assert held["hr/salaries.md"] == "managers"
    workspace = Wiring.of(settings, TINY).workspace
    assert workspace.receipt("index")["collection"] != built["collection"]
    assert workspace.receipt("index")["digest"] != built["digest"]
    changed = {(key, text.partition("@")[0]) for key, text in rows - before}
    assert changed == {(key, text.partition("@")[0]) for key, text in before - rows} and len(changed) == 1
    ((key, text),) = changed
    assert (key, labelled(text, "managers")) in rows and (key, labelled(text, "hr")) in before
    # The release is still the older build, and so are its labels, until the new one is judged and promoted.
    assert found(settings, ASKED["hr"], ["managers"]).keys() == {"refunds.md", "shipping.md"}
