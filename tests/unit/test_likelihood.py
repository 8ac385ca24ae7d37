"""Completions as prefix trees: every step of every completion is there once, behind its own beginning."""

from hypothesis import given
from hypothesis import strategies as st

from pipelines.likelihood import grow, shared, trees

completions = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=12)


def beginning(tree, node):
    """The tokens from the prompt to a node."""
    out = []
    while node >= 0:
        out.insert(0, tree.tokens[node])
        node = tree.parents[node]
    return out


def test_what_is_shared_is_there_once():
    tree = grow([[1, 2, 9], [1, 3, 9], [1, 9]], range(3))
    # Nodes: 1, 1-2, 1-3; the end marker 9 is predicted and never read.
    assert (tree.tokens, tree.parents) == ((1, 2, 3), (-1, 0, 0))
    assert tree.paths == (((0, 1), (1, 2), (2, 9)), ((0, 1), (1, 3), (3, 9)), ((0, 1), (1, 9)))
    assert tree.depths == [0, 1, 1]
    assert tree.sees.tolist() == [[True, False, False], [True, True, False], [True, False, True]]


@given(completions, st.integers(1, 12))
def test_every_completion_is_the_path_that_it_takes(drawn, nodes):
    found = list(trees(drawn, nodes=nodes))
    assert sorted(member for tree in found for member in tree.members) == list(range(len(drawn)))
    for tree in found:
        assert len(tree.tokens) <= nodes or len(tree.members) == 1
        begun = [tuple(beginning(tree, node)) for node in range(len(tree.tokens))]
        assert len(set(begun)) == len(begun)
        for node, parent in enumerate(tree.parents):
            assert parent < node
            seen = [other for other in range(len(begun)) if tree.sees[node, other]]
            assert [begun[other] for other in seen] == [begun[node][:n] for n in range(1, len(begun[node]) + 1)]
        for member, path in zip(tree.members, tree.paths, strict=True):
            assert [token for _, token in path] == drawn[member]
            assert [beginning(tree, state - 1) for state, _ in path] == [drawn[member][:n] for n in range(len(path))]


def test_prompts_share_their_beginning_and_keep_a_token():
    assert shared([[1, 2, 3], [1, 2, 4, 5]]) == 2
    assert shared([[1, 2], [1, 2, 3]]) == 1
    assert shared([[1, 2, 3]]) == 2
    assert shared([[1], [2]]) == 0
