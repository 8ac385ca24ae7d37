"""The workspace as a real git + DVC repository: revisions, reproduction, errors, and several processes at once."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import yaml

from pipelines.backends.dvc import DvcVersioner
from pipelines.core.nouns import Document
from pipelines.corpus_files import CorpusFiles, document_row, write_files
from pipelines.errors import BackendError, BadInput, NotFound

pytestmark = pytest.mark.integration
BIN = Path(sys.executable).parent


class Home:
    """A workspace with stages of its own: what they run is plain shell."""

    def __init__(self, root: Path) -> None:
        self.root = root / "workspaces" / "demo"
        self.root.mkdir(parents=True)
        self.remote = root / "remotes" / "demo"
        self.content = root / "content"
        self.versioner = DvcVersioner(self.root, corpus="demo", remote=self.remote)

    def holds(self, **texts: str):
        rows = [
            document_row(Document(f"{k}.md", k, text, "text/markdown", f"source/{k}.md")) for k, text in texts.items()
        ]
        write_files(self.content, CorpusFiles(rows, [], [], []))
        return self.versioner.snapshot("demo", content=self.content)

    def stages(self, **stages: dict) -> None:
        (self.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))

    def git(self, *arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=self.root, check=True, capture_output=True, text=True).stdout

    def process(self, code: str, **environment: str) -> subprocess.Popen:
        """Another process with `v`, a versioner of this workspace; its stdout and stderr are pipes."""
        head = f"""
            from pathlib import Path
            from pipelines.backends.dvc import DvcVersioner
            v = DvcVersioner(Path({str(self.root)!r}), corpus="demo", remote=Path({str(self.remote)!r}))
        """
        command = [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code)]
        env = {**os.environ, **environment}
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True
        )


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def test_revisions_count_what_changed_and_dvc_get_and_import_give_each(home, tmp_path):
    assert home.versioner.current() is None
    first = home.holds(a="one")
    assert (first.revision, first.documents, home.versioner.current()) == ("r1", 1, first)
    assert home.holds(a="one") == first and home.git("tag").split() == ["r1"]
    second = home.holds(a="one", b="two")
    assert (second.revision, second.documents, home.versioner.current()) == ("r2", 2, second)
    assert second.digest != first.digest and second.commit == home.git("rev-parse", "r2^{commit}").strip()
    back = home.holds(a="one")
    assert (back.revision, back.digest) == ("r3", first.digest)
    for revision, names in (("r1", ["a.md"]), ("r2", ["a.md", "b.md"])):
        out = tmp_path / revision
        get = ["dvc", "get", "--quiet", str(home.root), "corpus", "--rev", revision, "--out", str(out)]
        subprocess.run([BIN / get[0], *get[1:]], check=True, cwd=tmp_path)
        from tests.corpus_kit import read_files

        assert [row["id"] for row in read_files(out).rows] == names
    consumer = tmp_path / "consumer"
    consumer.mkdir()
    subprocess.run([BIN / "dvc", "init", "--quiet", "--no-scm"], check=True, cwd=consumer)
    imported = ["import", "--quiet", str(home.root), "corpus", "--rev", "r2"]
    subprocess.run([BIN / "dvc", *imported], check=True, cwd=consumer)
    assert (consumer / "corpus" / "documents.parquet").is_file()


def test_the_digest_is_the_contents_alone(home, tmp_path):
    assert home.holds(a="one", b="two").digest == Home(tmp_path / "other").holds(b="two", a="one").digest


def test_the_repository_is_its_own_whatever_git_is_told_around_it(home, monkeypatch, tmp_path):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("HOME", str(tmp_path))
    hook = tmp_path / "hooks" / "pre-commit"
    hook.parent.mkdir()
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    (tmp_path / ".gitconfig").write_text(f"[core]\n hooksPath = {hook.parent}\n[commit]\n gpgSign = true\n")
    assert home.holds(a="one").revision == "r1"
    monkeypatch.delenv("GIT_DIR")
    assert home.git("config", "--local", "user.name").strip() == "Assay"
    assert home.git("log", "--format=%an").split() == ["Assay", "Assay"]
    assert not (tmp_path / "elsewhere").exists()


def test_a_tampered_remote_is_noticed(home, tmp_path):
    home.holds(a="one")
    for file in (path for path in home.remote.rglob("*") if path.is_file()):
        file.chmod(0o644)
        file.write_bytes(b"tampered" + file.read_bytes())
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(home.root), str(clone)], check=True)
    url = ["remote", "modify", "--local", "assay", "url", str(home.remote)]
    subprocess.run([BIN / "dvc", *url], check=True, cwd=clone)
    assert subprocess.run([BIN / "dvc", "pull", "--quiet"], cwd=clone, capture_output=True, check=False).returncode
    assert not (clone / "corpus" / "documents.parquet").exists()


def test_a_stage_runs_when_stale_and_only_then(home):
    (home.root / "in.txt").write_text("1")
    copy = {
        "cmd": "cp in.txt out.txt; echo ran >> runs.log",
        "deps": ["in.txt"],
        "outs": [{"out.txt": {"cache": False}}],
    }
    home.stages(copy=copy)
    assert home.versioner.reproduce("copy") is True
    assert home.versioner.reproduce("copy") is False
    assert home.versioner.reproduce("copy", force=True) is True
    (home.root / "in.txt").write_text("2")
    assert home.versioner.reproduce("copy") is True
    assert (home.root / "out.txt").read_text() == "2"
    assert (home.root / "runs.log").read_text() == "ran\n" * 3


def test_what_is_missing_is_named(home):
    home.stages(copy={"cmd": "true", "deps": ["receipts/before.json"]})
    with pytest.raises(NotFound, match=r"demo has no receipts/before\.json yet; run: assay run demo"):
        home.versioner.reproduce("copy")
    with pytest.raises(NotFound, match="demo: Stage 'nope' not found"):
        home.versioner.reproduce("nope")


def test_a_stage_that_fails_says_so_and_the_error_of_an_assay_stage_is_itself(home):
    said = json.dumps({"error": "BadInput", "message": "the corpus is refused"})
    home.stages(
        crash={"cmd": "exit 7"},
        refuse={"cmd": f"mkdir -p measured; echo '{said}' > measured/refuse.error.json; exit 2"},
    )
    with pytest.raises(BackendError, match="stage crash of demo exited with 7; what it printed says why"):
        home.versioner.reproduce("crash")
    with pytest.raises(BadInput, match=r"^the corpus is refused$"):
        home.versioner.reproduce("refuse")
    home.stages(refuse={"cmd": "exit 7"})
    with pytest.raises(BackendError, match="exited with 7"):  # the older error is not this run's
        home.versioner.reproduce("refuse")


def test_inputs_that_change_while_a_stage_runs_are_not_booked_on_its_outputs(home):
    # The stage itself moves its parameter once, as a sibling process would between its start and its end.
    (home.root / "params.yaml").write_text("level: 1\n")
    command = "cp params.yaml out.txt; sed -i s/1/2/ params.yaml; echo ran >> runs.log"
    home.stages(copy={"cmd": command, "params": ["level"], "outs": [{"out.txt": {"cache": False}}]})
    assert home.versioner.reproduce("copy") is True
    assert (home.root / "out.txt").read_text() == "level: 2\n"
    assert home.versioner.reproduce("copy") is False
    assert (home.root / "runs.log").read_text() == "ran\nran\n"


def test_the_output_of_a_stage_is_seen_while_it_runs(home):
    home.stages(slow={"cmd": "echo first; echo second >&2; sleep 3"})
    process = home.process("v.reproduce('slow')")
    assert process.stdout.readline() == "first\n" and process.stderr.readline() == "second\n"
    assert process.poll() is None
    assert process.wait(60) == 0


def test_the_command_and_a_plain_shell_are_found_whatever_the_environment(home):
    home.stages(which={"cmd": "command -v assay > out.txt", "outs": [{"out.txt": {"cache": False}}]})
    process = home.process("v.reproduce('which')", SHELL="/usr/sbin/nologin", PATH="/usr/bin:/bin")
    assert process.wait(60) == 0, process.stderr.read()
    assert (home.root / "out.txt").read_text().strip() == str(BIN / "assay")


def test_two_processes_use_one_workspace_at_once(home):
    """Different stages side by side, the same stage one after the other, with a snapshot and a record between."""
    stage = {"cmd": "sleep 1; echo x > {0}.txt; echo {0} >> runs.log", "outs": [{"{0}.txt": {"cache": False}}]}
    names = ["left", "right"]
    home.stages(**{name: json.loads(json.dumps(stage).replace("{0}", name)) for name in names})
    home.holds(a="one")
    begun = [home.process(f"v.reproduce({name!r}); v.record({name!r})") for name in [*names, *names]]
    second = home.holds(a="one", b="two")
    for process in begun:
        assert process.wait(120) == 0, process.stderr.read()
    assert sorted((home.root / "runs.log").read_text().split()) == names
    locked = yaml.safe_load((home.root / "dvc.lock").read_text())
    assert sorted(locked["stages"]) == names
    assert second.revision == "r2" and not home.git("status", "--porcelain").strip()


def test_killed_while_dvc_writes_a_file_of_its_own_it_is_as_before_or_whole(home):
    """The lock file's first and second writing, and that of corpus.dvc."""
    die_halfway = """
        import io, os, signal
        from dvc.utils.serialize import _yaml
        dump = _yaml._dump
        def half(data, stream, **how):
            if "cmd" in data:  # the run cache's, which nobody asks
                return dump(data, stream, **how)
            whole = io.StringIO()
            dump(data, whole, **how)
            stream.write(whole.getvalue()[: len(whole.getvalue()) // 2])
            stream.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        _yaml._dump = half
    """
    stage = {"cmd": "cp corpus/documents.parquet made", "deps": ["corpus/documents.parquet"], "outs": ["made"]}
    home.stages(make=stage)
    home.holds(a="one")
    for known in (False, True):
        before = (home.root / "dvc.lock").read_bytes() if known else None
        died = home.process(textwrap.dedent(die_halfway) + "v.reproduce('make', force=True)")
        assert died.wait(60) == -signal.SIGKILL, died.stderr.read()
        assert before == ((home.root / "dvc.lock").read_bytes() if known else None)
        home.versioner.reproduce("make")
        assert list(yaml.safe_load((home.root / "dvc.lock").read_text())["stages"]) == ["make"]
        home.versioner.record("Made")
    before = (home.root / "corpus.dvc").read_bytes()
    write_files(
        home.content, CorpusFiles([document_row(Document("b.md", "b", "two", "text/markdown", "b.md"))], [], [], [])
    )
    died = home.process(textwrap.dedent(die_halfway) + f"v.snapshot('demo', content=Path({str(home.content)!r}))")
    assert died.wait(60) == -signal.SIGKILL, died.stderr.read()
    assert (home.root / "corpus.dvc").read_bytes() == before
    assert home.versioner.snapshot("demo", content=home.content).revision == "r2"


def test_a_snapshot_waits_for_a_stage_that_reads_the_corpus(home):
    home.holds(a="one")
    command = "cp corpus/documents.parquet before; touch measured/begun; sleep 4; cmp before corpus/documents.parquet"
    home.stages(read={"cmd": command, "deps": ["corpus/documents.parquet"]})
    reader = home.process("v.reproduce('read')")
    while not (home.root / "measured" / "begun").exists():
        assert reader.poll() is None, reader.stderr.read()
        time.sleep(0.05)
    assert home.holds(a="one", b="two").revision == "r2"
    assert reader.wait(60) == 0, reader.stderr.read()


def test_a_workspace_that_stays_busy_is_an_error_that_says_by_what(home):
    home.holds(a="one")
    home.stages(read={"cmd": "touch measured/begun; sleep 30", "deps": ["corpus/documents.parquet"]})
    reader = home.process("v.reproduce('read')")
    while not (home.root / "measured" / "begun").exists():
        time.sleep(0.05)
    home.versioner = DvcVersioner(home.root, corpus="demo", remote=home.remote, patience=1)
    with pytest.raises(
        BackendError, match=r"the workspace of demo stayed busy for 1 s: .*is busy, it is being blocked by"
    ):
        home.holds(a="one", b="two")
    os.killpg(reader.pid, signal.SIGKILL)
    reader.communicate()
    home.versioner = DvcVersioner(home.root, corpus="demo", remote=home.remote)
    assert home.holds(a="one", b="two").revision == "r2"


def test_record_commits_what_is_there_tags_it_and_keeps_an_older_tag(home):
    home.holds(a="one")
    home.stages(make={"cmd": "mkdir -p data; echo x > data/x", "outs": ["data"]})
    home.versioner.reproduce("make")
    (home.root / "receipts").mkdir()
    (home.root / "receipts" / "make.json").write_text("{}\n")
    (home.root / "measured" / "make.json").write_text("{}\n")
    home.versioner.record("Made", tag="g1")
    assert set(home.git("ls-files").split()) >= {"dvc.lock", "dvc.yaml", "receipts/make.json", "corpus.dvc"}
    assert "measured/make.json" not in home.git("ls-files")
    commit = home.git("rev-parse", "HEAD", "g1^{commit}").split()
    assert commit[0] == commit[1]
    home.versioner.record("Made again", tag="g1")
    assert home.git("rev-parse", "HEAD").split() == commit[:1]
    subprocess.run(
        [BIN / "dvc", "gc", "--quiet", "--force", "--not-in-remote", "--workspace"], cwd=home.root, check=False
    )
    subprocess.run(["rm", "-rf", str(home.root / ".dvc" / "cache"), str(home.root / "data")], check=True)
    subprocess.run([BIN / "dvc", "pull", "--quiet"], cwd=home.root, check=True)  # data reached the remote, too
    assert (home.root / "data" / "x").read_text() == "x\n"
