"""dvc.yaml -> nodes and edges; and the rendering of it into a corpus's workspace. Light: DAG files import it."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from pipelines.errors import BadConfig
from pipelines.settings import checkout

DAGS = ("corpus", "index", "adapter", "release")


@dataclass(frozen=True)
class Node:
    """One stage or action of dvc.yaml. `upstream` are the nodes whose outs it reads."""

    name: str
    description: str
    dag: str
    action: bool
    asset: str | None
    upstream: tuple[str, ...]
    deps: tuple[str, ...]
    outs: tuple[str, ...]
    code: tuple[str, ...]


def _paths(entries: list[Any] | None) -> tuple[str, ...]:
    """DVC's entries are a path, or a one-key mapping of path to options."""
    return tuple(next(iter(e)) if isinstance(e, Mapping) else str(e) for e in entries or [])


def _covers(out: str, dep: str) -> bool:
    return dep == out or dep.startswith(out.rstrip("/") + "/")


@lru_cache
def load(file: Path | None = None) -> dict[str, Node]:
    """All nodes in topological order (the order of dvc.yaml, checked). BadConfig on a dangling or backward edge."""
    file = file or checkout() / "dvc.yaml"
    stages = yaml.safe_load(file.read_text(encoding="utf-8"))["stages"]
    nodes: dict[str, Node] = {}
    for name, stage in stages.items():
        meta = stage.get("meta", {})
        deps = _paths(stage.get("deps"))
        upstream = tuple(
            dict.fromkeys(
                other for dep in deps for other, node in nodes.items() if any(_covers(o, dep) for o in node.outs)
            )
        )
        if meta.get("dag") not in DAGS:
            raise BadConfig(f"dvc.yaml: stage {name}: meta.dag is {meta.get('dag')!r}; one of {', '.join(DAGS)}")
        produced = {out for node in nodes.values() for out in node.outs} | {"champion.json"}
        for dep in deps:
            if not any(_covers(out, dep) for out in produced):
                raise BadConfig(f"dvc.yaml: stage {name}: no earlier stage makes {dep}")
        nodes[name] = Node(
            name=name,
            description=stage["desc"],
            dag=meta["dag"],
            action=meta.get("kind") == "action",
            asset=meta.get("asset"),
            upstream=upstream,
            deps=deps,
            outs=_paths(stage.get("outs")),
            code=tuple(meta.get("code", ())),
        )
    return nodes


def _without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            body[:] = body[1:] or [ast.Pass()]
    return tree


def code_digest(node: Node, root: Path) -> str:
    """16 hex digits over the syntax trees of the node's modules: comments and docstrings do not count."""
    h = hashlib.sha256()
    for module in node.code:
        tree = _without_docstrings(ast.parse((root / module).read_text(encoding="utf-8")))
        h.update(ast.dump(tree).encode())
    return h.hexdigest()[:16]


def _at(params: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key; None where there is none."""
    value: Any = params
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def render(params: Mapping[str, Any] | None = None, file: Path | None = None) -> str:
    """dvc.yaml as a workspace with these params holds it: the stages without the actions, stale also when their code
    changes, and not by a dependency of `meta.only_with` whose param is not set."""
    file = file or checkout() / "dvc.yaml"
    stages = yaml.safe_load(file.read_text(encoding="utf-8"))["stages"]
    out = {}
    for name, stage in stages.items():
        meta = stage.get("meta", {})
        if meta.get("kind") == "action":
            continue
        kept = {key: value for key, value in stage.items() if key != "meta"}
        idle = {dep for dep, key in meta.get("only_with", {}).items() if not _at(params or {}, key)}
        if idle:
            kept["deps"] = [dep for dep in kept["deps"] if dep not in idle]
        out[name] = {**kept, "params": [*stage.get("params", []), {"code.yaml": [name]}]}
    return yaml.safe_dump({"stages": out}, sort_keys=False, width=120)


def render_code(root: Path | None = None) -> str:
    """code.yaml of a workspace: one digest per stage."""
    root = root or checkout()
    # An installed wheel keeps the modules beside this file, not below the checkout.
    base = root if (root / "pipelines").is_dir() else Path(__file__).resolve().parent.parent
    return yaml.safe_dump({node.name: code_digest(node, base) for node in load().values() if not node.action})


def mermaid() -> str:
    """The graph as a Mermaid flowchart: a box per DAG, round boxes for actions, arrows where files flow."""
    nodes = load()
    lines = ["flowchart LR"]
    for dag in DAGS:
        lines.append(f'  subgraph dag_{dag}["NAME_{dag}"]')
        for node in (node for node in nodes.values() if node.dag == dag):
            shape = f'{node.name}(["{node.name}"])' if node.action else f'{node.name}["{node.name}"]'
            lines.append(f"    {shape}")
        lines.append("  end")
    lines += [f"  {other} --> {node.name}" for node in nodes.values() for other in node.upstream]
    return "\n".join(lines)
