"""What a task of the index DAG and a query import: no training library, in whichever process of theirs.

Every Python process below (the stages', Spark's workers) starts with a hook that writes down what it watches for;
openvino is watched for as well, so that a hook which sees nothing does not pass.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.wiring import Wiring
from tests import release_kit as kit
from tests.index_kit import TEXTS, documents_of, rules, write_corpus

pytestmark = pytest.mark.integration
TRAINING = {"torch", "transformers", "peft", "trl", "sentence_transformers"}

HOOK = '''
import importlib.machinery, os, sys
WATCHED = {"torch", "transformers", "peft", "trl", "sentence_transformers", "openvino"}
class Watch:
    """Lets the others find the module, and notes it when it is executed: asking whether there is one is no import."""
    def find_spec(self, name, path=None, target=None):
        if name not in WATCHED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module
            def noted(module):
                open(os.path.join(os.environ["WATCH_FOLDER"], f"{os.getpid()}.{name}"), "w").close()
                run(module)
            spec.loader.exec_module = noted
        return spec
sys.meta_path.insert(0, Watch())
'''

STAGES = """
import sys
from pathlib import Path
from pipelines.runner import execute
from pipelines.settings import Settings
from pipelines.stage_process import inner
settings, root = Settings.from_env(), Path(sys.argv[1])
for stage in ("chunk", "embed", "index", "score_retrieval"):
    with inner(root, stage):
        print(execute(settings, root.name, stage), flush=True)
"""


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """(settings, environment, folder of notes): a corpus versioned, its embedder exported, nothing indexed yet."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "hook").mkdir()
    (folder / "seen").mkdir()
    (folder / "hook" / "sitecustomize.py").write_text(HOOK)
    settings = kit.home(
        folder / "home", embed={"partitions": 1}, chunk={"min_tokens": 24, "max_tokens": 48, "overlap": 4}
    )
    wiring = Wiring.of(settings, kit.CORPUS)
    assert wiring.embedder.digest  # exported now: an export imports torch, in a process of its own, once per model
    asked = [{"id": "q1", "question": "Who repairs a tent?", "answers": [], "evidence": [{"document": "tent.md"}]}]
    write_corpus(wiring.workspace, documents_of({**TEXTS, **rules(40)}), asked)  # enough to start Spark
    root = wiring.workspace.root
    (root / "params.yaml").write_text(json.dumps(wiring.params.model_dump(mode="json")))
    path = os.pathsep.join([str(folder / "hook"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = {**kit.environment(settings), "PYTHONPATH": path, "WATCH_FOLDER": str(folder / "seen")}
    return settings, environment, folder / "seen"


def seen(folder: Path) -> dict[str, set[str]]:
    """Module -> processes that imported it."""
    out: dict[str, set[str]] = {}
    for note in folder.iterdir():
        pid, name = note.name.split(".", 1)
        out.setdefault(name, set()).add(pid)
    return out


def test_the_tasks_of_the_index_dag_import_no_training_library(watched):
    settings, environment, notes = watched
    command = [sys.executable, "-c", STAGES, str(settings.workspace(kit.CORPUS))]
    done = subprocess.run(command, env=environment, cwd=settings.home, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "nDCG@10" in done.stdout
    found = seen(notes)
    assert not TRAINING & found.keys()
    assert len(found["openvino"]) >= 2  # the stages' own process embeds questions, Spark's workers embed chunks
