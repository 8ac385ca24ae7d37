"""Instructions and few-shot examples: where they come from, that they fit, that they never hold a test question."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.long_prompt import LongPrompt, candidates, draw, instructions, turns
from pipelines.core.splits import TEST, TRAIN, split_of
from pipelines.few_shot import long_prompt, shots_source
from pipelines.schemas import write_jsonl
from tests.adapter_kit import handbook, params_of, wiring, workspace_with

SPLIT = {"validation": 0.1, "test": 0.4, "seed": 7}


def example(number, **more):
    return {"id": f"e{number}", "prompt": f"prompt {number}", "completion": f"reply {number}", "evidence": [], **more}


def words(chat):
    return sum(len(turn["content"].split()) for turn in chat)


def test_instructions_spell_out_what_the_params_say():
    said = instructions(" Be brief. ", schema='{"type": "object"}', refusal="Not found.")
    assert said.splitlines() == [
        "Be brief.",
        'Reply with one JSON object and nothing else. It must obey this JSON schema: {"type": "object"}',
        "If you do not know the answer, the answer is: Not found.",
    ]
    assert instructions("Be brief.", schema=None, refusal=" ") == "Be brief."


def test_an_example_becomes_turns_of_the_form_that_is_asked():
    asked = [{"role": "user", "content": "Question: prompt 1"}, {"role": "assistant", "content": "reply 1"}]
    assert turns(example(1)) == asked
    chat = [{"role": "system", "content": "s"}, *asked, *asked]
    assert turns({"id": "m", "messages": chat}) == [*asked, *asked]
    assert turns({"id": "m", "messages": [asked[0], asked[0], asked[1]]}) == []
    assert turns({"id": "m", "messages": [{"role": "tool", "content": "x"}, asked[1]]}) == []


def test_candidates_are_of_the_training_split_and_no_test_question():
    rows = [example(n) for n in range(60)]
    rows.append({**rows[0], "id": "again"})
    found = candidates(rows, ["Prompt 3!", "prompt 5"], split=SPLIT)
    assert all(split_of(e, **SPLIT) == TRAIN for e in found)
    prompts = [e["prompt"] for e in found]
    assert len(prompts) == len(set(prompts)) > 10
    assert not {"prompt 3", "prompt 5"} & set(prompts)
    # In an order that does not depend on that of the file, and that one more example leaves as it is.
    more = candidates([example(99), *rows[::-1]], ["prompt 3", "prompt 5"], split=SPLIT)
    assert [e["id"] for e in more if e["id"] != "e99"] == [e["id"] for e in found]


@given(st.lists(st.integers(1, 30), max_size=12), st.integers(0, 4), st.integers(1, 60))
def test_what_is_drawn_fits_or_is_left_out(sizes, shots, most):
    found = [example(n, prompt="w " * size) for n, size in enumerate(sizes)]
    made = draw("s", found, shots=shots, most=most, count=words, source="x")
    assert len(made.shots) <= 2 * shots
    assert not made.shots or words([{"content": "s"}, *made.shots]) <= most
    assert [turn["role"] for turn in made.shots] == ["user", "assistant"] * (len(made.shots) // 2)
    assert draw("s", found, shots=shots, most=most, count=words, source="x") == made


def test_an_example_too_long_makes_room_for_the_next():
    found = [example(0, prompt="w " * 99), example(1), example(2), example(3)]
    made = draw("s", found, shots=2, most=20, count=words, source="x")
    assert [turn["content"] for turn in made.shots if turn["role"] == "assistant"] == ["reply 1", "reply 2"]


def test_it_is_carried_as_json_and_known_by_what_the_model_is_shown():
    made = LongPrompt("s", ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}), "source")
    kept = json.loads(json.dumps(made.to_json()))
    assert LongPrompt.of(kept) == made
    assert LongPrompt(made.system, made.shots, "other").digest == made.digest
    with pytest.raises(ValueError, match="instructions and examples are"):
        LongPrompt.of({**kept, "system": "t"})


class Words:
    """A generator that counts words."""

    count = staticmethod(words)


def drawn(tmp_path, params, questions, examples):
    workspace = workspace_with(tmp_path, questions=questions, examples=examples)
    made = long_prompt(params, workspace, Words(), questions=questions, ports=wiring(tmp_path, params))
    return made, workspace


def test_the_handbooks_shots_obey_the_house_style_and_its_instructions_show_the_schema(tmp_path):
    made, workspace = drawn(tmp_path, params_of(), handbook("questions"), handbook("examples"))
    assert len(made.shots) == 8
    replies = [json.loads(turn["content"]) for turn in made.shots if turn["role"] == "assistant"]
    assert all(set(reply) == {"answer", "citations", "tone", "next_step"} for reply in replies)
    assert all(turn["content"].startswith("Question: ") for turn in made.shots if turn["role"] == "user")
    assert '"next_step": {"type": "string"' in made.system and "$schema" not in made.system
    assert made.source == shots_source(workspace)
    write_jsonl(workspace.versioned / "examples.jsonl", handbook("examples")[1:])
    assert made.source != shots_source(workspace)


def test_what_training_refused_is_not_shown(tmp_path):
    params = params_of(generate={"prompt": {"shots": 3}})
    workspace = workspace_with(tmp_path, examples=handbook("examples"))
    how = {"questions": [], "ports": wiring(tmp_path, params)}
    free = long_prompt(params, workspace, Words(), **how)
    shown = {turn["content"] for turn in free.shots[::2]}
    admitted = [e for e in handbook("examples") if f"Question: {e['prompt'].strip()}" not in shown]
    write_jsonl(workspace.training / "train.jsonl", [{"id": e["id"]} for e in admitted])
    other = long_prompt(params, workspace, Words(), **how)
    assert len(other.shots) == 6 and not shown & {turn["content"] for turn in other.shots[::2]}


def test_without_examples_gold_questions_of_the_training_split_are_shown(tmp_path):
    plain = {"reply_schema": None, "prompt": {"instructions": "Say it.", "shots": 3}}
    params, questions = params_of(generate=plain), handbook("questions")
    made, _ = drawn(tmp_path, params, questions, [])
    assert made.system == "Say it." and len(made.shots) == 6
    by_text = {f"Question: {q['question']}": q for q in questions}
    for asked, said in zip(made.shots[::2], made.shots[1::2], strict=True):
        question = by_text[asked["content"]]
        assert split_of(question, **params.split.model_dump()) == TRAIN != TEST
        assert said["content"] == (question["answers"] or [params.generate.refusal])[0]


def test_a_corpus_without_either_has_instructions_alone(tmp_path):
    made, _ = drawn(tmp_path, params_of(), [], [])
    assert made.shots == () and made.system
