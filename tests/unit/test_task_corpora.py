"""The converter of the task sets: queries in fewer tokens mean the same, and no label is missing."""

import sqlite3

import pytest

from benchmarks.task_corpora import _by_label, _label, lowered, schema_documents, shortened


@pytest.mark.parametrize(
    ("sql", "short"),
    [
        (
            'SELECT CITYalias0.CITY_NAME FROM CITY AS CITYalias0 WHERE CITYalias0.STATE_NAME = "New York" ;',
            'SELECT city_name FROM city WHERE state_name = "New York"',
        ),
        (  # a subquery that refers to the outer table keeps both names
            "SELECT Aalias0.X FROM A AS Aalias0 WHERE EXISTS (SELECT 1 FROM B AS Balias0 WHERE Balias0.Y = Aalias0.X)",
            "SELECT a0.x FROM a AS a0 WHERE EXISTS(SELECT 1 FROM b WHERE y = a0.x)",
        ),
        (  # two tables keep their names
            "SELECT Aalias0.X FROM A AS Aalias0 , B AS Balias0 WHERE Balias0.Y = Aalias0.X",
            "SELECT a0.x FROM a AS a0, b AS b0 WHERE b0.y = a0.x",
        ),
    ],
)
def test_aliases_go_where_one_table_is_meant(sql, short):
    pytest.importorskip("sqlglot")
    assert shortened(sql).replace(" CROSS JOIN", ",") == short


def test_quoted_values_keep_their_case():
    assert lowered("SELECT Xalias1.A FROM X AS Xalias1 WHERE Xalias1.A = 'Xalias1 B' ;") == (
        "select x1.a from x as x1 where x1.a = 'Xalias1 B'"
    )


def test_labels_take_turns_so_that_none_is_missing():
    rows = [{"prompt": f"p{n}", "completion": "rare" if n == 0 else "common"} for n in range(10)]
    kept = list(_by_label(rows, 4))
    assert len(kept) == 4 and [row["completion"] for row in kept].count("rare") == 1
    assert _label("reverted_card_payment?") == "reverted card payment"


def test_a_table_is_a_document(tmp_path):
    file = tmp_path / "t.sqlite"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE town (name TEXT, people INT)")
        connection.execute("INSERT INTO town VALUES ('Ayr', 3)")
    connection.close()
    assert list(schema_documents(file)) == [
        ("town.md", "# Table town\n\n1 rows. Columns:\n\n- name (TEXT): Ayr\n- people (INT): 3\n")
    ]
