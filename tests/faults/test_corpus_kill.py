"""kill -9 in the middle of fetch, snapshot or a stage, then once more: the same digests, no duplicates."""

import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import psutil
import pytest

from pipelines.backends.dvc import DvcVersioner
from pipelines.core.nouns import Document
from pipelines.corpus_files import CorpusFiles, document_row, tree_digest, write_files
from pipelines.settings import Settings, checkout

pytestmark = pytest.mark.faults

KILLED = """
import os, signal
from pathlib import Path
def killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
"""
"""Before a text in which something calls `killed()`."""


@pytest.fixture
def killed(zygote, tmp_path):
    settings = Settings(tmp_path, checkout() / "params.yaml", "local[1]")
    return lambda text: zygote.ends_itself(settings, KILLED + text)


def content(folder: Path, **texts: str) -> Path:
    rows = [document_row(Document(f"{k}.md", k, text, "text/markdown", f"source/{k}.md")) for k, text in texts.items()]
    write_files(folder, CorpusFiles(rows, [], [], []))
    return folder


def versioner(home: Path) -> DvcVersioner:
    return DvcVersioner(home / "workspaces" / "demo", corpus="demo", remote=home / "remotes" / "demo")


def git(home: Path, *arguments: str) -> str:
    root = home / "workspaces" / "demo"
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


# Where the process dies, as a change to the code that runs: before or after the step that is named.
GIT = "from pipelines.git import Git; run = Git.run\n"
STEPS = {
    "between init and the first commit": GIT
    + "Git.run = lambda g, *a, **k: killed() if a[0] == 'config' else run(g, *a, **k)",
    "between the two renames": (
        "import pipelines.backends.dvc as d\n"
        "d.swap_in = lambda building, target, *, aside: (target.exists() and target.rename(aside), killed())"
    ),
    "before corpus.dvc": "import pipelines.backends.dvc as d; d.DvcVersioner._track = killed",
    "after corpus.dvc": (
        "import pipelines.backends.dvc as d; track = d.DvcVersioner._track\n"
        "d.DvcVersioner._track = lambda v, repo: (track(v, repo), killed())"
    ),
    "within git's commit": GIT + "Git.run = lambda g, *a, **k: ((g._root / '.git' / 'index.lock').touch(), killed()) "
    "if a[0] == 'commit' and 'Begin' not in a[-1] else run(g, *a, **k)",
    "after the commit": "from dvc.repo import Repo; Repo.push = killed",
    "after the push": GIT
    + "Git.run = lambda g, *a, **k: killed() if a[:2] == ('tag', '--annotate') else run(g, *a, **k)",
    "after the tag": GIT
    + "Git.run = lambda g, *a, **k: (run(g, *a, **k), killed()) if a[:2] == ('tag', '--annotate') else run(g, *a, **k)",
}


SNAPSHOT = """
from pipelines.backends.dvc import DvcVersioner
{patch}
home = Path({home!r})
v = DvcVersioner(home / "workspaces" / "demo", corpus="demo", remote=home / "remotes" / "demo")
v.snapshot("demo", content=Path({new!r}))
"""


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """(an older content, a newer one)"""
    root = tmp_path_factory.mktemp("texts")
    return content(root / "old", a="one"), content(root / "new", a="one", b="two")


@pytest.fixture(scope="module")
def calm(texts, tmp_path_factory):
    """earlier -> (a home in which the newer content was versioned, after the older one or alone; what was said)"""
    old, new = texts

    @cache
    def made(earlier):
        home = tmp_path_factory.mktemp("calm")
        if earlier:
            versioner(home).snapshot("demo", content=old)
        return home, versioner(home).snapshot("demo", content=new)

    return made


@pytest.mark.parametrize(
    ("step", "earlier"), [(step, n > 0) for n, step in enumerate(STEPS)] + [("before corpus.dvc", False)]
)
@pytest.mark.fault("kill -9 at a step of snapshot")
def test_a_snapshot_killed_at_any_step_converges(tmp_path, killed, texts, calm, step, earlier):
    old, new = texts
    (undisturbed, expected), home = calm(earlier), tmp_path / "home"
    if earlier:
        versioner(home).snapshot("demo", content=old)
    killed(SNAPSHOT.format(patch=STEPS[step], home=str(home), new=str(new)))
    found = versioner(home).snapshot("demo", content=new)
    assert (found.revision, found.digest, found.documents) == (expected.revision, expected.digest, expected.documents)
    assert git(home, "tag").split() == git(undisturbed, "tag").split()
    booked = f"{found.revision}:corpus.dvc"
    assert git(home, "show", booked) == git(undisturbed, "show", booked)
    assert git(home, "log", "--format=%s") == git(undisturbed, "log", "--format=%s")
    assert not git(home, "status", "--porcelain").strip()
    git(home, "fsck", "--strict")
    assert tree_digest(home / "workspaces" / "demo" / "corpus") == tree_digest(new)
    assert tree_digest(home / "remotes") == tree_digest(undisturbed / "remotes")
    assert versioner(home).snapshot("demo", content=new) == found


@pytest.mark.fault("kill -9 at a step of snapshot")
def test_a_revision_that_was_killed_and_then_taken_back_leaves_no_trace(tmp_path, killed, texts):
    (old, new), home = texts, tmp_path / "home"
    first = versioner(home).snapshot("demo", content=old)
    killed(SNAPSHOT.format(patch=STEPS["after the commit"], home=str(home), new=str(new)))
    assert versioner(home).snapshot("demo", content=old) == first
    assert git(home, "tag").split() == ["r1"] and not git(home, "status", "--porcelain").strip()
    assert git(home, "show", "HEAD:corpus.dvc") == git(home, "show", "r1:corpus.dvc")


FETCH = """
from pipelines import params
from pipelines.actions import fetch
from pipelines.settings import Settings, checkout
from pipelines.wiring import Wiring
from pipelines.workspace import Workspace
{patch}
root = Path({root!r})
shipped = params.load_corpus(checkout() / "params.yaml", "handbook")
source = params.Source(documents=str(root / "landing"))
ports = Wiring(Settings(root / "home", checkout() / "params.yaml", "local[1]"), "demo", shipped)
fetch.run(shipped.model_copy(update=dict(source=source)), Workspace(root / "home" / "w" / "demo", "demo"), ports=ports)
"""
FETCH_STEPS = {
    "among the files": (
        "fetch.Reader._text = lambda r, data, suffix, name: (name, name if name != 'f5.md' else killed())"
    ),
    "when all is read": "fetch.Spool.settle = killed",
    "before the swap": "fetch.swap_in = killed",
    "between the two renames": (
        "fetch.swap_in = lambda building, target, *, aside: (target.exists() and target.rename(aside), killed())"
    ),
}


@pytest.mark.parametrize("step", FETCH_STEPS)
@pytest.mark.fault("kill -9 at a step of fetch")
def test_a_fetch_killed_at_any_step_converges(tmp_path, killed, step):
    for place in ("calm", "home"):
        for number in range(9):
            file = tmp_path / place / "landing" / f"f{number}.md"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"# Document {number}\n\nIts text.\n")
    for place in ("calm", "home"):
        exec(FETCH.format(patch="from pathlib import Path", root=str(tmp_path / place)), {})  # noqa: S102 our own text
    for place in ("calm", "home"):
        (tmp_path / place / "landing" / "f3.md").write_text("# Document 3\n\nIts second text.\n")
    exec(FETCH.format(patch="from pathlib import Path", root=str(tmp_path / "calm")), {})  # noqa: S102 our own text
    killed(FETCH.format(patch=FETCH_STEPS[step], root=str(tmp_path / "home")))
    exec(FETCH.format(patch="from pathlib import Path", root=str(tmp_path / "home")), {})  # noqa: S102 our own text
    assert tree_digest(tmp_path / "home" / "home" / "w") == tree_digest(tmp_path / "calm" / "home" / "w")


CHECK = """
from types import SimpleNamespace as S
from pipelines import params
from pipelines.backends import gx
from pipelines.settings import Settings, checkout
from pipelines.stages import check
from pipelines.workspace import Workspace
{patch}
root = Path({root!r})
shipped = params.load_corpus(checkout() / "params.yaml", "handbook")
ports = S(settings=Settings(root, checkout() / "params.yaml", "local[1]"))
check.run(shipped, Workspace(root / "w" / "demo", "demo"), ports=ports)
"""


@pytest.mark.parametrize("patch", ["gx._failed = killed", "check.link_tree = killed"])
@pytest.mark.fault("kill -9 at a step of check")
def test_a_check_killed_at_any_step_converges(tmp_path, killed, patch):
    staging = tmp_path / "w" / "demo" / "staging"
    texts = {f"d{n}": f"The text of document {n}." for n in range(9)}
    content(staging / "fetched", **texts)
    killed(CHECK.format(patch=patch, root=str(tmp_path)))
    assert not (staging / "checked").exists()
    exec(CHECK.format(patch="from pathlib import Path", root=str(tmp_path)), {})  # noqa: S102 our own text
    assert tree_digest(staging / "checked") == tree_digest(staging / "fetched")
    assert {path.name for path in staging.iterdir()} == {"fetched", "checked"}
    assert [path.name for path in (tmp_path / "reports" / "demo").iterdir()] == ["data_docs"]


@pytest.mark.fault("kill -9 of a command while its stage runs")
def test_a_stage_ends_when_its_command_is_killed_and_runs_again_at_once(tmp_path):
    home = tmp_path / "home"
    root = home / "workspaces" / "demo"
    root.mkdir(parents=True)
    (root / "work.py").write_text(
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from pipelines.stage_process import inner\n"
        "with inner(Path.cwd(), 'work'):\n"
        "    Path('measured/pid').write_text(str(os.getpid()))\n"
        "    time.sleep(60 if not Path('measured/second').exists() else 0)\n"
    )
    (root / "dvc.yaml").write_text(f"stages:\n  work:\n    cmd: {sys.executable} work.py\n    deps: [work.py]\n")
    outer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from pipelines.backends.dvc import DvcVersioner\n"
            f"DvcVersioner(Path({str(root)!r}), corpus='demo', remote=Path('r')).reproduce('work')",
        ]
    )
    pid = root / "measured" / "pid"
    while not pid.exists() or not pid.read_text():
        assert outer.poll() is None
        time.sleep(0.05)
    first = psutil.Process(int(pid.read_text()))
    outer.kill()  # its child is not told
    (root / "measured" / "second").touch()
    started = time.monotonic()
    assert versioner(home).reproduce("work") is True
    assert time.monotonic() - started < 30
    outer.wait()
    assert not first.is_running() or first.status() == psutil.STATUS_ZOMBIE
