"""Execution accuracy: which results are the same."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.sql_results import orders, same_result, sql_of

values = st.none() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, "a", "b", "1", b"a"])
tables = st.integers(1, 3).flatmap(lambda width: st.lists(st.tuples(*[values] * width), max_size=4))


def brute(gold, said):
    """By definition: some order of the columns makes the rows the same multiset. Types matter, 1 and 1.0 aside."""
    if not gold and not said:
        return True
    if len(gold) != len(said) or len(gold[0]) != len(said[0]):
        return False

    def bag(rows):
        return sorted(
            repr([(isinstance(v, (int, float)), float(v) if isinstance(v, int) else v) for v in r]) for r in rows
        )

    ways = itertools.permutations(range(len(gold[0])))
    return any(bag(gold) == bag([[row[at] for at in way] for row in said]) for way in ways)


@given(tables, tables)
def test_it_is_the_multiset_comparison_over_all_orders_of_columns(gold, said):
    assert same_result(gold, said, ordered=False) == brute(gold, said)


@given(tables, st.randoms(use_true_random=False))
def test_rows_and_columns_may_stand_in_any_order(gold, rng):
    rows = list(gold)
    rng.shuffle(rows)
    way = list(range(len(gold[0]) if gold else 0))
    rng.shuffle(way)
    said = [tuple(row[at] for at in way) for row in rows]
    assert same_result(gold, said, ordered=False)
    assert same_result(gold, gold, ordered=True)


def test_order_counts_only_where_it_is_asked_for():
    gold, said = [("a",), ("b",)], [("b",), ("a",)]
    assert same_result(gold, said, ordered=False) and not same_result(gold, said, ordered=True)
    # Columns may still be swapped.
    assert same_result([(1, "a"), (2, "b")], [("a", 1), ("b", 2)], ordered=True)


@pytest.mark.parametrize(
    ("gold", "said", "same"),
    [
        ([(1,), (1,)], [(1,)], False),  # a multiset, not a set
        ([(0.1 + 0.2,)], [(0.3,)], True),
        ([(1,)], [(1.0,)], True),
        ([(1,)], [("1",)], False),
        ([(None,)], [(0,)], False),
        ([(1000000.0,)], [(1000001.0,)], True),  # a relative 1e-6
        ([(100000.0,)], [(100001.0,)], False),
        ([], [], True),
        ([], [(1,)], False),
        ([("a",)], [("a", 1)], False),
        ([(1, 2), (2, 1)], [(1, 2), (1, 2)], False),
        ([(1, 2), (2, 1)], [(1, 1), (2, 2)], False),  # each column alike, the rows not
        ([(float("inf"), 1)], [(1, float("inf"))], True),
    ],
)
def test_what_is_the_same(gold, said, same):
    assert same_result(gold, said, ordered=False) is same


@pytest.mark.parametrize(
    ("sql", "ordered"),
    [
        ("SELECT a FROM t ORDER BY a", True),
        ("select a from t\norder  by a limit 1", True),
        ("SELECT a FROM (SELECT a FROM t ORDER BY a)", False),
        ("SELECT 'order by' FROM t -- order by a", False),
        ('SELECT "(" FROM t ORDER BY a', True),
        ("SELECT a /* ) order by ( */ FROM t", False),
    ],
)
def test_a_query_orders(sql, ordered):
    assert orders(sql) is ordered


def test_the_sql_of_a_reply():
    assert sql_of(" SELECT 1 ;\n") == "SELECT 1 ;"
    assert sql_of("Here:\n```sql\nSELECT 1\n```\nand\n```\nSELECT 2\n```") == "SELECT 1"
    assert sql_of("```\nSELECT 1") == "SELECT 1"
    assert sql_of("") == ""
