"""SQL of a model against a real file: it reads, it comes back in time, and the file stays as it was."""

import hashlib
import sqlite3
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.backends.sqlite_queries import LONGEST, SqliteQueries
from pipelines.core.sql_results import ERRORS
from pipelines.errors import BadConfig

SECONDS = 0.1
WALL = 5 * SECONDS + 1 + 1  # its own bound, and a second in which a busy machine ends a process and starts the next


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    made = tmp_path_factory.mktemp("db") / "towns & ?.sqlite"
    with sqlite3.connect(made) as connection:
        connection.execute("CREATE TABLE town (name TEXT, people INT)")
        rows = [(f"town{n}", n * 1000) for n in range(300)]
        connection.executemany("INSERT INTO town VALUES (?, ?)", rows)
    connection.close()
    return made


@pytest.fixture(scope="module")
def queries(file):
    with SqliteQueries(file, seconds=SECONDS) as open_queries:
        yield open_queries


def state(file):
    """The file's bytes, and what stands beside it."""
    return hashlib.sha256(file.read_bytes()).hexdigest(), sorted(file.parent.iterdir())


DOUBLING = ", ".join(f"a{n} AS (SELECT p.x FROM a{n - 1} p, a{n - 1} q)" for n in range(1, 40))  # noqa: S608  # that is the test
HOSTILE = {
    "ATTACH '{beside}' AS other": "denied",
    "ATTACH DATABASE 'file:{beside}?mode=rwc' AS other": "denied",
    "VACUUM INTO '{beside}'": "denied",
    "VACUUM": "denied",
    "PRAGMA query_only = 0": "denied",
    "PRAGMA writable_schema = 1": "denied",
    "SELECT * FROM pragma_database_list": "denied",
    "SELECT load_extension('{beside}')": "denied",
    "INSERT INTO town VALUES ('x', 1)": "denied",
    "WITH t AS (SELECT 1) DELETE FROM town": "denied",
    "UPDATE town SET people = 0": "denied",
    "DROP TABLE town": "denied",
    "CREATE TABLE t AS SELECT * FROM town": "denied",
    "CREATE TEMP TABLE t (a)": "denied",
    "BEGIN IMMEDIATE": "denied",
    "SELECT 1; DROP TABLE town": "several",
    "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t) SELECT sum(x) FROM t": "time",
    "SELECT count(*) FROM town a, town b, town c, town d": "time",
    "SELECT * FROM town a, town b": "size",
    "SELECT randomblob(900000) FROM town": "size",
    "WITH RECURSIVE t(x) AS (SELECT 'a' UNION ALL SELECT x || x FROM t) SELECT length(x) FROM t": "size",
    "SELECT zeroblob(2000000000)": "size",
    "": "empty",
    " ;": "empty",
    "-- only a comment": "empty",
    "/* never closed": "empty",
    "Sure! Here is the query:": "invalid",
    "SELECT no_such FROM town": "invalid",
    "SELECT '\x00'": "invalid",
    "SELECT '\ud800'": "invalid",
    "SELECT " + "(" * 900 + "1" + ")" * 900: "invalid",
    "SELECT 1" + " UNION SELECT 1" * 300: "invalid",
    "SELECT 'a" + "a" * LONGEST: "invalid",
}


@pytest.mark.parametrize("sql", HOSTILE, ids=lambda sql: sql[:40].encode("unicode_escape").decode())
def test_a_hostile_query_is_refused_and_leaves_no_trace(sql, queries, file):
    before = state(file)
    began = time.monotonic()
    result = queries.run(sql.replace("{beside}", str(file.parent / "other.sqlite")))
    assert time.monotonic() - began < WALL
    assert (result.error, result.rows) == (HOSTILE[sql], ()) and result.detail
    assert state(file) == before
    assert queries.run("SELECT count(*) FROM town").rows == ((300,),)


def test_a_statement_that_doubles_while_it_is_parsed_ends(queries):
    result = queries.run(f"WITH a0 AS (SELECT 1 AS x UNION ALL SELECT 2), {DOUBLING} SELECT count(*) FROM a39")  # noqa: S608
    assert result.error in ("memory", "time") and not result.rows
    assert queries.run("SELECT 1").rows == ((1,),)


def test_one_instruction_that_takes_too_long_counts_as_time(queries):
    long = "replace(hex(zeroblob(300000)), '0', 'a')"
    result = queries.run(f"SELECT instr({long}, substr({long}, 1, 300000) || 'b')")
    assert result.error == "time"
    assert queries.run("SELECT 1").rows == ((1,),)


def test_a_dead_process_is_replaced(queries):
    queries.run("SELECT 1")
    queries._worker.kill()
    assert queries.run("SELECT 2").error == "memory"
    assert queries.run("SELECT 2").rows == ((2,),)


WORDS = """SELECT * FROM town WHERE name people ( ) , ; ' " -- /* */ UNION ALL WITH RECURSIVE t AS INSERT INTO DELETE
DROP TABLE ATTACH PRAGMA VACUUM 'x' 1 1e999 x'00' NULL COUNT(*) GROUP BY ORDER LIMIT IN EXISTS LIKE '%' JOIN ON = <"""
words = st.sampled_from(WORDS.split())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(words, max_size=20).map(" ".join) | st.text(max_size=80))
def test_any_text_is_answered_and_changes_nothing(queries, file, sql):
    before = state(file)
    began = time.monotonic()
    result = queries.run(sql)
    assert time.monotonic() - began < WALL
    assert result.error is None or (result.error in ERRORS and not result.rows)
    assert state(file) == before


def test_values_come_back_as_they_are(queries):
    result = queries.run("SELECT 1, 2.5, NULL, 'é', x'00ff', 9e999, -9223372036854775808;  -- done")
    assert result.error is None
    assert result.rows == ((1, 2.5, None, "é", b"\x00\xff", float("inf"), -(2**63)),)


def test_what_is_no_database_is_named(tmp_path):
    with pytest.raises(BadConfig, match=r"generate\.database is '.*none\.sqlite', which does not exist"):
        SqliteQueries(tmp_path / "none.sqlite")
    text = tmp_path / "text.sqlite"
    text.write_text("town, people\n" * 100)
    with pytest.raises(BadConfig, match="which is no SQLite database: file is not a database"):
        SqliteQueries(text)
    (tmp_path / "empty.sqlite").touch()
    with pytest.raises(BadConfig, match="it holds no table") as error:
        SqliteQueries(tmp_path / "empty.sqlite")
    assert "\n" not in str(error.value)
