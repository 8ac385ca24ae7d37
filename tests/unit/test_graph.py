"""dvc.yaml, the stage modules, params and the rendered workspace agree."""

import importlib.util
from pathlib import Path

import pytest
import yaml

from pipelines import graph
from pipelines.errors import BadConfig
from pipelines.params import CorpusParams
from pipelines.settings import checkout

NODES = graph.load()


@pytest.mark.parametrize("node", NODES.values(), ids=list(NODES))
def test_each_node_has_its_module_and_its_code_exists(node):
    home = "actions" if node.action else "stages"
    assert importlib.util.find_spec(f"pipelines.{home}.{node.name}") is not None
    if not node.action:
        assert f"pipelines/stages/{node.name}.py" in node.code
    for module in node.code:
        assert (checkout() / module).is_file(), module


def test_every_stage_module_is_in_the_graph():
    modules = {path.stem for path in (checkout() / "pipelines" / "stages").glob("[a-z]*.py")}
    assert modules == {node.name for node in NODES.values() if not node.action}


def test_params_of_stages_are_sections_of_the_model():
    stages = yaml.safe_load((checkout() / "dvc.yaml").read_text())["stages"]
    used = {name for stage in stages.values() for name in stage.get("params", [])}
    assert {name.split(".")[0] for name in used} <= set(CorpusParams.model_fields)


def test_edges_follow_files():
    # chunk reads corpus/documents.parquet, which lies in snapshot's out `corpus`.
    assert NODES["chunk"].upstream == ("snapshot",)
    assert set(NODES["judge"].upstream) == {"index", "train", "score_retrieval", "score_answers"}


def test_rendered_pipeline_has_no_actions_and_is_stale_with_its_code():
    stages = yaml.safe_load(graph.render())["stages"]
    assert set(stages) == {node.name for node in NODES.values() if not node.action}
    assert all({"code.yaml": [name]} in stage["params"] for name, stage in stages.items())


def test_documents_make_mix_stale_only_where_it_reads_them():
    def deps(mix):
        return yaml.safe_load(graph.render({"mix": mix}))["stages"]["mix"]["deps"]

    assert "corpus/documents.parquet" not in deps({"synthetic": None}) + deps({})
    assert "corpus/documents.parquet" in deps({"synthetic": {"per_document": 1, "max_documents": 1}})
    assert "corpus/examples.jsonl" in deps({"synthetic": None})


def test_code_digest_ignores_comments_and_docstrings_only(tmp_path: Path):
    node = graph.Node("s", "", "index", False, None, (), (), (), ("m.py",))
    digests = []
    for text in ('"""Doc."""\nx = 1\n', '"""Other."""\n# why\nx = 1\n', '"""Doc."""\nx = 2\n'):
        (tmp_path / "m.py").write_text(text)
        digests.append(graph.code_digest(node, tmp_path))
    assert digests[0] == digests[1] != digests[2]


def test_a_dangling_dependency_is_named(tmp_path: Path):
    file = tmp_path / "dvc.yaml"
    file.write_text("stages:\n  a:\n    desc: d\n    cmd: c\n    deps: [nowhere.json]\n    meta: {dag: index}\n")
    with pytest.raises(BadConfig, match=r"stage a: no earlier stage makes nowhere\.json"):
        graph.load(file)
