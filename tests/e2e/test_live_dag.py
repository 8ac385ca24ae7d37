"""One small corpus through a live Airflow as `make up` starts it: its scheduler is killed twice in the middle of a run,
secrets of the environment are looked for in all that was written, a person refuses and then approves in a browser.

In order, on one stack. Replies come from a server of the test's own, nothing is trained; the release that readers have
meanwhile was made by `release_kit`, and the undisturbed run of the same documents is `assay run` in another home. Set
ASSAY_PICTURES to a folder to keep the screenshot.
"""

import base64
import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import psutil
import pytest

from infra.airflow_api import AirflowApi
from infra.local_milvus import free_port
from infra.services import USER, Services
from infra.sessions import members
from pipelines import graph
from pipelines.actions import views
from pipelines.builds import held
from pipelines.client import Release
from pipelines.settings import Settings, checkout
from pipelines.wiring import Wiring
from tests import release_kit as kit
from tests.e2e.test_demo import CHROMIUM, mine
from tests.endpoint_kit import Server, chat_answer, serving
from tests.integration.test_secrets_stay import secrets
from tests.secret_scan import places

pytestmark = pytest.mark.e2e
TINY = kit.CORPUS
QUESTION = "Within how many days are refunds paid?"
GOLD = [
    (QUESTION, "60 days", "refunds"),
    ("What does standard shipping cost?", "4.90 euros", "shipping"),
    ("How long is the warranty of tents?", "five years", "warranty"),
]
SECTIONS = {
    "generate": {"model": "endpoint"},
    "split": {"validation": 0.0, "test": 0.99, "seed": 7},
    "retrieve": {"mode": "dense", "k": 1},
    "embed": {"partitions": 1},
    "answer": {"arms": ["base", "rag"], "max_questions": 3},
    "judge": {"floors": {}, "max_regression": {}, "min_gain": -1.0, "min_questions": 1},
}
PICTURES = os.environ.get("ASSAY_PICTURES")
PATIENCE = 600.0
"""Seconds that a step may take on a machine that is busy with something else."""


def until(found, what):
    """What `found` returns once it is true."""
    deadline = time.monotonic() + PATIENCE
    while not (value := found()):
        assert time.monotonic() < deadline, f"not after {PATIENCE:.0f} s: {what}"
        time.sleep(0.5)
    return value


@contextmanager
def beside(look, failed, *, every):
    """`look` is called again and again in a thread for the length of the block, until it raises: that is put into
    `failed` and raised by the block."""
    over = threading.Event()

    def loop():
        while not failed and not over.wait(every):
            try:
                look()
            except Exception as exc:
                failed.append(exc)

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not failed, failed


def home(folder, **promote):
    """A home whose corpus lands the newer documents, with three gold questions."""
    landing, gold = folder / "landing", folder / "gold.jsonl"
    landing.mkdir(parents=True, exist_ok=True)
    for name, text in kit.NEWER.items():
        (landing / f"{name}.md").write_text(f"# {name.title()}\n\n{text}\n")
    rows = [
        {"id": name, "question": q, "answers": [a], "evidence": [{"document": f"{name}.md", "quote": a}]}
        for q, a, name in GOLD
    ]
    gold.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"documents": str(landing), "questions": str(gold)}
    return kit.home(folder / "home", source=source, promote={"arm": "rag", **promote}, **SECTIONS)


def canaries():
    """A value of each secret variable. Airflow's database is its own, and its JWT secret is made by the stack."""
    made = {
        name: f"canary-{number}-{name.lower()[::-1]}"
        for number, name in enumerate(secrets())
        if name not in ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__API_AUTH__JWT_SECRET")
    }
    return made | {"AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(b"canary-of-thirty-two-bytes-long!").decode()}


@dataclass
class Stack:
    """The running services and what the test holds of them. `go` cleared keeps the endpoint from answering, `asked`
    is set when it is asked."""

    settings: Settings
    env: dict[str, str]
    canaries: dict[str, str]
    hosted: Server
    go: threading.Event
    asked: threading.Event
    said: str = ""
    listening: set[tuple[str, int]] = field(default_factory=set)
    seen: list[tuple[int, str]] = field(default_factory=list)
    failed: list[Exception] = field(default_factory=list)

    def infra(self, verb):
        command = [sys.executable, "-m", "infra.services", verb]
        done = subprocess.run(command, env=self.env, cwd=checkout(), capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def services(self):
        return Services(self.settings, ("milvus", "airflow", "mlflow"))

    @cached_property
    def api(self):
        return AirflowApi(self.services.airflow_url, USER, self.services.password)

    def task(self, kind, name):
        """The task in the newest run of that DAG, as Airflow has it; empty before there is one."""
        runs = self.api.runs(f"{TINY}_{kind}")
        return self.api.tasks(f"{TINY}_{kind}", runs[0]["dag_run_id"]).get(name, {}) if runs else {}

    def until_task(self, kind, name, *states):
        def reached():
            task = self.task(kind, name)
            assert task.get("state") not in {"failed", "upstream_failed"} - {*states}, task
            return task if task.get("state") in states else None

        return until(reached, f"{kind}.{name} is {' or '.join(states)}")

    def answer(self, run, option):
        """What a person answers to `approve` by Airflow's API."""
        where = f"/dags/{TINY}_release/dagRuns/{run}/taskInstances/approve/-1/hitlDetails"
        self.api._call("PATCH", where, json={"chosen_options": [option], "params_input": {}})

    def asked_until_known(self, answer):
        """Calls `answer` once `approve` asks, and again when it asks again, as it may where the answer came at once."""
        for _ in range(3):
            self.until_task("release", "approve", "awaiting_input")
            answer()
            if self.until_task("release", "approve", "success", "up_for_retry")["state"] == "success":
                return
        raise AssertionError("asked three times")

    def recorded(self):
        return json.loads((self.settings.home / "run" / "services.json").read_text())["processes"]

    def scheduler(self):
        return psutil.Process(self.recorded()["airflow-scheduler"])

    def stage(self, name):
        """The process that does the work of a stage now, if one does."""
        for pid in mine(self.settings.home):
            try:
                process = psutil.Process(pid)
                if process.cmdline()[-2:] == ["exec", name]:
                    return process
            except psutil.Error:
                continue
        return None

    def look_at_sockets(self):
        # Airflow's processes write their titles over their environment, by which the others are known.
        for pid in {*mine(self.settings.home), *(process.pid for process in members([*self.recorded().values()]))}:
            try:
                found = psutil.Process(pid).net_connections(kind="inet")
            except psutil.Error:
                continue
            self.listening |= {(c.laddr.ip, c.laddr.port) for c in found if c.status == psutil.CONN_LISTEN}

    def generations(self):
        return [row["generation"] for row in views.release_list(self.settings, TINY)["releases"]]


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """The same documents, undisturbed: (settings, process of `assay run`)."""
    settings = home(tmp_path_factory.mktemp("twin"))
    with serving() as hosted:
        env = kit.environment(settings) | {"ASSAY_OPENAI_BASE_URL": hosted.url, "ASSAY_OPENAI_API_KEY": "any"}
        command = [sys.executable, "-m", "pipelines.cli", "run", TINY]
        process = subprocess.Popen(
            command, env=env, cwd=checkout(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        yield settings, process
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def stack(twin, tmp_path_factory):
    root = tmp_path_factory.mktemp("live")
    settings = home(root)
    go, asked = threading.Event(), threading.Event()

    def answer(path, body):
        if body["max_tokens"] > 1:  # one token is asked for to see which model answers
            asked.set()
            assert go.wait(PATIENCE)
        return chat_answer(path, body)

    before, planted = dict(os.environ), canaries()
    with serving(answer) as hosted:
        ours = {"ASSAY_OPENAI_BASE_URL": hosted.url, "AWS_EC2_METADATA_DISABLED": "true"}
        ours |= {f"ASSAY_{name}_PORT": str(free_port()) for name in ("AIRFLOW", "MLFLOW", "MILVUS")}
        # A dead scheduler is known as such after 15 seconds; Airflow's default is 30.
        ours["AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD"] = "15"
        env = {key: value for key, value in kit.environment(settings).items() if not key.startswith("AIRFLOW")}
        os.environ.clear()
        os.environ.update({**env, **planted, **ours})
        found = Stack(settings, dict(os.environ), planted, hosted, go, asked)
        try:
            kit.candidate(settings)
            kit.run_promote(settings)  # the champion, of the older documents
            home(root, approval="airflow")
            found.said = found.infra("up")
            with beside(found.look_at_sockets, found.failed, every=2.0):
                yield found
        finally:
            go.set()
            found.infra("down")
            os.environ.clear()
            os.environ.update(before)
    assert mine(settings.home) == []


@pytest.fixture(scope="module")
def reader(stack):
    """A service that floats, asked once a second from here on; what it answered is in `stack.seen`."""
    with Release(TINY, settings=stack.settings, look_every=2.0) as release:

        def read():
            (found,) = release.passages([QUESTION], k=1)
            stack.seen.append((found["release"]["generation"], found["passages"][0]["text"]))

        with beside(read, stack.failed, every=1.0):
            yield release


def test_a_scheduler_that_is_killed_costs_an_attempt_at_most(stack, reader, faults):
    dags = {f"{TINY}_{kind}" for kind in graph.DAGS}
    stack.api.wait_for_dags(dags)
    for dag in dags:
        stack.api.unpause(dag)
    stack.api.trigger(f"{TINY}_corpus")
    with faults("kill -9 of Airflow's scheduler and of all that it runs"):
        stage = until(lambda: stack.stage("embed"), "embed has begun")
        assert {name: stage.environ().get(name) for name in stack.canaries} == stack.canaries
        scheduler = stack.scheduler()
        everything = [scheduler, *scheduler.children(recursive=True)]
        assert stage in everything
        for process in everything:
            with suppress(psutil.NoSuchProcess):  # the dead took it along
                process.kill()
        psutil.wait_procs(everything, timeout=5)
        assert stack.task("index", "embed")["state"] == "running"  # nobody is there to notice
        stack.infra("up")
        assert stack.until_task("index", "embed", "success")["try_number"] > 1
        stack.until_task("index", "score_retrieval", "success")
    with faults("kill -9 of Airflow's scheduler alone"):
        until(stack.asked.is_set, "score_answers asks the endpoint")
        stack.scheduler().kill()
        stack.go.set()
        assert stack.until_task("release", "score_answers", "success")["try_number"] == 1
        assert stack.task("release", "judge")["state"] is None  # nobody is there to begin it
        stack.infra("up")
        stack.until_task("release", "judge", "success")
    stack.until_task("release", "approve", "awaiting_input")
    assert {generation for generation, _ in stack.seen} == {1} and "30 days" in stack.seen[-1][1]


def test_a_refusal_publishes_nothing(stack, reader):
    asked = stack.until_task("release", "approve", "awaiting_input")
    stack.asked_until_known(lambda: stack.answer(asked["dag_run_id"], "Reject"))
    stack.until_task("release", "promote", "skipped")
    assert stack.generations() == [1] and reader.generation == 1


def test_an_answer_that_airflow_loses_is_asked_for_again(stack, reader):
    """Airflow notices the end of the process that asked some five seconds after the question: docs/faults.md."""
    run, tries = stack.api.trigger(f"{TINY}_release"), set()

    def answer():
        task = stack.task("release", "approve")
        asked = datetime.now(UTC) - datetime.fromisoformat(task["start_date"])
        if task["try_number"] == 1:
            time.sleep(max(0.0, 4.7 - asked.total_seconds()))
        tries.add(task["try_number"])
        stack.answer(run, "Reject")

    stack.asked_until_known(answer)
    assert stack.until_task("release", "promote", "skipped")["dag_run_id"] == run
    assert stack.task("release", "approve")["try_number"] == max(tries) == len(tries)
    assert stack.generations() == [1]


def approve_in_a_browser(stack, run, folder):
    from playwright.sync_api import sync_playwright

    url, services = stack.services.airflow_url, stack.services
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": 1800, "height": 950})
        page.set_default_timeout(120_000)
        page.goto(url)
        page.fill("input[name=username]", USER)
        page.fill("input[name=password]", services.password)
        page.click("button[type=submit]")
        page.wait_for_url(re.compile(rf"{url}/?$"))

        def answer():
            page.goto(f"{url}/required_actions?response_received=false")
            page.get_by_role("link", name=f"Release the new candidate of {TINY}?").first.click()
            page.wait_for_url(re.compile(r"/tasks/approve/required_actions"))
            assert run in page.url.replace("%3A", ":").replace("%2B", "+")
            page.get_by_text(re.compile("passed, arm rag")).first.wait_for()
            page.screenshot(path=str(folder / "airflow-approval.png"))
            page.get_by_role("button", name="Approve", exact=True).click()

        stack.asked_until_known(answer)
        browser.close()


def test_a_person_approves_in_the_browser_and_the_manifest_names_who_and_when(stack, reader, tmp_path):
    run, began = stack.api.trigger(f"{TINY}_release"), datetime.now(UTC).replace(microsecond=0)
    stack.until_task("release", "approve", "awaiting_input")
    assert stack.generations() == [1]
    if CHROMIUM is None:
        stack.asked_until_known(lambda: stack.answer(run, "Approve"))
    else:
        approve_in_a_browser(stack, run, Path(PICTURES or tmp_path))
    stack.until_task("release", "promote", "success")
    approval = views.release_manifest(stack.settings, TINY, 2)["approval"]
    assert (approval["by"], approval["how"]) == (USER, f"Airflow: {TINY}_release run {run}")
    assert began <= datetime.fromisoformat(approval["at"]) <= datetime.now(UTC)
    until(lambda: stack.failed or stack.seen[-1][0] == 2, "the reader has the new release")
    assert stack.failed == []
    assert {(generation, "60 days" in text) for generation, text in stack.seen} == {(1, False), (2, True)}
    if CHROMIUM is None:
        pytest.skip("approved by the API: no Chromium; install Debian's package chromium")


def finished(settings):
    """Names of the runs in MLflow, which all have finished."""
    with closing(sqlite3.connect(settings.home / "mlflow" / "mlflow.db")) as database:
        rows = database.execute("SELECT name, status FROM runs").fetchall()
    assert {status for _, status in rows} == {"FINISHED"}
    return sorted(name for name, _ in rows)


def test_what_was_disturbed_ends_as_the_undisturbed(stack, twin):
    settings, process = twin
    said = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, said
    parts = ("chunk", "embedder", "index", "adapter", "prompt", "params", "arm", "code")
    manifests = [views.release_manifest(stack.settings, TINY, 2), views.release_manifest(settings, TINY, 1)]
    # Of an endpoint the address is part of what is known of its weights, and so of the candidate that it serves; these
    # two have servers of their own.
    ours, theirs = (
        {**{p: m[p] for p in parts}, "revision": m["revision"]["digest"], "tokenizer": m["base"]["tokenizer"]}
        for m in manifests
    )
    assert ours == theirs
    assert stack.generations() == [2, 1]
    assert finished(stack.settings) == sorted([*finished(settings), "release g2"])
    wiring = Wiring.of(stack.settings, TINY)
    index = ours["index"]
    assert held(wiring.store, index["collection"]) == (index["rows"], index["digest"]) and index["rows"] == 3
    wiring.store.close()


def test_a_planted_canary_is_found(tmp_path):
    planted = {"A": "canary-a-7c1", "B": "canary-b-9d2"}
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "task.log").write_text('{"event": "key canary-a-7c1"}')
    with closing(sqlite3.connect(tmp_path / "airflow.db")) as database:
        database.execute("CREATE TABLE xcom (value BLOB)")
        database.execute("INSERT INTO xcom VALUES (?)", (zlib.compress(b'"canary-b-9d2"'),))
        database.commit()
    for words in (["init", "-q"], ["add", "logs"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    (tmp_path / "logs" / "task.log").write_text("")
    found, looked = places(tmp_path, planted)
    assert found == {("A", ".git"), ("B", "airflow.db")} and looked["databases"] == 1
    (tmp_path / "logs" / "task.log").write_text('{"event": "key canary-a-7c1"}')
    assert ("A", "logs/task.log") in places(tmp_path, planted)[0]


def test_no_secret_is_in_what_airflow_and_the_stages_left(stack):
    assert stack.hosted.asked[0][2]["authorization"] == f"Bearer {stack.canaries['ASSAY_OPENAI_API_KEY']}"
    services, place = stack.services, stack.settings.home
    own = {"login": services.password, "session": services.secret("session"), "jwt": services.secret("jwt")}
    key = stack.settings.signing_key.read_text().splitlines()
    own["signing key"] = next(line for line in key if not line.startswith("-----"))
    theirs = {"airflow/passwords.json", "airflow/session.secret", "airflow/jwt.secret", "keys/release.pem"}
    found, looked = places(place, {**stack.canaries, **own}, but=theirs)
    assert found == set()
    assert {"airflow.db", "mlflow.db", "report.html", "judge.json"} <= {path.name for path in place.rglob("*")}
    assert list((place / "airflow" / "logs").rglob("attempt=*.log"))
    assert looked["files"] > 100 and looked["databases"] >= 2 and looked["repositories"] == 1, looked


def test_everything_that_listens_is_on_loopback(stack):
    assert {ip for ip, _ in stack.listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, stack.listening
    ports = {int(stack.env[f"ASSAY_{name}_PORT"]) for name in ("AIRFLOW", "MLFLOW", "MILVUS")}
    assert ports <= {port for _, port in stack.listening}
