"""The release log: numbered, signed manifests in the object store, published by exclusive creation.

Each object `releases/CORPUS/GENERATION.json` is a signed envelope (`pipelines.signing`). It is verified on every read,
for which the public key is enough. Who may publish, and what, is decided elsewhere.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import IntegrityError, NotFound, PromotionConflict
from pipelines.settings import KeyReference
from pipelines.signing import public_file, read_public_key, seal, signer, unseal

if TYPE_CHECKING:
    from pipelines.ports import ObjectStore


class SignedReleaseLog:
    """A `ports.ReleaseLog` on an object store. Reading needs the public key only.

    `seen` is a folder of this reader's own, a file a corpus with the newest generation that it ever read. Generations
    only grow (a rollback is a new one), so a log whose newest is older was cut or replaced by an earlier state.
    """

    def __init__(self, objects: ObjectStore, *, key_file: Path | KeyReference, seen: Path | None = None) -> None:
        self._objects = objects
        self._key_file = key_file
        self._seen = seen

    @staticmethod
    def key(corpus: str, generation: int) -> str:
        """The object of a generation."""
        return f"releases/{corpus}/{generation:09d}.json"

    def append(self, corpus: str, manifest: Mapping[str, Any], *, generation: int) -> None:
        """Publish as exactly that generation; PromotionConflict names the release that has it already."""
        envelope = seal(manifest, signer(self._key_file))
        if not self._objects.create(self.key(corpus, generation), envelope):
            winner = self.read(corpus, generation)
            raise PromotionConflict(
                f"{corpus} generation {generation} was published by another promotion at {winner.get('created')} "
                f"(candidate {str(winner.get('candidate'))[:12]}); judge again against it"
            )

    def generations(self, corpus: str) -> list[int]:
        """Ascending; empty before the first release."""
        names = (key.rsplit("/", 1)[-1] for key in self._objects.list(f"releases/{corpus}/"))
        return sorted(int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit())

    def envelope(self, corpus: str, generation: int) -> bytes:
        """The signed bytes as they were published; NotFound lists what there is."""
        try:
            return self._objects.get(self.key(corpus, generation))
        except KeyError as exc:
            known = ", ".join(map(str, self.generations(corpus))) or "none"
            raise NotFound(f"{corpus} has no generation {generation}; there are: {known}") from exc

    def _newest(self, corpus: str) -> int:
        """NotFound before the first release; IntegrityError when a newer one was seen here before."""
        known, file = self.generations(corpus), self._seen and self._seen / corpus
        seen = int(file.read_text(encoding="ascii")) if file and file.is_file() else 0
        newest = known[-1] if known else 0
        if newest < seen:
            raise IntegrityError(
                f"the newest release of {corpus} is {newest or 'none'}, but generation {seen} was read here before: "
                f"the log was cut or replaced; if that was meant, remove {file}"
            )
        if not known:
            raise NotFound(f"{corpus} has no release yet; run: assay run {corpus}")
        return newest

    def _saw(self, corpus: str, generation: int) -> None:
        file = self._seen and self._seen / corpus
        if file and (not file.is_file() or int(file.read_text(encoding="ascii")) < generation):
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as out:  # readers run side by side
                out.write(f"{generation}\n")
            Path(out.name).replace(file)

    def read(self, corpus: str, generation: int | None = None) -> dict[str, Any]:
        """The verified manifest (the newest by default). NotFound before the first release; IntegrityError when
        the signature is not the release key's, when the manifest is that of another corpus or generation, or when the
        newest is older than one that was read here before."""
        newest = generation is None
        if generation is None:
            generation = self._newest(corpus)
        envelope = self.envelope(corpus, generation)
        subject = f"release {corpus}@{generation}"
        manifest = unseal(envelope, read_public_key(public_file(self._key_file)), subject=subject)
        if (manifest.get("corpus"), manifest.get("generation")) != (corpus, generation):
            # A validly signed manifest copied under another name would otherwise pass for that release.
            raise IntegrityError(f"{subject} holds {manifest.get('corpus')}@{manifest.get('generation')}")
        if newest:
            self._saw(corpus, generation)
        return manifest
