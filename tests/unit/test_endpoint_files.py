"""Where an endpoint is and the key to it: from the environment, safe or refused, and in nothing that is said; and the
definitions that name endpoints."""

from __future__ import annotations

import json
import logging
import traceback
from pathlib import Path

import pytest

from pipelines import settings
from pipelines.embedders import tokenizer_file
from pipelines.endpoints import HostedEmbedder, HostedGenerator, read_hosted
from pipelines.errors import AssayError, BadConfig, MissingTool
from pipelines.generator_files import read_definition
from pipelines.settings import Settings, checkout, endpoint_key, endpoint_url
from pipelines.wiring import Wiring
from tests.adapter_kit import params_of
from tests.endpoint_kit import KEY, Misbehaviour, Server, chat, generator, serving

MODELS = checkout() / "models"


@pytest.mark.parametrize(
    "url",
    [
        "https://h.example/v1",
        "https://h.example:8443/a/b/",
        "http://127.0.0.1:8000/v1",
        "http://localhost/v1",
        "http://[::1]:80/v1",
        " https://h.example/v1/ ",
    ],
)
def test_addresses_that_are_taken(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("ASSAY_VENDOR_BASE_URL", url)
    assert endpoint_url("vendor") == url.strip().rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "http://h.example/v1",
        "http://10.0.0.5/v1",
        "http://127.0.0.1.example/v1",
        "http://localhost.example/v1",
        "h/v1",
        "ftp://127.0.0.1/",
        "https:///v1",
        "https://u:p@h.example/v1",
        "https://h.example/v1?key=k",
        "https://h:x/v1",
        "file:///etc/passwd",
        "http://127.0.0.1@h.example/",
        "https://h.example/#a",
        "https://[::1/v1",
    ],
)
def test_addresses_that_are_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("ASSAY_VENDOR_BASE_URL", url)
    with pytest.raises(BadConfig, match="ASSAY_VENDOR_BASE_URL must be https") as raised:
        endpoint_url("vendor")
    assert url not in str(raised.value)  # it may hold a password


def test_what_is_not_set_is_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    hosted = generator()
    monkeypatch.delenv("ASSAY_OPENAI_API_KEY")
    with pytest.raises(BadConfig, match=r"^ASSAY_OPENAI_API_KEY is not set"):
        hosted.reply([chat("a")], max_new_tokens=1)
    monkeypatch.delenv("ASSAY_OPENAI_BASE_URL")
    with pytest.raises(BadConfig, match=r"^ASSAY_OPENAI_BASE_URL is not set"):
        endpoint_url("openai")
    monkeypatch.setenv("ASSAY_OPENAI_API_KEY", "sk-\nInjected: header")
    with pytest.raises(BadConfig, match="characters that a key cannot have"):
        endpoint_key("openai")
    assert not server.asked


def test_the_variables_are_documented() -> None:
    assert "ASSAY_OPENAI_BASE_URL" in (settings.__doc__ or "") and "ASSAY_OPENAI_API_KEY" in (settings.__doc__ or "")


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
def test_the_key_is_in_no_error_log_or_copy(server: Server, caplog: pytest.LogCaptureFixture, status: int) -> None:
    body = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}. {KEY}"}}).encode()
    server.next = [Misbehaviour(status, body, {"x-should-retry": "false"})]
    caplog.set_level(logging.DEBUG)
    hosted = generator()
    with pytest.raises(AssayError, match=r"\*\*\*") as raised:
        hosted.reply([chat("a")], max_new_tokens=1)
    said = "".join(traceback.format_exception(raised.value)) + repr(raised.value) + caplog.text + repr(vars(hosted))
    assert KEY not in said and "Incorrect API key" in said
    assert caplog.text  # the client and its transport have logged something


def test_a_proxy_of_the_environment_does_not_see_loopback(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        generator().reply([chat("a")], max_new_tokens=1)
    assert len(server.asked) == 1 and not proxy.asked


def test_the_examples_are_read_and_the_others_are_not_endpoints() -> None:
    asked = read_hosted(MODELS / "generators" / "endpoint.yaml", HostedGenerator)
    assert asked is not None and asked.tokenizer == "smollm2" and asked.price is not None
    embeds = read_hosted(MODELS / "embedders" / "endpoint.yaml", HostedEmbedder)
    assert embeds is not None and (embeds.dim, embeds.window, embeds.tokenizer) == (384, 256, "minilm")
    assert read_hosted(MODELS / "generators" / "smollm2.yaml", HostedGenerator) is None
    assert read_hosted(MODELS / "embedders" / "minilm.yaml", HostedEmbedder) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{model: m, tokenizer: t, path: p}", "unknown key 'path'; its keys are endpoint, model"),
        ("{model: m, tokenizer: t, api_key: sk-1}", "unknown key 'api_key'"),
        ("{model: m}", "missing key 'tokenizer'; its keys are"),
        ("{model: m, tokenizer: t, limits: {rpm: 1}}", "unknown key 'limits.rpm'; its keys are requests_per_minute"),
        ("{model: m, tokenizer: t, price: {currency: EUR}}", "missing key 'price.input_per_million'; its keys are"),
        ("{model: m, tokenizer: t, price: {input_per_million: -1, currency: EUR}}", "price.input_per_million is -1"),
        ("{model: m, tokenizer: t, price: {input_per_million: .nan, currency: EUR}}", "price.input_per_million is nan"),
        ("{model: m, tokenizer: t, limits: {concurrency: 0}}", "limits.concurrency is 0"),
        ("{model: m, tokenizer: t, seed: x}", "seed is 'x'"),
    ],
)
def test_a_definition_is_read_strictly(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("{endpoint: openai, " + text[1:])
    with pytest.raises(BadConfig) as raised:
        read_hosted(file, HostedGenerator)
    assert says in str(raised.value) and str(raised.value).startswith("models/generators/mine.yaml: ")
    assert "sk-1" not in str(raised.value)


def test_an_endpoint_name_becomes_a_variable_and_no_more(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text('{endpoint: "A B", model: m, tokenizer: t}')
    with pytest.raises(BadConfig, match="endpoint is 'A B'"):
        read_hosted(file, HostedGenerator)


def test_where_a_model_must_be_here_an_endpoint_is_refused() -> None:
    with pytest.raises(BadConfig, match="generator endpoint is an endpoint; here a model on this machine is needed"):
        read_definition(MODELS / "generators" / "endpoint.yaml")
    with pytest.raises(BadConfig, match="embedder endpoint is an endpoint; here a model on this machine is needed"):
        tokenizer_file("endpoint", folder=MODELS / "embedders")
    with pytest.raises(MissingTool, match=r"there is no file /nowhere/tokenizer\.json"):
        tokenizer_file("/nowhere/tokenizer.json", folder=MODELS / "embedders")


def test_what_a_run_needs_is_said_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ASSAY_OPENAI_BASE_URL", raising=False)
    found = Settings(tmp_path, checkout() / "params.yaml", "local[1]")
    asked = Wiring(found, "tiny", params_of(generate={"model": "endpoint"}, embed={"model": "endpoint"}))
    for make in (asked.generator, lambda: asked.embedder):
        with pytest.raises(BadConfig, match="ASSAY_OPENAI_BASE_URL is not set"):
            make()
    with pytest.raises(BadConfig, match=r"embed\.precision is 'int8', but embedder endpoint is an endpoint: only fp32"):
        asked.embedder_at("int8")
