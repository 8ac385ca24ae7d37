"""A hosted chat model against a real HTTP server on loopback: what is asked, what is retried, what is refused, what it
costs."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import answering
from pipelines.backends.endpoint.client import pace
from pipelines.backends.objects import ObstoreObjects
from pipelines.core.costs import Spent, total
from pipelines.endpoints import HostedGenerator
from pipelines.errors import BackendError, BadConfig, BadInput, NotTrainable
from pipelines.ports import Paid
from pipelines.stages import train
from pipelines.workspace import Workspace
from tests.adapter_kit import params_of
from tests.endpoint_kit import KEY, PRICE, Misbehaviour, Server, Words, chat, chat_answer, generator, serving


def again(status: int, **headers: str) -> Misbehaviour:
    """A failure that asks to be retried at once."""
    return Misbehaviour(status, b'{"error": {"message": "not now"}}', {"Retry-After": "0.01", **headers})


def test_replies_are_in_order_greedy_and_billed_as_the_server_says(server: Server) -> None:
    made = generator(limits={"concurrency": 4}).reply([chat(f"word {n}") for n in range(9)], max_new_tokens=7)
    assert [c.text for c in made] == [f"WORD {n}" for n in range(9)]
    assert [(c.tokens_in, c.tokens_out) for c in made] == [(4, 2)] * 9  # "Be brief." and "word N"; "WORD N"
    assert all(0 < c.seconds < 5 for c in made)
    assert len(server.asked) == 9
    for path, asked, headers in server.asked:
        assert path == "/v1/chat/completions" and headers["authorization"] == f"Bearer {KEY}"
        assert {k: asked[k] for k in ("model", "temperature", "seed", "max_tokens")} == {
            "model": "m",
            "temperature": 0,
            "seed": 0,
            "max_tokens": 7,
        }


def test_no_seed_is_sent_where_the_definition_has_none(server: Server) -> None:
    generator(seed=None).reply([chat("a")], max_new_tokens=1)
    assert "seed" not in server.asked[0][1]


def test_no_more_at_once_than_allowed(server: Server) -> None:
    server.next = [Misbehaviour(wait=0.05) for _ in range(8)]
    generator(limits={"concurrency": 2}).reply([chat(str(n)) for n in range(8)], max_new_tokens=1)
    assert server.busiest == 2


def test_an_empty_or_a_cut_reply_is_a_reply(server: Server) -> None:
    empty = chat_answer("", {"messages": [{"content": ""}], "max_tokens": 1}) | {"usage": None}
    empty["choices"][0]["message"]["content"] = None
    cut = chat_answer("", {"messages": [{"content": "one two"}], "max_tokens": 2})
    cut["choices"][0]["finish_reason"] = "length"
    server.next = [Misbehaviour(body=json.dumps(body).encode()) for body in (empty, cut)]
    made = generator(limits={"concurrency": 1}).reply([chat("x"), chat("y")], max_new_tokens=2)
    assert [c.text for c in made] == ["", "ONE TWO"]
    # Without usage the local tokenizer counts: "Be brief." and "x", and nothing said.
    assert [(c.tokens_in, c.tokens_out) for c in made] == [(3, 0), (2, 2)]


def test_nothing_to_ask_connects_to_nothing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASSAY_OPENAI_API_KEY")
    assert generator().reply([], max_new_tokens=1) == []


def test_trimming_and_counting_are_local(server: Server) -> None:
    hosted = generator()
    assert hosted.trim("one two three", tokens=2) == "one two" and hosted.count(chat("a b")) == 4
    assert not server.asked


def test_the_digest_follows_address_model_and_what_answers(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    same = {generator().digest for _ in range(2)}
    assert len(same) == 1 and len(server.asked) == 2  # one short question each
    other = [generator(model="n").digest, generator(seed=1).digest]
    server.answer = lambda path, asked: chat_answer(path, asked, model="served-2")
    other.append(generator().digest)
    monkeypatch.setenv("ASSAY_OPENAI_BASE_URL", server.url.replace("127.0.0.1", "localhost"))
    server.answer = chat_answer
    other.append(generator().digest)
    assert len({*same, *other}) == 5


def test_a_model_that_changes_under_way_is_an_error(server: Server) -> None:
    hosted = generator()
    assert hosted.digest
    server.answer = lambda path, asked: chat_answer(path, asked, model="served-2")
    with pytest.raises(BackendError, match="answered with 'served-1', and now with 'served-2'"):
        hosted.reply([chat("a")], max_new_tokens=1)


def test_it_cannot_be_trained(server: Server) -> None:
    with pytest.raises(NotTrainable, match="hosted is an endpoint: nothing can be trained on it"):
        _ = generator().folder
    assert NotTrainable.exit_code == 2


def test_training_is_skipped_with_the_reason(server: Server, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, "handbook")
    workspace.write_receipt("mix", {"digest": "t" * 64, "train": 40}, {}, "")
    report = train.run(params_of(), workspace, ports=SimpleNamespace(base_generator=generator))  # type: ignore[arg-type]
    assert set(report.facts) == {"skipped"} and report.summary == f"skipped: {report.facts['skipped']}"
    assert report.facts["skipped"].startswith("generator hosted is an endpoint: nothing can be trained on it")
    assert not server.asked


@pytest.mark.parametrize("failures", [[500, 503], [429, 429], [408, 409]])
def test_what_may_pass_is_tried_again(server: Server, failures: list[int]) -> None:
    server.next = [again(status) for status in failures]
    (made,) = generator().reply([chat("hi")], max_new_tokens=3)
    assert made.text == "HI" and len(server.asked) == 3


def test_retry_after_is_obeyed_and_not_counted_as_the_models_time(server: Server) -> None:
    server.next = [again(429, **{"Retry-After": "0.6"})]
    (made,) = generator().reply([chat("hi")], max_new_tokens=3)
    assert server.times[1] - server.times[0] >= 0.6 and made.seconds < 0.5


def test_a_connection_that_is_cut_is_tried_again(server: Server) -> None:
    server.next = [Misbehaviour(close=True)]
    (made,) = generator().reply([chat("hi")], max_new_tokens=3)
    assert made.text == "HI" and len(server.asked) == 2


@pytest.mark.parametrize("status", [429, 500, 529])
def test_what_does_not_pass_is_a_backend_error(server: Server, status: int) -> None:
    server.next = [again(status) for _ in range(3)]
    with pytest.raises(BackendError, match=rf"endpoint openai failed 3 times \({status}: not now\)") as raised:
        generator().reply([chat("hi")], max_new_tokens=3)
    assert raised.value.exit_code == 1 and len(server.asked) == 3


def test_a_server_that_is_late_is_given_up(server: Server) -> None:
    server.next = [Misbehaviour(wait=2.0)]
    with pytest.raises(BackendError, match=r"did not answer within 0\.2 s, once"):
        generator(limits={"timeout_seconds": 0.2, "retries": 0}).reply([chat("hi")], max_new_tokens=3)


def test_a_server_that_is_not_there_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as gone:
        pass
    monkeypatch.setenv("ASSAY_OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ASSAY_OPENAI_BASE_URL", gone.url)
    with pytest.raises(BackendError, match="did not answer at the address in ASSAY_OPENAI_BASE_URL, once") as raised:
        generator(limits={"retries": 0}).reply([chat("hi")], max_new_tokens=3)
    assert "127.0.0.1" not in str(raised.value)


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (401, BadConfig, "refuses the key in ASSAY_OPENAI_API_KEY"),
        (403, BadConfig, "refuses the key in ASSAY_OPENAI_API_KEY"),
        (404, BadConfig, "knows no model 'm', or ASSAY_OPENAI_BASE_URL is not its base URL"),
        (307, BadConfig, "redirects, which is not followed"),
        (400, BadInput, r"refuses the request \(400: not now\)"),
    ],
)
def test_what_the_user_must_change_is_said_once(server: Server, status: int, kind: type, says: str) -> None:
    server.next = [again(status, Location=f"{server.url}/elsewhere")]
    with pytest.raises(kind, match=says) as raised:
        generator().reply([chat("hi")], max_new_tokens=3)
    assert raised.value.exit_code == 2 and "\n" not in str(raised.value) and len(server.asked) == 1


@pytest.mark.parametrize(
    "body", [b"{not json", b"<html>", b"[]", b'{"choices": []}', b'{"choices": [{}]}', b'{"choices": null}', b"3"]
)
@pytest.mark.parametrize("kind", ["application/json", "text/html"])
def test_an_answer_of_another_form_is_a_backend_error(server: Server, body: bytes, kind: str) -> None:
    server.next = [Misbehaviour(body=body, headers={"Content-Type": kind})]
    with pytest.raises(BackendError, match="endpoint openai answers in another form"):
        generator().reply([chat("hi")], max_new_tokens=3)


def test_after_an_error_no_more_is_asked(server: Server) -> None:
    server.next = [again(401)]
    with pytest.raises(BadConfig):
        generator(limits={"concurrency": 1}).reply([chat(str(n)) for n in range(50)], max_new_tokens=1)
    assert len(server.asked) < 50


def test_the_rate_holds_for_threads_and_any_window() -> None:
    wait, passed, lock = pace(3, 1), [], threading.Lock()

    def one() -> None:
        wait(None)
        with lock:
            passed.append(time.time())

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    passed.sort()
    # Three at once, three a second later, the last two after two; 20 ms for a thread that was not run at once.
    assert all(later - earlier >= 0.98 for earlier, later in zip(passed, passed[3:], strict=False))
    assert passed[-1] - passed[0] < 4


def test_every_try_is_counted_against_the_rate(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    monkeypatch.setattr("pipelines.backends.endpoint.client.pace", lambda requests, seconds: counted.append)
    server.next = [again(500), again(500)]
    generator(limits={"requests_per_minute": 60}).reply([chat("hi")], max_new_tokens=1)
    assert len(counted) == len(server.asked) == 3


def test_what_was_asked_is_counted_and_priced(server: Server) -> None:
    hosted = generator()
    assert isinstance(hosted, Paid) and hosted.spent() == Spent(0, 0, 0.0, "EUR")
    hosted.reply([chat("one two three")] * 10, max_new_tokens=100)
    # Ten times 5 tokens at 2 EUR a million and 3 at 10: 0.0001 + 0.0003.
    assert hosted.spent() == Spent(50, 30, pytest.approx(0.0004), "EUR")
    assert str(hosted.spent()) == "50 tokens in and 30 out paid: 0.0004 EUR"


def test_kept_replies_cost_nothing_again(server: Server, tmp_path: Any) -> None:
    objects, chats = ObstoreObjects(str(tmp_path)), [chat(f"word {n}") for n in range(5)]
    first = generator()
    kept, made = answering.replies(objects, first, chats, max_new_tokens=4, batch=2)
    assert made == 5 and first.spent().tokens_out == 1 + 10  # with the first question, which the digest asks
    second = generator()
    again_, made = answering.replies(objects, second, chats, max_new_tokens=4, batch=2)
    assert (again_, made) == (kept, 0) and second.spent().tokens_out == 1
    paid = answering.spent([first, second, first])
    assert paid is not None and paid.tokens_out == 12 and paid.currency == "EUR"
    assert answering.spent([Words()]) is None  # type: ignore[list-item]


def test_without_a_price_and_between_currencies_there_is_no_amount(server: Server) -> None:
    free = generator(price=None)
    free.reply([chat("a")], max_new_tokens=1)
    assert free.spent() == Spent(3, 1) and str(free.spent()) == "3 tokens in and 1 out paid"
    assert total([Spent(1, 1, 1.0, "EUR"), Spent(1, 1, 1.0, "USD")]) == Spent(2, 2)
    assert total([Spent(1, 1, 1.0, "EUR"), Spent(1, 1)]) == Spent(2, 2)


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), min_size=1, max_size=20))
def test_costs_add_up(parts: list[tuple[int, int]]) -> None:
    hosted = HostedGenerator.model_validate({"endpoint": "a", "model": "m", "tokenizer": "t", "price": PRICE})
    whole = hosted.cost(sum(i for i, _ in parts), sum(o for _, o in parts))
    summed = total(hosted.cost(i, o) for i, o in parts)
    assert (summed.tokens_in, summed.tokens_out) == (whole.tokens_in, whole.tokens_out)
    assert summed.amount == pytest.approx(whole.amount)
