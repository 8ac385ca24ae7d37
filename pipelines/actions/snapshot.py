"""Version what passed the check: staging/checked becomes corpus/, and a revision where it differs from the last.

An unchanged corpus makes no revision, so nothing downstream wakes. How versions are kept is the versioner's business.
"""

from __future__ import annotations

from pipelines.corpus_files import changes, document_count
from pipelines.errors import NotFound
from pipelines.params import CorpusParams
from pipelines.ports import Ports
from pipelines.workspace import Workspace


def run(params: CorpusParams, workspace: Workspace, *, ports: Ports) -> tuple[bool, str]:
    """(whether there is a new revision, one line). NotFound before the first check."""
    if not (workspace.checked / "documents.parquet").is_file():
        raise NotFound(f"{workspace.corpus} has nothing checked yet; run: assay run {workspace.corpus}")
    before, found = ports.versioner.current(), changes(workspace.versioned, workspace.checked)
    message = f"{workspace.corpus}: {document_count(workspace.checked)} documents"
    after = ports.versioner.snapshot(message, content=workspace.checked)
    if before is not None and after.revision == before.revision:
        return False, f"unchanged at {after.revision}: {after.documents} documents"
    how = f"{found.added} added, {found.changed} changed, {found.gone} gone"
    return True, f"{after.revision}: {after.documents} documents ({how})"
