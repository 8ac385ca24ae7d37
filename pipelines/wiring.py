"""Which backend stands behind which port: made from settings and params, each on first use."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pipelines import erasures, ports, tuned
from pipelines import params as params_module
from pipelines.errors import BadConfig, NotTrainable
from pipelines.params import CorpusParams
from pipelines.settings import Settings, checkout, endpoint_url
from pipelines.workspace import Workspace

if TYPE_CHECKING:
    from pipelines.endpoints import HostedEmbedder


class Wiring:
    """The `ports.Ports` of one corpus. Imports of vendors happen inside the property that needs them."""

    def __init__(self, settings: Settings, corpus: str, params: CorpusParams) -> None:
        self.settings = settings
        self.corpus = corpus
        self.params = params
        self.workspace = Workspace(settings.workspace(corpus), corpus)

    @classmethod
    def of(cls, settings: Settings, corpus: str) -> Wiring:
        """The ports of a corpus as params.yaml describes it now, by the newest of its tuned models."""
        params = params_module.load_corpus(settings.params_file, corpus)
        models = checkout() / "models"
        return cls(settings, corpus, tuned.pinned(params, corpus, home=settings.home, models=models))

    @classmethod
    def released(cls, settings: Settings, manifest: Mapping[str, Any]) -> Self:
        """The ports of a release: today's defaults, with the params it was judged with over them."""
        corpus = manifest["corpus"]
        return cls(settings, corpus, params_module.released(settings.params_file, corpus, manifest["params"]))

    def as_released(self, manifest: Mapping[str, Any]) -> Self:
        return self.released(self.settings, manifest)

    def path(self, text: str) -> Path:
        """A path written in params.yaml."""
        return params_module.resolve(text, file=self.settings.params_file, home=self.settings.home)

    @cached_property
    def embedder(self) -> ports.Embedder:
        return self.embedder_at(self.params.embed.precision)

    def embedder_at(self, precision: str) -> ports.Embedder:
        embed = self.params.embed
        return self._open(checkout() / "models" / "embedders" / f"{embed.model}.yaml", precision, embed.tuned)

    def base_embedder(self) -> ports.Embedder:
        embed = self.params.embed
        base = tuned.base_of(checkout() / "models" / "embedders" / f"{embed.model}.yaml")
        if base is None:
            raise BadConfig(f"embed.model is {embed.model}, which is not tuned from another")
        return self._open(base, embed.precision, None)

    def _open(self, file: Path, precision: str, digest: str | None) -> ports.Embedder:
        """The embedder of a definition; of a tuned one, the model of that digest."""
        from pipelines.endpoints import HostedEmbedder, read_hosted

        if (hosted := read_hosted(file, HostedEmbedder)) is not None:
            return self._hosted_embedder(hosted, file, precision)
        folder = self._tuned_folder(file, "embedder", digest)
        if self.settings.device != "cpu":
            return self._on_torch(file, precision, folder)
        from pipelines.backends.openvino import load_embedder

        return load_embedder(
            file,
            cache=self.settings.cache,
            precision=precision,
            batch_tokens=self.params.embed.batch_tokens,
            tuned=folder,
        )

    def _tuned_folder(self, file: Path, kind: str, digest: str | None) -> Path | None:
        """Where the model of a tuned definition is; None where it is no tuned one."""
        if tuned.base_of(file) is None:
            return None
        return tuned.folder_of(self.settings.home, self.corpus, kind, digest)

    def _hosted_embedder(self, hosted: HostedEmbedder, file: Path, precision: str) -> ports.Embedder:
        from pipelines.backends.endpoint import EndpointEmbedder
        from pipelines.embedders import tokenizer_file

        if precision != "fp32":
            raise BadConfig(f"embed.precision is {precision!r}, but embedder {file.stem} is an endpoint: only fp32")
        tokenizer = tokenizer_file(hosted.tokenizer, folder=file.parent).read_text(encoding="utf-8")
        return EndpointEmbedder(hosted, name=file.stem, url=endpoint_url(hosted.endpoint), tokenizer=tokenizer)

    def _on_torch(self, file: Path, precision: str, folder: Path | None) -> ports.Embedder:
        from pipelines.backends.torch_embedder import load_torch
        from pipelines.embedders import embedder_digest, read_definition

        embed, device = self.params.embed, self.settings.device.removeprefix("torch-")
        found = read_definition(file, tuned=folder)
        digest = embedder_digest(found, precision)
        return load_torch(found, digest, precision=precision, batch_tokens=embed.batch_tokens, device=device)

    @cached_property
    def reranker(self) -> ports.Reranker | None:
        rerank = self.params.retrieve.rerank
        if rerank is None:
            return None
        from pipelines.backends.reranker import load_reranker

        definition = checkout() / "models" / "rerankers" / f"{rerank.model}.yaml"
        folder = self._tuned_folder(definition, "reranker", rerank.tuned)
        return load_reranker(definition, cache=self.settings.cache, home=self.settings.home, tuned=folder)

    def generator(self, adapter: Path | None = None) -> ports.Generator:
        generate = self.params.generate
        named = generate.model if adapter is not None else generate.untuned or generate.model
        return self._generator(named, adapter)

    def base_generator(self) -> ports.Generator:
        return self._generator(self.params.generate.model, None)

    def _generator(self, name: str, adapter: Path | None) -> ports.Generator:
        from pipelines.backends.transformers import load_generator
        from pipelines.endpoints import HostedGenerator, read_hosted

        file = checkout() / "models" / "generators" / f"{name}.yaml"
        hosted, cache = read_hosted(file, HostedGenerator), self.settings.cache
        if hosted is None:
            return load_generator(file, cache=cache, adapter=adapter, batch=self.params.answer.batch)
        if adapter is not None:
            raise NotTrainable(f"generator {file.stem} is an endpoint: no adapter can be loaded on it")
        from pipelines.backends.endpoint import EndpointGenerator

        counter = load_generator(file.with_name(f"{hosted.tokenizer}.yaml"), cache=cache)
        return EndpointGenerator(hosted, name=file.stem, url=endpoint_url(hosted.endpoint), counter=counter)

    @cached_property
    def store(self) -> ports.VectorStore:
        from pipelines.backends.milvus import MilvusStore
        from pipelines.backends.objects import ObstoreObjects

        bulk, gone = self.settings.milvus_bulk_uri, erasures.log_of(self).erased_from
        return MilvusStore(self.settings.milvus_uri, imports=ObstoreObjects(bulk) if bulk else None, erased=gone)

    @cached_property
    def registry(self) -> ports.Registry:
        from pipelines.backends.mlflow import MlflowRegistry

        return MlflowRegistry(self.settings.mlflow_uri, artifacts=self.settings.home / "mlflow" / "artifacts")

    @cached_property
    def versioner(self) -> ports.Versioner:
        from pipelines.backends.dvc import DvcVersioner

        remote = self.settings.dvc_remote(self.corpus)
        return DvcVersioner(self.workspace.root, corpus=self.corpus, remote=remote)

    @cached_property
    def objects(self) -> ports.ObjectStore:
        from pipelines.backends.objects import ObstoreObjects

        return ObstoreObjects(self.settings.objects_uri)

    @cached_property
    def releases(self) -> ports.ReleaseLog:
        from pipelines.backends.releaselog import SignedReleaseLog

        return SignedReleaseLog(self.objects, key_file=self.settings.signing_key, seen=self.settings.seen)
