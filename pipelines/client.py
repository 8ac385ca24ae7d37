"""What a service holds of a release: pinned to a generation, or floating with the newest; checked before it is used.

    with Release("support") as release:
        release.answer(["Within how many days are refunds paid?"])

Before a generation is served its signature and every digest that it binds are computed again, from the bytes. A
floating release looks for a newer one now and then and changes over between two requests; those under way end on the
generation that they began on. A newer one that is not right is not served: the last good one stays, and `problem` says
why. Once the release that serves has expired every request is refused (Expired), until a newer one serves. Airflow,
Spark, DVC and MLflow are not imported, torch only where an answer is generated. Where others use Milvus beside it
(whoever promotes does), it is a server: a milvus-lite folder serves one process.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Self

from pipelines.actions.ask import Service
from pipelines.actions.verify import verify_release
from pipelines.actions.views import release_manifest
from pipelines.builds import load_build
from pipelines.errors import AssayError
from pipelines.released import require_valid
from pipelines.retrieval import Filters
from pipelines.settings import Settings

LOOK_EVERY = 10.0
"""Seconds between two looks at the release log, by default."""


class Release:
    """One corpus's release. Safe to be used from several threads.

    `generation` pins it; None floats. `look_every` is in seconds; None looks only when `refresh` is called. NotFound,
    IntegrityError and Expired when there is nothing right to begin with.
    """

    def __init__(
        self,
        corpus: str,
        generation: int | None = None,
        *,
        settings: Settings | None = None,
        look_every: float | None = LOOK_EVERY,
    ) -> None:
        self._corpus, self._floats = corpus, generation is None
        self._settings = settings or Settings.from_env()
        self._turn, self._ended = threading.Lock(), threading.Event()
        self._service = self._checked(release_manifest(self._settings, corpus, generation))
        self.problem: str | None = None
        self._watch: threading.Thread | None = None
        if self._floats and look_every is not None:
            self._watch = threading.Thread(target=self._look, args=(look_every,), daemon=True)
            self._watch.start()

    def _checked(self, manifest: Mapping[str, Any]) -> Service:
        """A service of that release, everything it binds verified; what Milvus lost is loaded again from the build."""
        require_valid(manifest)
        service = Service(self._settings, manifest)
        load_build(service.ports.store, service.ports.objects, manifest["index"])
        for _ in verify_release(self._settings, self._corpus, manifest["generation"], generator=False):
            pass
        return service

    def _look(self, every: float) -> None:
        while not self._ended.wait(every):
            self.refresh()

    def refresh(self) -> bool:
        """Look for a newer release now; True when another generation serves from here on. It raises nothing that is
        wrong with the newer one: `problem` says it, and is None again once all is right."""
        if not self._floats:
            return False
        with self._turn:
            try:
                manifest = release_manifest(self._settings, self._corpus, None)
                newer = manifest["generation"] != self.generation
                if newer:
                    self._service = self._checked(manifest)
                require_valid(manifest)
                self.problem = None
            except (AssayError, OSError) as exc:
                self.problem = str(exc)
                return False
            return newer

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Of the generation that serves now."""
        return self._service.manifest

    @property
    def generation(self) -> int:
        return int(self.manifest["generation"])

    def answer(self, questions: Sequence[str], *, labels: Sequence[str] = ()) -> list[dict[str, Any]]:
        """One reply per question, as `assay ask --json` has it, all of one generation. `labels`: the reader's access
        labels, which the service has authenticated; without any it gets what is public. BadInput, IntegrityError,
        Expired."""
        return self._service.answer(questions, labels=labels)

    def passages(
        self,
        questions: Sequence[str],
        *,
        filters: Filters | None = None,
        k: int | None = None,
        labels: Sequence[str] = (),
    ) -> list[dict[str, Any]]:
        """The k passages of each question (`retrieve.k` by default), as `assay ask --retrieve --json` has them, all of
        one generation, within the reader's access `labels`."""
        return self._service.passages(questions, filters=filters, k=k, labels=labels)

    def close(self) -> None:
        """Stop looking, and let Milvus go."""
        self._ended.set()
        if self._watch is not None:
            self._watch.join()
        self._service.ports.store.close()  # type: ignore[attr-defined]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
