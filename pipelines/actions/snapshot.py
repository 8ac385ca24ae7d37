"""Version what passed the check: staging/checked becomes corpus/, and a revision where it differs from the last.

An unchanged corpus makes no revision, so nothing downstream wakes. How versions are kept is the versioner's business.
"""

from __future__ import annotations

from pipelines.corpus_files import document_digests
from pipelines.errors import NotFound
from pipelines.params import CorpusParams
from pipelines.ports import Ports
from pipelines.workspace import Workspace


def run(params: CorpusParams, workspace: Workspace, *, ports: Ports) -> tuple[bool, str]:
    """(whether there is a new revision, one line). NotFound before the first check."""
    new = document_digests(workspace.checked)
    if not (workspace.checked / "documents.parquet").is_file():
        raise NotFound(f"{workspace.corpus} has nothing checked yet; run: assay run {workspace.corpus}")
    before, old = ports.versioner.current(), document_digests(workspace.versioned)
    message = f"{workspace.corpus}: {len(new)} documents"
    after = ports.versioner.snapshot(message, content=workspace.checked)
    if before is not None and after.revision == before.revision:
        return False, f"unchanged at {after.revision}: {after.documents} documents"
    added, gone = len(new.keys() - old.keys()), len(old.keys() - new.keys())
    changed = sum(1 for key in new.keys() & old.keys() if new[key] != old[key])
    return True, f"{after.revision}: {after.documents} documents ({added} added, {changed} changed, {gone} gone)"
