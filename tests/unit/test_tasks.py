"""The tasks sql and label: what a corpus of theirs must hold, how replies are scored, what a reply is chosen from."""

import json
import sqlite3
from types import SimpleNamespace

import pytest

from pipelines.answering import replies
from pipelines.backends.objects import ObstoreObjects
from pipelines.errors import BadConfig, BadInput
from pipelines.params import Generate
from pipelines.ports import Choice
from pipelines.scoring import scorer
from pipelines.tasks import labels_of, require_gold
from tests.adapter_kit import params_of


@pytest.fixture
def ports(tmp_path):
    with sqlite3.connect(tmp_path / "towns.sqlite") as connection:
        connection.execute("CREATE TABLE town (name TEXT, people INT)")
        connection.executemany("INSERT INTO town VALUES (?, ?)", [("a", 10), ("b", 20), ("c", 20)])
    connection.close()
    return SimpleNamespace(path=lambda text: tmp_path / text)


def params(task, **generate):
    over = {"task": task, "reply_schema": None, "system": "", **generate}
    return params_of(generate=over)


def asked(*answers, name="q1", **more):
    return {"id": name, "question": "Which?", "answers": list(answers), "evidence": [], **more}


@pytest.mark.parametrize(
    ("reply", "execution", "valid"),
    [
        ("select t.name from town t where people >= 20", 1, 1),
        ("```sql\nSELECT name FROM town WHERE people = 20 ORDER BY name DESC\n```", 1, 1),
        ("SELECT name FROM town", 0, 1),
        ("SELECT name FROM village", 0, 0),
        ("DELETE FROM town", 0, 0),
        ("", 0, 0),
        ("I could not find this.", 0, 0),
    ],
)
def test_a_query_is_scored_by_its_result(ports, reply, execution, valid):
    score = scorer(params("sql", database="towns.sqlite").generate, ports)
    found = score.score(reply, asked("SELECT name FROM town WHERE people > 15"), [])
    assert dict(found.metrics) == {"execution_accuracy": execution, "valid_sql": valid}
    assert set(found.metrics) == set(score.metrics) and found.citations == () and "```" not in found.answer


def test_an_empty_query_is_wrong_where_the_gold_result_is_empty(ports):
    score = scorer(params("sql", database="towns.sqlite").generate, ports)
    gold = asked("SELECT name FROM town WHERE people > 99")
    assert score.score(" ", gold, []).metrics["execution_accuracy"] == 0
    assert score.score("SELECT name FROM town WHERE people < 0", gold, []).metrics["execution_accuracy"] == 1


def test_rows_in_order_where_a_gold_query_orders_and_the_best_of_several_golds(ports):
    score = scorer(params("sql", database="towns.sqlite").generate, ports)
    up, down = "SELECT name FROM town ORDER BY name", "SELECT name FROM town ORDER BY name DESC"
    assert score.score(up, asked(down), []).metrics["execution_accuracy"] == 0
    assert score.score(up, asked(down, up), []).metrics["execution_accuracy"] == 1
    assert score.score(up, asked(), []).metrics == {}


def test_a_corpus_without_its_database_or_with_a_gold_query_that_fails_is_refused(ports):
    with pytest.raises(BadConfig, match=r"generate\.database is '.*none\.sqlite', which does not exist"):
        require_gold(params("sql", database="none.sqlite"), [], [], ports=ports)
    good = params("sql", database="towns.sqlite")
    require_gold(good, [asked("SELECT 1"), asked()], [], ports=ports)
    with pytest.raises(
        BadInput, match="question 'q7': its gold query does not run: invalid: no such table: x"
    ) as error:
        require_gold(good, [asked("SELECT 1"), asked("SELECT * FROM x", name="q7")], [], ports=ports)
    assert "\n" not in str(error.value)
    with pytest.raises(BadInput, match="question 'q7': its gold query does not run: denied"):
        require_gold(good, [asked("DROP TABLE town", name="q7")], [], ports=ports)


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"task": "sql"}, "task sql needs `database`"),
        ({"task": "label", "labels": ["one"]}, "labels are at least two distinct texts"),
        ({"task": "label", "labels": ["a", "a"]}, "labels are at least two distinct texts"),
        ({"task": "label", "reply_schema": "s.json"}, "task label takes no reply_schema"),
        ({"task": "sums"}, "'answer', 'sql' or 'label'"),
    ],
)
def test_params_say_what_a_task_needs(over, message):
    block = params_of().generate.model_dump() | {"reply_schema": None} | over
    with pytest.raises(ValueError, match=message):
        Generate.model_validate(block)


def test_a_label_is_right_or_wrong(ports):
    score = scorer(params("label").generate, ports)
    assert score.score(" Card  Arrival\n", asked("card arrival"), []).metrics == {"label_accuracy": 1.0}
    assert score.score("card", asked("card arrival", "Card"), []).metrics == {"label_accuracy": 1.0}
    assert score.score("card", asked("card arrival"), []).metrics == {"label_accuracy": 0.0}
    assert score.score("card", asked(), []).metrics == {}


def test_labels_are_those_listed_or_those_learned(ports, tmp_path):
    questions = [
        asked("b", name="q1", split="train"),
        asked("a", "c", name="q2", split="validation"),
        asked("d", name="q3", split="test"),
    ]
    examples = [
        {"prompt": "x", "completion": " z ", "split": "train"},
        {"prompt": "y", "completion": "y", "split": "test"},
    ]
    examples.append({"prompt": "w", "completion": "w", "split": "train"})
    assert labels_of(params("answer"), questions, [], ports=ports) is None
    assert labels_of(params("label"), questions, [], ports=ports) == ["a", "b", "c"]  # none of the test
    assert labels_of(params("label"), questions, examples, ports=ports) == ["w", "z"]
    assert labels_of(params("label", labels=["n", "m"]), questions, [], ports=ports) == ["n", "m"]
    (tmp_path / "labels.txt").write_text("n\n\n m \nn\n")
    assert labels_of(params("label", labels="labels.txt"), questions, [], ports=ports) == ["n", "m"]
    with pytest.raises(BadConfig, match=r"generate\.labels is 'no\.txt', which is no file with one label a line"):
        labels_of(params("label", labels="no.txt"), questions, [], ports=ports)
    with pytest.raises(BadConfig, match="give 1 distinct labels; a label is chosen from 2 to 2000"):
        labels_of(params("label"), questions[:1], [], ports=ports)
    with pytest.raises(BadInput, match=r"question 'q3': its label 'd' is none of generate\.labels"):
        require_gold(params("label", labels=["a", "b", "c"]), questions, [], ports=ports)
    require_gold(params("label"), questions, [], ports=ports)


class Chooser:
    """Prefers the option that ends like the question; counts what it was asked."""

    digest = "c" * 64

    def __init__(self):
        self.asked = 0

    def choose(self, chats, options):
        self.asked += len(chats)
        return [Choice(tuple(-1.0 - (o[-1] != c[-1]["content"][-1]) for o in options), 5, 2, 0.1) for c in chats]


def test_a_reply_is_the_likeliest_option_and_is_chosen_once(tmp_path):
    objects, generator = ObstoreObjects(str(tmp_path)), Chooser()
    chats = [[{"role": "user", "content": text}] for text in ("is b", "is a", "is z")]
    how = {"max_new_tokens": 8, "batch": 2}
    made, fresh = replies(objects, generator, chats, options=["aa", "bb"], **how)
    assert [c.text for c in made] == ["bb", "aa", "aa"] and fresh == 3  # of equals the first
    assert replies(objects, generator, chats, options=["aa", "bb"], **how) == (made, 0)
    assert replies(objects, generator, chats, options=["aa", "bb", "cc"], **how)[1] == 3
    assert generator.asked == 6
    kept = [json.loads(objects.get(key)) for key in objects.list("answers/")]
    assert {(row["text"], row["tokens_in"], row["tokens_out"]) for row in kept} == {("aa", 5, 2), ("bb", 5, 2)}
