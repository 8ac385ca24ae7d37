"""Great Expectations on real frames: bad documents leave with their reason, a bad corpus is refused whole."""

from dataclasses import dataclass

import pytest

from pipelines import params
from pipelines.core.nouns import Document
from pipelines.corpus_files import CorpusFiles, document_row, tree_digest, write_files
from pipelines.errors import BadInput, NotFound
from pipelines.settings import Settings, checkout
from pipelines.stages import check
from pipelines.workspace import Workspace
from tests.corpus_kit import read_files

pytestmark = pytest.mark.integration
TEXT = "The refund window is thirty days from delivery."


@dataclass(frozen=True)
class Reports:
    settings: Settings


def document(key: str, *, text: str = TEXT, title: str = "Title", uri: str | None = None) -> dict:
    return document_row(Document(key, title, text, "text/markdown", uri or f"source/{key}"))


class Home:
    def __init__(self, root):
        self.workspace = Workspace(root / "workspaces" / "demo", "demo")
        self.ports = Reports(Settings(root, checkout() / "params.yaml", "local[1]"))

    def fetched(self, rows, *, questions=(), quarantine=()):
        write_files(self.workspace.fetched, CorpusFiles(list(rows), list(questions), [], list(quarantine)))
        for row in rows:
            path = self.workspace.fetched / row["uri"].split("#")[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("raw")

    def check(self, *, min_documents=1, min_characters=20, max_quarantined=0.5):
        shipped = params.load_corpus(checkout() / "params.yaml", "handbook")
        mine = params.CheckParams(
            min_documents=min_documents, min_characters=min_characters, max_quarantined=max_quarantined
        )
        return check.run(shipped.model_copy(update={"check": mine}), self.workspace, ports=self.ports)


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def test_bad_documents_leave_with_the_expectation_that_they_failed(home):
    bad = [
        document("b\nreak.md"),
        document("short.md", text="Too short."),
        document("bytes.md", text="\ufffd" * 30 + "some letters"),
        document("untitled.md", title=""),
    ]
    good = [document(f"good{n}.md") for n in range(4)]
    home.fetched([*good, *bad], quarantine=[{"document": "x.pdf", "reason": "unreadable PDF: torn", "bytes": 9}])
    report = home.check(max_quarantined=5 / 9)  # 4 here and 1 of fetch's, of 9 landed
    checked = read_files(home.workspace.checked)
    assert [row["id"] for row in checked.rows] == [row["id"] for row in good]
    assert {row["document"]: row["reason"] for row in checked.quarantine} == {
        "b\nreak.md": "id holds controls",
        "short.md": "text is shorter than check.min_characters = 20",
        "bytes.md": "text is mostly replacement or control characters",
        "untitled.md": "title is empty",
        "x.pdf": "unreadable PDF: torn",
    }
    sources = sorted(path.name for path in (home.workspace.checked / "source").iterdir())
    assert sources == ["good0.md", "good1.md", "good2.md", "good3.md"]
    assert report.facts["documents"] == 4 and report.facts["quarantined"] == 5
    assert report.facts["reasons"]["unreadable PDF"] == 1
    assert report.summary == "4 documents passed, 5 in quarantine"


def test_a_repeated_id_keeps_its_first_document(home):
    home.fetched([document("a.md"), document("a.md", text=TEXT + " Second."), document("b.md")])
    home.check()
    checked = read_files(home.workspace.checked)
    assert [(row["id"], row["text"]) for row in checked.rows] == [("a.md", TEXT), ("b.md", TEXT)]
    assert checked.quarantine[0]["reason"] == "id occurs more than once"


def test_many_documents_are_one_page_with_counts_of_all_of_them(home):
    # Batches hold 4,096 documents: a repeated id lies across their border, bad ones in each.
    rows = [document(f"{n:05d}.md", text=TEXT if n % 100 else "short") for n in range(5000)]
    rows.insert(4096, document("04095.md", text=TEXT + " Second."))
    rows.append(document("nul.md", title="\0 is a title"))
    questions = [
        {"id": f"q{n}", "question": "How?", "answers": [], "evidence": [{"document": f"{n:05d}.md", "quote": quote}]}
        for n, quote in ((1, "thirty days"), (4999, "thirty  days"), (2, "forty days"), (100, "short"))
    ]
    home.fetched(rows, questions=questions)
    report = home.check()
    checked = read_files(home.workspace.checked)
    reasons = [row["reason"] for row in checked.quarantine]
    assert len(checked.rows) == 4951 and checked.rows[-1]["title"] == "\0 is a title"  # 5,002 less 50 and 1
    assert reasons.count("text is shorter than check.min_characters = 20") == 50
    assert [r["document"] for r in checked.quarantine if r["reason"] == "id occurs more than once"] == ["04095.md"]
    assert [row["text"] for row in checked.rows if row["id"] == "04095.md"] == [TEXT]
    # the fourth question's document is one of the short ones
    assert (report.facts["quotes"], report.facts["quotes_found"]) == (4, 2)
    assert report.facts["evidence_in_quarantine"] == 1 and report.facts["fetched"] == 5002
    validations = home.ports.settings.reports / "demo" / "data_docs" / "validations" / "documents"
    pages = list(validations.rglob("*.html"))
    assert len(pages) == 1 and "5002" in pages[0].read_text().replace(",", "")
    assert not list(home.ports.settings.reports.rglob("*.sqlite"))


def test_facts_are_the_same_on_every_run_and_hold_no_time(home, tmp_path):
    questions = [
        {
            "id": "q1",
            "question": "How long?",
            "answers": ["thirty days"],
            "evidence": [
                {"document": "a.md", "quote": "refund window\n is  thirty days"},
                {"document": "a.md", "quote": "forty days"},
                {"document": "lost.pdf", "quote": "x"},
            ],
        }
    ]
    lost = [{"document": "lost.pdf", "reason": "unreadable PDF: torn", "bytes": 9}]
    home.fetched([document("a.md"), document("b.md")], questions=questions, quarantine=lost)
    first = home.check()
    before, inode = tree_digest(home.workspace.checked), home.workspace.checked.stat().st_ino
    assert home.check().facts == first.facts
    assert (tree_digest(home.workspace.checked), home.workspace.checked.stat().st_ino) == (before, inode)
    # of three quotes the first occurs (white space aside), the second does not, the third's document is lost
    assert (first.facts["quotes"], first.facts["quotes_found"]) == (3, 1)
    assert first.facts["evidence_in_quarantine"] == 1
    assert set(first.measured) == {"data_docs", "seconds"}


def test_data_docs_show_both_suites_and_their_reasons(home):
    home.fetched([document("a.md"), document("b.md", text="short")])
    page = home.check().measured["data_docs"]
    site = home.ports.settings.reports / "demo" / "data_docs"
    assert page == str(site / "index.html")
    validations = "".join(file.read_text() for file in (site / "validations").rglob("*.html"))
    assert "text is shorter than check.min_characters = 20" in validations
    assert {path.name for path in (site / "validations").iterdir()} == {"corpus", "documents"}


@pytest.mark.parametrize(
    ("rows", "bounds", "message"),
    [
        (3, {"min_documents": 4}, "demo is refused: 3 documents that remain, below check.min_documents = 4"),
        (0, {"max_quarantined": 1.0}, "demo is refused: 0 documents that remain, below check.min_documents = 1; quar"),
        (
            3,
            {"max_quarantined": 0.2},  # 1 of 4 landed
            "demo is refused: 0.250 is the share of quarantined, above check.max_quarantined = 0.2; quarantined are "
            "1 unreadable PDF",
        ),
    ],
)
def test_a_corpus_that_fails_is_refused_and_nothing_is_replaced(home, rows, bounds, message):
    home.fetched([document("old.md")])
    home.check()
    before = tree_digest(home.workspace.root)
    lost = [{"document": "lost.pdf", "reason": "unreadable PDF: torn", "bytes": 9}]
    home.fetched([document(f"{n}.md") for n in range(rows)], quarantine=lost)
    before = tree_digest(home.workspace.checked)
    with pytest.raises(BadInput) as error:
        home.check(**bounds)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
    assert tree_digest(home.workspace.checked) == before


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ([{"id": "q", "question": "?", "answers": [], "evidence": []}] * 2, "1 question ids occur more than once"),
        (
            [{"id": "q", "question": "?", "answers": [], "evidence": [{"document": "gone.md"}]}],
            "1 evidence documents are neither in the corpus nor in quarantine",
        ),
    ],
)
def test_gold_that_contradicts_the_corpus_is_refused(home, questions, message):
    home.fetched([document("a.md")], questions=questions)
    with pytest.raises(BadInput, match=message):
        home.check()
    assert not home.workspace.checked.exists()


def test_before_the_first_fetch_it_says_what_to_run(home):
    with pytest.raises(NotFound, match="demo has nothing fetched yet; run: assay stage demo fetch"):
        home.check()
