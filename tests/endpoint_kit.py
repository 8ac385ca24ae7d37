"""A real HTTP server on loopback that speaks as much of OpenAI's API as a test needs, and misbehaves when told to."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from pipelines.backends.endpoint import EndpointGenerator
from pipelines.endpoints import HostedGenerator
from pipelines.settings import endpoint_url

KEY = "sk-test-8f1c0b7e55a94d21"
PRICE = {"input_per_million": 2.0, "output_per_million": 10.0, "currency": "EUR"}
Json = Mapping[str, Any]


@dataclass
class Misbehaviour:
    """What one request gets in place of its answer: a status with headers and body, or a wait before the answer."""

    status: int = 200
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    wait: float = 0.0
    close: bool = False


@dataclass
class Server:
    """The server's address, what it was asked, and what the next requests get. `answer` makes a request's body."""

    url: str
    answer: Callable[[str, Json], Json]
    asked: list[tuple[str, Json, Mapping[str, str]]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    next: list[Misbehaviour] = field(default_factory=list)
    busy: int = 0
    busiest: int = 0


def chat_answer(path: str, asked: Json, *, model: str = "served-1") -> Json:
    """A chat completion that repeats the last message in capitals, one token a word."""
    text = asked["messages"][-1]["content"].upper()
    words_in = sum(len(m["content"].split()) for m in asked["messages"])
    words_out = min(len(text.split()), asked["max_tokens"])
    return {
        "id": "1",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": words_in, "completion_tokens": words_out, "total_tokens": words_in + words_out},
    }


def embedding_answer(embed: Callable[[list[str]], tuple[Any, int]]) -> Callable[[str, Json], Json]:
    """Answers by `embed`: texts to (float vectors, tokens read), in base64 as OpenAI's client asks; last text first,
    since the order of `data` is not promised."""

    def answer(path: str, asked: Json) -> Json:
        vectors, tokens = embed(list(asked["input"]))
        data: list[dict[str, Any]] = []
        for place, vector in enumerate(vectors):
            coded = base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()
            shown = coded if asked.get("encoding_format") == "base64" else [float(x) for x in vector]
            data.insert(0, {"object": "embedding", "index": place, "embedding": shown})
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "model": "served-1", "data": data, "usage": usage}

    return answer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Server

    def do_POST(self) -> None:
        state = self.state
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with _LOCK:
            state.asked.append((self.path, asked, {k.lower(): v for k, v in self.headers.items()}))
            state.times.append(time.monotonic())
            state.busy += 1
            state.busiest = max(state.busiest, state.busy)
            told = state.next.pop(0) if state.next else Misbehaviour()
        try:
            time.sleep(told.wait)
            body = told.body if told.body is not None else json.dumps(state.answer(self.path, asked)).encode()
            if told.close:
                self.close_connection = True
                return
            self.send_response(told.status)
            for name, value in {"Content-Type": "application/json", **told.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client has given up
        finally:
            with _LOCK:
                state.busy -= 1

    def log_message(self, format: str, *args: Any) -> None: ...


_LOCK = threading.Lock()


@contextmanager
def serving(answer: Callable[[str, Json], Json] = chat_answer) -> Iterator[Server]:
    """A server on a free port of 127.0.0.1, for the length of the block."""
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    handler.state = Server(f"http://127.0.0.1:{server.server_address[1]}/v1", answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield handler.state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Words:
    """A counter on this machine: a token is a word."""

    base_digest = "words"
    tokenizer_digest = "the words"

    def trim(self, text: str, *, tokens: int) -> str:
        return " ".join(text.split()[:tokens])

    def count(self, chat: Any) -> int:
        return sum(len(message["content"].split()) for message in chat)


def generator(*, limits: Mapping[str, Any] | None = None, **keys: Any) -> EndpointGenerator:
    """A generator of the endpoint in the environment, by a definition with `keys`."""
    shape = {"endpoint": "openai", "model": "m", "tokenizer": "smollm2", "price": PRICE, **keys}
    quick = {"timeout_seconds": 5, "retries": 2, **(limits or {})}
    hosted = HostedGenerator.model_validate({**shape, "limits": quick})
    return EndpointGenerator(hosted, name="hosted", url=endpoint_url("openai"), counter=Words())


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
