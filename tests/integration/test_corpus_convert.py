"""Real PDF, DOCX, HTML and CSV through markitdown; broken ones are quarantined with a reason; results are cached."""

import io
import shutil
import zipfile

import pytest

from pipelines.backends.converter import Converter, Unreadable
from pipelines.settings import checkout

pytestmark = pytest.mark.integration
HANDBOOK = checkout() / "tests" / "fixtures" / "handbook" / "2026-01-12" / "documents"
PDF = HANDBOOK / "products" / "sleeping-bags.pdf"


@pytest.fixture
def converter(tmp_path):
    return Converter(tmp_path / "converted")


@pytest.mark.parametrize(
    ("name", "begins", "holds"),
    [
        ("products/sleeping-bags.pdf", "", "Drift"),
        ("orders/cairn-club.docx", "# Cairn Club\n\n", "loyalty"),
        ("products/stoves-and-fuel.docx", "# Stoves and fuel", "Ember Duo"),
        ("orders/delivery-and-shipping.html", "# Delivery and shipping\n\n", "4.90"),
        ("orders/delivery-zones.csv", "| ", "\n| --- |"),
    ],
)
def test_a_real_document_becomes_markdown(converter, name, begins, holds):
    file = HANDBOOK / name
    text = converter.convert(file.read_bytes(), file.suffix).text
    assert text.startswith(begins) and holds in text and "\r" not in text


def encrypted_pdf() -> bytes:
    """The handbook's PDF with a standard security handler that no empty password opens."""
    data = PDF.read_bytes()
    handler = b"<< /Filter /Standard /V 1 /R 2 /Length 40 /P -4 /O <" + b"00" * 32 + b"> /U <" + b"11" * 32 + b"> >>"
    key = b"<" + b"22" * 16 + b">"
    at = data.rindex(b"trailer")
    start = data.index(b"<<", at) + 2
    return data[:start] + b" /Encrypt " + handler + b" /ID [" + key + key + b"] " + data[start:]


def bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("word/document.xml", "w") as part:
        for _ in range(150):
            part.write(bytes(1_000_000))
    return out.getvalue()


@pytest.mark.parametrize(
    ("make", "suffix", "reason"),
    [
        (lambda: PDF.read_bytes()[:700], ".pdf", "unreadable PDF: "),
        (lambda: b"%PDF-1.7\n" + bytes(range(256)) * 20, ".pdf", "unreadable PDF: "),
        (encrypted_pdf, ".pdf", "encrypted PDF: it asks for a password"),
        (lambda: b"not a zip", ".docx", "unreadable DOCX: BadZipFile"),
        (lambda: (HANDBOOK / "orders" / "cairn-club.docx").read_bytes()[:9000], ".docx", "unreadable DOCX: "),
        (bomb, ".docx", "unreadable DOCX: it unpacks to 150 MB"),
        (lambda: b"<p>\0</p>", ".html", "binary content: it holds NUL bytes"),
        (lambda: "a;ü".encode("latin-1"), ".csv", "not UTF-8 text: byte 2"),
    ],
)
def test_a_broken_document_gives_the_same_reason_each_time(converter, tmp_path, make, suffix, reason):
    data = make()
    said = []
    for place in (converter, converter, Converter(tmp_path / "elsewhere")):
        with pytest.raises(Unreadable) as error:
            place.convert(data, suffix)
        said.append(str(error.value))
    assert said[0].startswith(reason) and len(set(said)) == 1 and "\n" not in said[0]
    assert converter.misses == 1


def test_only_what_is_not_in_the_cache_is_converted(converter, tmp_path):
    data = (HANDBOOK / "orders" / "delivery-zones.csv").read_bytes()
    first = converter.convert(data, ".csv")
    again = Converter(tmp_path / "converted")
    assert again.convert(data, ".csv") == first and again.misses == 0
    shutil.rmtree(tmp_path / "converted")
    assert again.convert(data, ".csv") == first and again.misses == 1
