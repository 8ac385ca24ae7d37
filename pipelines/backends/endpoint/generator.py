"""Generation by a hosted chat model, behind `ports.Generator`. Nothing can be trained on it.

Asked greedily: temperature 0, and a seed where the definition has one. A server need not be deterministic even so;
the first reply is the one that is kept (`answering.replies`). A reply that the server cut at the length asked for, or
left empty, is a reply, and is scored as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from pipelines.backends.endpoint.client import Client
from pipelines.core.costs import Spent
from pipelines.core.digests import digest_json
from pipelines.endpoints import HostedGenerator
from pipelines.errors import BadConfig, NotTrainable
from pipelines.ports import Choice, Completion, Messages

_DECODING = "1"  # part of the digest: raise it when `_ask` would ask otherwise


class Counter(Protocol):
    """The generator on this machine whose tokenizer counts and trims."""

    @property
    def base_digest(self) -> str: ...
    @property
    def tokenizer_digest(self) -> str: ...
    def trim(self, text: str, *, tokens: int) -> str: ...
    def count(self, chat: Messages) -> int: ...


class EndpointGenerator:
    """A `ports.Generator`, and `ports.Paid`. Nothing is connected to before the first digest or reply.

    The weights behind an endpoint cannot be hashed. `base_digest` covers what is known of them: the base URL, the
    model asked for, the model that the server says it answered with, and the local tokenizer that trims passages.
    So an alias that comes to mean another version is another digest, and its replies never meet the older ones. A model
    that is changed under the same name at the same address is not noticed; where that matters, the definition should
    name a dated version. Neither `created` nor `system_fingerprint` is covered: common servers give the time of the
    call for the one, and vendors change the other from reply to reply. `digest` covers the seed as well.
    """

    licence: str | None = None

    def __init__(self, hosted: HostedGenerator, *, name: str, url: str, counter: Counter) -> None:
        self.name = name
        self._hosted, self._url, self._counter = hosted, url, counter
        self._client = Client(hosted, what=f"generator {name}", url=url)

    @cached_property
    def base_digest(self) -> str:
        if self._client.model is None:
            self._ask([{"role": "user", "content": "Hi"}], max_new_tokens=1)
        known = {"endpoint": self._url, "model": self._hosted.model, "answers": self._client.model}
        return digest_json({**known, "tokenizer": self._counter.base_digest})

    @property
    def tokenizer_digest(self) -> str:
        """Of the local tokenizer that counts and trims; the server's own is not known."""
        return self._counter.tokenizer_digest

    @cached_property
    def digest(self) -> str:
        return digest_json([self.base_digest, self._hosted.seed, _DECODING])

    @property
    def folder(self) -> Path:
        """NotTrainable: the weights are not here."""
        raise NotTrainable(
            f"generator {self.name} is an endpoint: nothing can be trained on it; its arms are base, prompt and rag; "
            "for tuned and both set generate.model to a model on this machine, and generate.untuned to this one"
        )

    def trim(self, text: str, *, tokens: int) -> str:
        """The longest prefix of `text` that is at most `tokens` whole tokens of the local tokenizer."""
        return self._counter.trim(text, tokens=tokens)

    def count(self, chat: Messages) -> int:
        """Tokens of a whole chat by the local tokenizer: near the server's own count, seldom equal to it."""
        return self._counter.count(chat)

    def reply(self, chats: Sequence[Messages], *, max_new_tokens: int) -> list[Completion]:
        """Completions in order, asked side by side. Tokens are those that the server bills, and the local tokenizer's
        where it does not say; `seconds` is the time of the answered request, waiting and failed tries aside."""
        return self._client.each(lambda chat: self._ask(chat, max_new_tokens=max_new_tokens), chats)

    def choose(self, chats: Sequence[Messages], options: Sequence[str]) -> list[Choice]:
        """BadConfig: the API tells nothing of texts that it did not write."""
        raise BadConfig(
            f"generator {self.name} is an endpoint: it cannot say how likely a label is; "
            "for generate.task: label set generate.model, and generate.untuned if any, to models on this machine"
        )

    def cost(self, tokens_in: int, tokens_out: int = 0) -> Spent:
        return self._hosted.cost(tokens_in, tokens_out)

    def spent(self) -> Spent:
        return self._client.spent()

    def _ask(self, chat: Messages, *, max_new_tokens: int) -> Completion:
        asked: dict[str, Any] = {"model": self._hosted.model, "messages": [dict(message) for message in chat]}
        asked |= {"max_tokens": max_new_tokens, "temperature": 0}
        if self._hosted.seed is not None:
            asked["seed"] = self._hosted.seed
        said, seconds = self._client.ask(lambda client: client.chat.completions.with_raw_response.create(**asked))
        try:
            text = said.choices[0].message.content
        except (AttributeError, IndexError, TypeError) as exc:
            raise self._client.malformed("a chat completion without choices[0].message.content") from exc
        if not isinstance(text, str | None):
            raise self._client.malformed(f"a message's content is {type(text).__name__}, not text")
        text = (text or "").strip()
        tokens_in, tokens_out = self._billed(getattr(said, "usage", None), chat, text)
        self._client.count(tokens_in, tokens_out)
        self._client.answered(getattr(said, "model", None))
        return Completion(text, tokens_in, tokens_out, seconds)

    def _billed(self, usage: Any, chat: Messages, text: str) -> tuple[int, int]:
        """(tokens in, tokens out) as the server bills them, else as counted here."""
        given = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
        if isinstance(given[0], int) and isinstance(given[1], int):
            return given[0], given[1]
        whole = self.count([*chat, {"role": "assistant", "content": text}])
        asked = self.count(chat)
        return asked, whole - asked
