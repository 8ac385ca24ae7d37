"""What it costs to look for personal data, secrets and orders to a model: the libraries called plainly against `check`.

    python -m benchmarks.screening [--megabytes N] [--json FILE]

Plainly: each library on each text or line, each sign on each text, as they are meant to be called. Both look at
documents evenly taken of the Python Enhancement Proposals, Cranfield and XQuAD, in one process; what they find must be
the same, else the exit code is 1. The last line of a set is all of `core.suspicion`, orders included.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from benchmarks.harness import arguments, run_plainly, shared_data, show
from pipelines.backends import sensitive
from pipelines.core import orders, suspicion
from pipelines.core.disguise import covert, plain
from pipelines.schemas import read_jsonl

SETS = ("scale/peps.jsonl", "cranfield/corpus.jsonl", "xquad_en/corpus.jsonl")


def sample(name: str, megabytes: float) -> list[str]:
    """Texts of a set, evenly taken, of so many megabytes."""
    texts = [row["text"] for row in read_jsonl(shared_data(name))]
    step = max(1, round(sum(map(len, texts)) / 1e6 / megabytes))
    return texts[::step]


def plain_spans(text: str, region: str | None, _: Any) -> Iterator[sensitive.Span]:
    """`sensitive._spans` without a look at what the libraries need."""
    import phonenumbers

    for number in phonenumbers.PhoneNumberMatcher(text, region):
        yield number.start, number.end, "phone number"
    yield from sensitive._mails(text)
    with mock.patch("phonenumbers.PhoneNumberMatcher", return_value=()):
        yield from sensitive._numbers(text, region)
    for line in re.finditer(r"[^\n]+", text):
        for start, end, kind in sensitive._secrets(line.group()):
            yield line.start() + start, line.start() + end, kind


def plain_orders(text: str) -> str | None:
    """`orders` by a search for each sign."""
    places = [
        (match.start(), weight, name)
        for name, (weight, sign) in orders._COMPILED.items()
        for match in sign.finditer(text)
    ]
    return orders._judged(sorted(places))


def ordered(texts: list[str], look: Callable[[str], str | None]) -> list[list[str | None]]:
    """The orders in each text and in what it says in disguise."""
    return [[look(said) for said in (plain(text), *(of for _, of in covert(text)))] for text in texts]


def timed(of: Callable[[], Any]) -> tuple[float, Any]:
    """CPU-seconds, and what came of it."""
    began = time.process_time()
    found = of()
    return time.process_time() - began, found


def measure(name: str, texts: list[str]) -> tuple[list[dict[str, Any]], bool]:
    """Lines of the table for a set, and whether the findings are the same."""
    size = sum(len(text.encode()) for text in texts) / 1e6
    same, rows = True, []

    def line(part: str, plainly: tuple[float, Any] | None, ours: tuple[float, Any]) -> None:
        nonlocal same
        same = same and (plainly is None or plainly[1] == ours[1])
        cost = plainly[0] / size if plainly else float("nan")
        rows.append({"set": name, "MB": size, "part": part, "plainly, CPU-s/MB": cost, "ours": ours[0] / size})
        rows[-1] |= {"ratio": cost * size / ours[0], "found": sum(map(any, ours[1]))}

    ours = timed(lambda: sensitive.screen(texts))
    with mock.patch.object(sensitive, "_spans", plain_spans):
        line("personal data and secrets", timed(lambda: sensitive.screen(texts)), ours)
    line("orders to a model", timed(lambda: ordered(texts, plain_orders)), timed(lambda: ordered(texts, orders.orders)))
    detector = suspicion.Detector()
    line("all that is suspicious", None, timed(lambda: [detector.look("", title="", text=text) for text in texts]))
    return rows, same


def main() -> None:
    options = arguments(__doc__, megabytes={"type": float, "default": 2.0, "help": "of each set, at most"})
    sensitive.screen(["x@y.org +44 20 7946 0958"])  # imports
    rows, same = [], True
    for name in SETS:
        texts = sample(name, 0.1 if options.quick else options.megabytes)
        of, alike = measure(name.split("/")[-2 if "corpus" in name else -1], texts)
        rows, same = rows + of, same and alike
    ratios = {f"{row['set']}: {row['part']}": row["ratio"] for row in rows if row["ratio"] == row["ratio"]}
    show("Screening, CPU-seconds per MB", rows, ratios=ratios, json_file=options.json)
    if not same:
        sys.exit("the findings differ")


if __name__ == "__main__":
    run_plainly(main)
