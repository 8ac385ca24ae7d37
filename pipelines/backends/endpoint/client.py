"""A connection to an endpoint: OpenAI's own client, asked at the allowed rate, its errors turned into ours.

The client retries what may pass (no connection, no answer in time, 408, 409, 429, 5xx) with a backoff of its own, and
waits as long as Retry-After says, up to two minutes. Every try, not only the first, is counted against the rate, by
`limits`' moving window; each process counts for itself. Redirects are not followed: they would carry texts elsewhere.

The key is read when the connection is made and handed to the client. It is in no message: what a server says is quoted
with the key struck out, and the client's own error, which may quote it, is not chained. Addresses are in no message
either, since messages stand in receipts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, TypeVar

from pipelines.core.costs import Spent
from pipelines.endpoints import Endpoint
from pipelines.errors import AssayError, BackendError, BadConfig, BadInput
from pipelines.settings import endpoint_key, on_loopback

Item = TypeVar("Item")
Result = TypeVar("Result")
_QUOTED = 300
"""Most characters of a server's message that an error quotes."""


def pace(requests: int, seconds: int) -> Callable[[Any], None]:
    """A function that returns at once `requests` times in any `seconds`, and else waits until it may."""
    from limits import RateLimitItemPerSecond
    from limits.storage import MemoryStorage
    from limits.strategies import MovingWindowRateLimiter

    window, rate = MovingWindowRateLimiter(MemoryStorage()), RateLimitItemPerSecond(requests, seconds)

    def wait(request: Any) -> None:
        while not window.hit(rate):
            time.sleep(max(0.01, window.get_window_stats(rate).reset_time - time.time()))

    return wait


class Client:
    """What a generator and an embedder share: asking, counting what was asked, and that one model answers.

    `what` begins messages: `generator NAME`. It is used by several threads; it is not pickled.
    """

    def __init__(self, endpoint: Endpoint, *, what: str, url: str, model: str | None = None) -> None:
        """`model`: the one that has answered another process, and must answer this one."""
        self._endpoint, self._what, self._url = endpoint, what, url
        self._lock = threading.Lock()
        self._tokens = (0, 0)
        self._model = model
        upper = endpoint.endpoint.upper()
        self._variables = (f"ASSAY_{upper}_BASE_URL", f"ASSAY_{upper}_API_KEY")

    @cached_property
    def _openai(self) -> Any:
        """OpenAI's client; BadConfig without a key."""
        from openai import DefaultHttpxClient, OpenAI

        limits, rate = self._endpoint.limits, self._endpoint.limits.requests_per_minute
        # A proxy of the environment is for what is elsewhere: to loopback it would get the key in the clear.
        elsewhere = not on_loopback(self._url)
        hooks: dict[str, list[Callable[..., Any]]] = {"request": [pace(rate, 60)] if rate else []}
        return OpenAI(
            api_key=endpoint_key(self._endpoint.endpoint),
            base_url=self._url,
            timeout=limits.timeout_seconds,
            max_retries=limits.retries,
            http_client=DefaultHttpxClient(event_hooks=hooks, follow_redirects=False, trust_env=elsewhere),
        )

    def ask(self, call: Callable[[Any], Any]) -> tuple[Any, float]:
        """(the reply, seconds of the try that was answered: waiting and failed tries aside). `call` gets OpenAI's
        client and asks for the raw response.

        BadConfig when key, model or address are refused, BadInput when the request is; BackendError when it does not
        answer, still fails after the last try, or answers in another form.
        """
        client = self._openai  # before `openai` is imported here: without a key nothing is
        import openai

        try:
            raw = call(client)
            return raw.parse(), raw.elapsed.total_seconds()
        except openai.APIStatusError as exc:
            failed: AssayError = self._refused(exc)
        except openai.APIConnectionError as exc:
            late = isinstance(exc, openai.APITimeoutError)
            how = f"within {self._endpoint.limits.timeout_seconds:g} s" if late else "at the address in"
            failed = BackendError(
                f"{self._what}: endpoint {self._endpoint.endpoint} did not answer {how}"
                f"{'' if late else ' ' + self._variables[0]}, {self._tries}"
            )
        except (openai.OpenAIError, ValueError) as exc:
            failed = self.malformed(f"no JSON ({type(exc).__name__})")
        raise failed from None

    @property
    def _tries(self) -> str:
        tries = self._endpoint.limits.retries + 1
        return f"{tries} times" if tries > 1 else "once"

    def _refused(self, exc: Any) -> AssayError:
        """Our error for a status: exit 2 for what the user can change, 1 for what the server must."""
        status, (url, key) = int(exc.status_code), self._variables
        said = f"{self._what}: endpoint {self._endpoint.endpoint}"
        quoted = f"({status}: {self._quoted(exc)})"
        if status in (401, 403):
            return BadConfig(f"{said} refuses the key in {key} {quoted}")
        if status == 404:
            return BadConfig(f"{said} knows no model {self._endpoint.model!r}, or {url} is not its base URL {quoted}")
        if 300 <= status < 400:
            return BadConfig(f"{said} redirects, which is not followed; set {url} to where it does ({status})")
        if status >= 500 or status in (408, 409, 429):
            return BackendError(f"{said} failed {self._tries} {quoted}")
        return BadInput(f"{said} refuses the request {quoted}")

    def _quoted(self, exc: Any) -> str:
        """What the server said, without the key, in one short line."""
        body = exc.body if isinstance(exc.body, dict) else {}
        text = " ".join(str(body.get("message") or exc.message).split())
        return text.replace(endpoint_key(self._endpoint.endpoint), "***")[:_QUOTED]

    def malformed(self, how: str) -> BackendError:
        """The error for an answer that is not of the API's form."""
        return BackendError(f"{self._what}: endpoint {self._endpoint.endpoint} answers in another form: {how}")

    def each(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """`work` of every item, in order, at most `limits.concurrency` at once; after an error no more is begun."""
        if not items:
            return []
        _ = self._openai
        with ThreadPoolExecutor(self._endpoint.limits.concurrency) as pool:
            return list(pool.map(work, items))

    def count(self, tokens_in: int, tokens_out: int = 0) -> None:
        """Note what was asked and answered."""
        with self._lock:
            self._tokens = (self._tokens[0] + tokens_in, self._tokens[1] + tokens_out)

    def spent(self) -> Spent:
        return self._endpoint.cost(*self._tokens)

    @property
    def model(self) -> str | None:
        """The model that has answered, as the server calls it; None before the first answer."""
        return self._model

    def answered(self, model: Any) -> None:
        """Note which model answered; BackendError when it is no longer the one that answered before."""
        name = str(model or "")
        with self._lock:
            self._model = name if self._model is None else self._model
        if name != self._model:
            raise BackendError(
                f"{self._what}: endpoint {self._endpoint.endpoint} answered with {self._model!r}, and now with "
                f"{name!r}: replies of two models are not mixed; run again, or name a fixed version as its model"
            )
