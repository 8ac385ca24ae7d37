"""Two public task sets in the form that a corpus lands in: documents, questions.jsonl and examples.jsonl in a folder.

`python -m benchmarks.task_corpora FOLDER` writes all three corpora: geography by questions and by queries (text-to-SQL,
Finegan-Dollak et al., "Improving Text-to-SQL Evaluation Methodology", ACL 2018: in the first split a test question may
need a query known from training, in the second none does) and banking77 (Casanueva et al., 2020: 77 intents).

Gold queries are left as they are, and a question whose gold query does not run on the database is left out and counted.
What is trained on is the same query in fewer tokens (no aliases where one table is meant), kept only where it gives
the same result. Documents are the schema, a table each, and for intents a label each with messages of the training
split: nothing of the test is in them.
"""

from __future__ import annotations

import argparse
import json
import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness import run_plainly, shared_data
from pipelines.backends.sqlite_queries import SqliteQueries
from pipelines.core.digests import digest_text
from pipelines.core.sql_results import orders, same_result
from pipelines.schemas import read_jsonl, write_jsonl

Row = dict[str, Any]
CORPORA = ("geography_questions", "geography_queries", "banking77")
SPLITS = {"train": "train", "dev": "validation", "test": "test"}
MESSAGES = 1_920
"""Training messages of banking77, of 10,003: what 120 steps of 16 see once. 200 more are for validation."""
_QUOTED = re.compile(r"(\"[^\"]*\"|'[^']*')")


def lowered(sql: str) -> str:
    """In lower case, quoted values aside; the set's long aliases (`CITYalias0`) as short ones (`city0`)."""
    parts = _QUOTED.split(sql)
    parts[::2] = [re.sub(r"(\w+?)alias(\d+)", r"\1\2", part.lower()) for part in parts[::2]]
    text = "".join(parts).replace("derived_table", "t").replace("derived_field", "f")
    return text.strip().rstrip(";").strip()


def shortened(sql: str) -> str:
    """The query without aliases in each SELECT that has one table and is referred to by no other."""
    import sqlglot
    from sqlglot import exp
    from sqlglot.optimizer.scope import traverse_scope

    tree = sqlglot.parse_one(lowered(sql), dialect="sqlite")
    for scope in traverse_scope(tree):
        if len(scope.selected_sources) != 1:
            continue
        ((name, (node, _)),) = scope.selected_sources.items()
        columns = [column for column in tree.find_all(exp.Column) if column.table == name]
        if all(column.find_ancestor(exp.Select) is scope.expression for column in columns):
            for column in columns:
                column.set("table", None)
            if isinstance(node, exp.Table):
                node.set("alias", None)
    return str(tree.sql(dialect="sqlite"))


def _short_where_equal(sql: str, queries: SqliteQueries) -> str:
    """`shortened`, or the query itself where that does not give the same result."""
    short, wanted = shortened(sql), queries.run(sql)
    found = queries.run(short)
    equal = found.error is None and same_result(wanted.rows, found.rows, ordered=orders(sql))
    return short if equal else sql


def schema_documents(database: Path, *, values: int = 8) -> Iterator[tuple[str, str]]:
    """(file name, Markdown) of every table: columns with types, rows, some values of its text columns."""
    with sqlite3.connect(f"file:{database}?mode=ro&immutable=1", uri=True) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in sorted(tables):
            columns = [(name, kind) for _, name, kind, *_ in connection.execute(f"PRAGMA table_info({table})")]
            (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608  # its own names
            lines = [f"# Table {table}", "", f"{count} rows. Columns:", ""]
            for name, kind in columns:
                query = f"SELECT DISTINCT {name} FROM {table} LIMIT {values}"  # noqa: S608
                shown = ", ".join(str(value) for (value,) in connection.execute(query))
                lines.append(f"- {name} ({kind}): {shown}")
            yield f"{table}.md", "\n".join(lines) + "\n"
    connection.close()


def compact_schema(database: Path) -> str:
    """`table(column, ...)` of every table, in one line: for instructions."""
    with sqlite3.connect(f"file:{database}?mode=ro&immutable=1", uri=True) as connection:
        tables = sorted(name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'"))
        columns = {t: [row[1] for row in connection.execute(f"PRAGMA table_info({t})")] for t in tables}
    connection.close()
    return " ".join(f"{table}({', '.join(names)})" for table, names in columns.items())


def _write(
    folder: Path, documents: Iterable[tuple[str, str]], questions: Iterable[Row], examples: Iterable[Row]
) -> None:
    (folder / "documents").mkdir(parents=True, exist_ok=True)
    for name, text in documents:
        (folder / "documents" / name).write_text(text, encoding="utf-8")
    write_jsonl(folder / "questions.jsonl", questions)
    write_jsonl(folder / "examples.jsonl", examples)


def _question(name: str, text: str, answer: str) -> Row:
    return {"id": name, "question": text, "answers": [answer], "evidence": [], "split": "test"}


def _example(name: str, text: str, answer: str, split: str) -> Row:
    return {"id": name, "prompt": text, "completion": answer, "evidence": [], "split": split}


def geography(folder: Path, split: str) -> Mapping[str, int]:
    """Text-to-SQL by `split` (question_split or query_split); counts of what was written."""
    database = shared_data("finetune/geography.sqlite")
    questions, examples, left_out, empty = [], [], 0, 0
    with SqliteQueries(database) as queries:
        for number, row in enumerate(read_jsonl(shared_data("finetune/text2sql_geography.jsonl"))):
            gold = queries.run(row["sql"])
            if gold.error is not None:
                left_out += 1
            elif SPLITS[row[split]] == "test":
                questions.append(_question(f"g{number:03}", row["question"], row["sql"]))
                empty += not gold.rows
            else:
                short = _short_where_equal(row["sql"], queries)
                examples.append(_example(f"g{number:03}", row["question"], short, SPLITS[row[split]]))
    _write(folder, schema_documents(database), questions, examples)
    return {"test": len(questions), "examples": len(examples), "left_out": left_out, "empty_gold": empty}


def _label(text: str) -> str:
    """A label as words: `reverted_card_payment?` is `reverted card payment`. Fewer tokens, and a model knows them."""
    return " ".join(text.rstrip("?").split("_"))


def _by_label(rows: Iterable[Row], most: int) -> Iterator[Row]:
    """The first `most` rows in the order of a digest, labels by turns, so that none is missing."""
    held: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: digest_text(row["prompt"])):
        held[row["completion"]].append(row)
    turns = [
        row for rank in range(max(map(len, held.values()))) for rows_ in held.values() for row in rows_[rank : rank + 1]
    ]
    return iter(turns[:most])


def banking(folder: Path, *, shown: int = 5) -> Mapping[str, int]:
    """Intents of bank customers' messages; a document per label shows `shown` messages of the training split."""
    read = {part: list(read_jsonl(shared_data(f"finetune/banking77_{part}.jsonl"))) for part in ("train", "test")}
    questions = [_question(f"t{n:04}", row["text"], _label(row["label"])) for n, row in enumerate(read["test"])]
    learned = [_example(f"b{n:05}", row["text"], _label(row["label"]), "train") for n, row in enumerate(read["train"])]
    chosen = list(_by_label(learned, MESSAGES + 200))
    for row in chosen[MESSAGES:]:
        row["split"] = "validation"
    said: dict[str, list[str]] = defaultdict(list)
    for row in chosen[:MESSAGES]:
        if len(said[row["completion"]]) < shown:
            said[row["completion"]].append(f"- {row['prompt'].strip()}")
    documents = [
        (
            f"{label.replace(' ', '-')}.md",
            "\n".join([f"# {label}", "", f"Messages with the intent {label}:", "", *lines]),
        )
        for label, lines in sorted(said.items())
    ]
    _write(folder, documents, questions, chosen)
    return {"test": len(questions), "examples": len(chosen), "labels": len(said)}


def write(folder: Path, name: str) -> Mapping[str, int]:
    """One of `CORPORA` below `folder`; counts of what was written. MissingTool without the data."""
    if name == "banking77":
        return banking(folder / name)
    return geography(folder / name, "question_split" if name == "geography_questions" else "query_split")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    target = parser.parse_args().folder
    for corpus in CORPORA:
        print(json.dumps({"corpus": corpus, **write(target, corpus)}))


if __name__ == "__main__":
    run_plainly(main)
