"""The demo in a real Airflow, twice; two worse candidates, which the gate must reject; then what a reviewer finds of
all that in Airflow's and MLflow's UIs, in a real browser.

Training and questions are cut short by a params file of the test's own; every component is the real one. What so short
a training gains is not judged here; that a candidate is no worse than the champion is.
Set ASSAY_PICTURES to a folder to keep the screenshots.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from infra.airflow_api import AirflowApi
from pipelines.schemas import read_jsonl, write_jsonl
from pipelines.settings import checkout
from tests.cli_kit import assay

pytestmark = pytest.mark.e2e
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
REFUSES = json.dumps(
    {
        "answer": "I could not find this in the handbook.",
        "citations": [],
        "tone": "neutral",
        "next_step": "Ask the shift lead.",
    }
)
PORTS = {"ASSAY_AIRFLOW_PORT": "18080", "ASSAY_MLFLOW_PORT": "15000", "ASSAY_MILVUS_PORT": "19531"}


def mine(home: Path) -> list[int]:
    """Processes that know this home folder, zombies aside."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("ASSAY_HOME") == str(home):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo")
    raw = yaml.safe_load((checkout() / "params.yaml").read_text())
    block = raw["corpora"]["handbook"]
    block["train"] = {"steps": 16}
    block["answer"] |= {"max_questions": 24, "batch": 24}
    block["generate"]["max_new_tokens"] = 64
    block["promote"] = {"arm": "both"}
    block["judge"] |= {"floors": {"retrieval.ndcg@10": 0.3}, "min_gain": -0.2}
    block["judge"]["max_regression"] = {"retrieval.ndcg@10": 0.05, "answers.citation_precision": 0.25}
    block["generate"]["reply_schema"] = str(checkout() / block["generate"]["reply_schema"])
    params = root / "params.yaml"
    params.write_text(yaml.safe_dump(raw))
    env = {**os.environ, **PORTS, "ASSAY_HOME": str(root / "home"), "ASSAY_PARAMS": str(params)}
    return root / "home", env


def run(module: str, *arguments: str, env) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=env,
        cwd=checkout(),
        capture_output=True,
        text=True,
        timeout=2400,
    )


def shown(*arguments: str, env) -> dict:
    """What a command shows of the corpus as it is."""
    said = assay(*arguments, "--json", environment=env)
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)


@pytest.fixture(scope="module")
def first(place):
    home, env = place
    done = run("infra.demo", env=env)
    print(done.stdout, done.stderr, file=sys.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    assert mine(home) == []
    return done.stdout


def test_the_demo_shows_progress_arms_release_answer_and_reports(first, place):
    assert re.search(r"handbook_index\.embed\s+success", first)
    for arm in ("base", "rag", "tuned", "both"):
        assert re.search(rf"\b{arm}\b", first)
    assert "What is our refund policy?" in first
    assert str(place[0] / "reports" / "handbook") in first.replace("\n", "")


def test_the_second_revision_answers_by_the_new_policy_without_training(first, place):
    _, env = place
    releases = shown("releases", "handbook", env=env)["releases"]
    assert len(releases) == 2
    old, new = (shown("show", f"handbook@{generation}", env=env) for generation in (1, 2))
    assert old["adapter"] == new["adapter"]
    assert old["index"]["collection"] != new["index"]["collection"]
    assert (old["revision"]["tag"], new["revision"]["tag"]) == ("r1", "r2")
    done = run("pipelines.cli", "ask", "handbook", "What is our refund policy?", "--json", env=env)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    cited = answer["citations"][0]
    assert answer["release"] == {"corpus": "handbook", "generation": 2}
    assert (cited["document"], cited["revision"]) == ("orders/refund-policy.md", "r2")
    assert "60 days" in answer["answer"] + cited["text"]


def test_again_nothing_changes(first, place):
    home, env = place
    before = sorted(str(path) for path in (home / "objects").rglob("*"))
    began = time.monotonic()
    done = run("infra.demo", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing has changed: 0 texts embedded, 0 adapters trained, 0 releases published." in done.stdout
    assert sorted(str(path) for path in (home / "objects").rglob("*")) == before
    assert time.monotonic() - began < 300
    assert mine(home) == []


def candidate(env, tmp_path, name: str, **over) -> tuple[str, dict]:
    """(what the terminal said, the report) of `assay run` with sections of the handbook's params overridden. Only the
    arms that the gate needs are asked."""
    raw = yaml.safe_load(Path(env["ASSAY_PARAMS"]).read_text())
    block = raw["corpora"]["handbook"]
    block["answer"] = {**block["answer"], "arms": ["base", "both"]}
    for section, values in over.items():
        block[section] = {**block.get(section, {}), **values}
    params = tmp_path / f"{name}.yaml"
    params.write_text(yaml.safe_dump(raw))
    env = {**env, "ASSAY_PARAMS": str(params)}
    done = run("pipelines.cli", "run", "handbook", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, shown("report", "handbook", env=env)


def failed(report: dict) -> dict[str, str]:
    return {check["name"]: check["reason"] for check in report["verdict"]["checks"] if not check["passed"]}


@pytest.fixture(scope="module")
def worse(first, place, tmp_path_factory):
    """A candidate with an embedder of random weights, then one with an adapter trained to refuse whatever is asked: one
    reply is learned in the few steps of this test, wrong ones of many kinds are not."""
    home, env = place
    folder = tmp_path_factory.mktemp("worse")
    out = {"embedder": candidate(env, folder, "embedder", embed={"model": "random"})}
    examples = home / "landing" / "handbook" / "examples"
    rows = [row for file in sorted(examples.glob("*.jsonl")) for row in read_jsonl(file)]
    shutil.rmtree(examples)
    write_jsonl(examples / "refusing.jsonl", [{**row, "completion": REFUSES} for row in rows])
    out["adapter"] = candidate(env, folder, "adapter")
    return out


@pytest.mark.parametrize(
    ("kind", "check", "says"),
    [
        ("embedder", "no loss of retrieval.ndcg@10", "the difference to the champion may be as low as -"),
        ("adapter", "no loss of answers.citation_precision", "the difference to the champion may be as low as -"),
    ],
)
def test_a_worse_candidate_is_rejected_and_says_why(worse, place, kind, check, says):
    said, report = worse[kind]
    assert not report["verdict"]["passed"]
    assert failed(report)[check].startswith(says)
    # The terminal's line of stage judge names the first reason; its table wraps the longer ones.
    assert f"rejected: {next(iter(failed(report).values()))}" in " ".join(said.split())
    assert "REJECTED" in said
    assert len(shown("releases", "handbook", env=place[1])["releases"]) == 2


def test_a_champion_of_another_embedder_is_asked_the_same_questions(worse):
    checks = {check["name"]: check for check in worse["embedder"][1]["verdict"]["checks"]}
    assert checks["no loss of answers.citation_precision"]["n"] == 24


@pytest.fixture(scope="module")
def served(worse, place):
    home, env = place
    done = run("infra.services", "up", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    yield done.stdout
    assert run("infra.services", "down", env=env).returncode == 0
    assert mine(home) == []


def test_a_port_in_use_is_named(served, place, tmp_path):
    done = run("infra.services", "up", env={**place[1], "ASSAY_HOME": str(tmp_path)})
    assert done.returncode == 2
    assert "port 19531 for milvus is in use" in done.stderr


def login(served: str) -> tuple[str, str, str]:
    """(url, user, password) of Airflow."""
    return re.search(r"Airflow\s+(\S+)", served)[1], *re.search(r"login (\S+) / (\S+)", served).groups()


def test_no_import_errors(served, place):
    home, env = place
    assert AirflowApi(*login(served))._call("GET", "/importErrors")["import_errors"] == []
    airflow = Path(sys.executable).parent / "airflow"
    env = {**env, "AIRFLOW_HOME": str(home / "airflow"), "AIRFLOW__CORE__DAGS_FOLDER": str(checkout() / "dags")}
    env["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
    report = subprocess.run([airflow, "dags", "report", "--output", "json"], env=env, capture_output=True, text=True)
    files = json.loads(report.stdout[report.stdout.index("[{") :])
    seconds = [float(row["duration"].split(":")[-1]) for row in files]
    assert len(files) == 5 and sum(seconds) < 1


@pytest.fixture(scope="module")
def page(served):
    if CHROMIUM is None:
        pytest.skip("no Chromium: install Debian's package chromium")
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser.new_page(viewport={"width": 1800, "height": 950})
        browser.close()


def picture(page, name: str) -> None:
    if folder := os.environ.get("ASSAY_PICTURES"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def test_airflow_shows_the_asset_graph(page, served):
    url, user, password = login(served)
    page.goto(url)
    page.fill("input[name=username]", user)
    page.fill("input[name=password]", password)
    page.click("button[type=submit]")
    page.wait_for_url(re.compile(rf"{url}/?$"))
    page.goto(f"{url}/assets")
    page.get_by_text("handbook_release").first.wait_for()
    page.get_by_text("handbook_release").first.click()
    for name in ("handbook_corpus", "handbook_index", "handbook_adapter", "handbook_release"):
        page.get_by_text(name).first.wait_for()
    page.wait_for_timeout(2500)
    picture(page, "airflow-assets")


class Tracking:
    """MLflow's REST API, as a script of a reviewer would use it."""

    def __init__(self, url: str) -> None:
        self.url = url
        name = {"experiment_name": "handbook"}
        found = httpx.get(f"{url}/api/2.0/mlflow/experiments/get-by-name", params=name).json()
        self.experiment = found["experiment"]["experiment_id"]

    def runs(self, where: str) -> list[dict]:
        asked = {"experiment_ids": [self.experiment], "filter": where, "order_by": ["start_time ASC"]}
        return httpx.post(f"{self.url}/api/2.0/mlflow/runs/search", json=asked).json().get("runs", [])


@pytest.fixture(scope="module")
def tracking(served) -> Tracking:
    return Tracking(re.search(r"MLflow\s+(\S+)", served)[1])


def test_mlflow_holds_the_reasons_of_the_rejected(tracking, worse):
    runs = tracking.runs("tags.`assay.verdict` = 'rejected'")
    reasons = [{tag["key"]: tag["value"] for tag in r["data"]["tags"]}["assay.reasons"] for r in runs]
    for _, report in worse.values():
        assert "; ".join(failed(report).values()) in reasons


def test_mlflow_compares_the_candidates(page, tracking):
    scored = [run["info"]["run_id"] for run in tracking.runs("tags.`assay.stage` = 'score_answers'")]
    assert len(scored) == 4  # two revisions, two worse candidates
    query = f"runs={json.dumps(scored)}&experiments={json.dumps([tracking.experiment])}"
    page.goto(f"{tracking.url}/#/compare-runs?{query}")
    page.get_by_text("Comparing 4 Runs").first.wait_for()
    # The table of metrics draws the rows in view and a few more: each time the last of them is brought into view.
    wanted = {"base.token_recall", "both.citation_precision", "both.format_valid", "both.token_recall"}
    page.get_by_text("base.citation_precision", exact=True).last.wait_for()
    seen: set[str] = set()
    for _ in range(12):
        drawn = re.findall(r"^(?:base|both)\.\w+", page.inner_text("body"), re.MULTILINE)
        seen |= set(drawn)
        page.get_by_text(drawn[-1], exact=True).last.scroll_into_view_if_needed()
        page.wait_for_timeout(300)
        if wanted <= seen:
            break
    assert wanted <= seen
    picture(page, "mlflow-comparison")


def test_mlflow_shows_the_model(page, tracking):
    page.goto(f"{tracking.url}/#/models/handbook")
    page.get_by_text("champion").first.wait_for()
    picture(page, "mlflow-model")
    page.goto(f"{tracking.url}/#/models/handbook/versions/2")
    page.get_by_text("replaces generation 1").first.wait_for()
    text = page.inner_text("body")
    for fact in ("contains_answer", "no loss of retrieval.ndcg@10", "r2"):
        assert fact in text
    picture(page, "mlflow-version")
