"""Models that carry code: pickled weights, a .bin, code of their own, modules by name. None of it runs: the payload
would leave a file."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import yaml

from pipelines.backends.openvino import load_embedder
from pipelines.backends.reranker import load_reranker
from pipelines.embedders import read_definition
from pipelines.settings import checkout

pytestmark = pytest.mark.integration


class Payload:
    def __init__(self, canary: Path) -> None:
        self.canary = str(canary)

    def __reduce__(self):
        return (exec, (f"open({self.canary!r}, 'w').write('ran')",))


def armed(folder: Path, canary: Path, *, weights: bool, code: bool) -> Path:
    """A copy of the packaged embedder with pickled weights in place of its own, or with code of its own beside them."""
    source = read_definition(checkout() / "models" / "embedders" / "minilm.yaml").folder
    shutil.copytree(source, folder)
    if weights:
        for file in folder.glob("*.safetensors"):
            file.unlink()
        for name in ("pytorch_model.bin", "model.pkl", "training_args.bin"):
            (folder / name).write_bytes(pickle.dumps(Payload(canary)))
    if code:
        run = f"open({str(canary)!r}, 'w').write('ran')\nclass Own: pass\n"
        (folder / "own.py").write_text(run)
        config = json.loads((folder / "config.json").read_text())
        names = ("AutoModel", "AutoConfig", "AutoModelForSequenceClassification", "AutoModelForCausalLM")
        config["auto_map"] = dict.fromkeys(names, "own.Own")
        (folder / "config.json").write_text(json.dumps({**config, "id2label": {"0": "x"}}))
        modules = json.loads((folder / "modules.json").read_text())
        modules.append({"idx": len(modules), "name": str(len(modules)), "path": "", "type": "own.Own"})
        (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def test_the_payload_would_run_if_it_were_unpickled(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "canary")))  # noqa: S301 -- our own payload, to see that it bites
    assert (tmp_path / "canary").read_text() == "ran"


@pytest.mark.parametrize(("weights", "code"), [(True, False), (False, True)], ids=["pickled weights", "own code"])
@pytest.mark.parametrize("load", [load_embedder, load_reranker], ids=["embedder", "reranker"])
def test_nothing_that_a_model_brings_runs(tmp_path, weights, code, load):
    canary = tmp_path / "canary"
    folder = armed(tmp_path / "model", canary, weights=weights, code=code)
    definition = tmp_path / "mine.yaml"
    definition.write_text(yaml.safe_dump({"path": str(folder), "window": 128}))
    try:
        if load is load_embedder:
            load_embedder(definition, cache=tmp_path / "cache").embed_batch(["a text"])
        else:
            load_reranker(definition, cache=tmp_path / "cache", home=tmp_path).score("a", ["b"])
    except Exception as exc:
        print(f"refused: {type(exc).__name__}: {exc}")
    assert not canary.exists()
