"""Constrained choice: likelihoods of options against the definition of likelihood, one full pass an option."""

import pytest
import yaml

from pipelines.backends.transformers import load_generator
from pipelines.core.prompts import chat
from pipelines.errors import BadInput
from pipelines.likelihood import choose, shared, trees
from tests.adapter_kit import SMOLLM2, tiny_generator
from tests.index_kit import exports

pytestmark = pytest.mark.integration
LABELS = ["card arrival", "card", "card not working", "lost or stolen card", "pin blocked", "Refund not showing up"]
SYSTEM = "Name the customer's intent."
ASKED = ["Where is my card?", "Someone took my wallet and all that was in it, help!", "My PIN is blocked"]


def brute(generator, messages, option):
    """Sum of log-probabilities of the option's tokens and its end marker, by one unbatched pass without a cache."""
    import torch

    tokenizer, model = generator._tokenizer, generator._model
    asked = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(asked, add_special_tokens=False)["input_ids"]
    said = tokenizer(option + "<|im_end|>", add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logits = (
            model(input_ids=torch.tensor([prompt + said])).logits[0].double()
        )  # torch's log_softmax is off by 2e-5 a token in float32
    steps = torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)
    return sum(steps[n, token].item() for n, token in enumerate(said))


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    """The packaged model in float32: in bfloat16 two ways of computing the same differ by more than 1e-4."""
    place = tmp_path_factory.mktemp("exact")
    raw = yaml.safe_load(SMOLLM2.read_text())
    (place / "smollm2.yaml").write_text(yaml.safe_dump({**raw, "precision": "float32"}))
    return load_generator(place / "smollm2.yaml", cache=exports())


def test_scores_are_the_log_likelihoods(smollm2):
    chats = [chat(question, system=SYSTEM) for question in ASKED]
    choices = smollm2.choose(chats, LABELS)
    for messages, choice in zip(chats, choices, strict=True):
        expected = [brute(smollm2, messages, option) for option in LABELS]
        assert choice.scores == pytest.approx(expected, abs=1e-4)
        assert choice.best == max(range(len(LABELS)), key=expected.__getitem__)
        assert choice.tokens_in == smollm2.count(messages) + 4 and choice.tokens_out >= 2 and choice.seconds > 0
    # Alone, in another order, with other options beside: the same.
    alone = smollm2.choose(chats[1:2], LABELS[::-1])
    assert alone[0].scores[::-1] == pytest.approx(choices[1].scores, abs=1e-4)


def test_options_that_do_not_fit_one_pass_are_read_in_several(tmp_path):
    generator = load_generator(tiny_generator(tmp_path / "tiny"), cache=tmp_path / "cache")
    messages = chat("Which?", system="Choose.")
    options = [f"option {n}" for n in range(12)] + ["o", "x", "longer than all nodes of a pass"]
    whole = generator.choose([messages], options)[0]
    assert whole.scores == pytest.approx([brute(generator, messages, option) for option in options], abs=1e-4)
    tokens = [generator._tokenizer(option + "<|im_end|>")["input_ids"] for option in options]
    prompt = generator._tokenizer(generator._render(messages, reply=True))["input_ids"]
    assert len(list(trees(tokens, nodes=10))) > 3
    for choice in choose(generator._model, [prompt, prompt], tokens, nodes=10):
        assert choice.scores == pytest.approx(whole.scores, abs=1e-4)


def test_what_cannot_be_chosen_from_is_refused(tmp_path):
    generator = load_generator(tiny_generator(tmp_path / "tiny"), cache=tmp_path / "cache")
    assert generator.choose([], ["a"]) == []
    for options in ([], ["a", "a"], ["a", " "]):
        with pytest.raises(BadInput, match="distinct texts that are not empty"):
            generator.choose([chat("Which?", system="")], options)


def test_what_options_share_is_read_once(tmp_path):
    """Of 63 options and 3 prompts: each distinct beginning once a prompt, and what the prompts share once in all."""
    generator = load_generator(tiny_generator(tmp_path / "tiny"), cache=tmp_path / "cache")
    options = [f"{a} {b} {c}" for a in "abcdefg" for b in ("card", "pin", "fee") for c in ("late", "lost", "new")]
    chats = [chat(question, system=SYSTEM) for question in ASKED]
    read = []
    generator._model.register_forward_pre_hook(
        lambda _, arguments, named: read.append(named["input_ids"].numel()), with_kwargs=True
    )
    choices = generator.choose(chats, options)
    # A byte is a token. Distinct beginnings: 7 letters; 3 words behind each, with blanks 16 bytes ("card", "pin" and
    # "fee" begin differently); behind each of those 21 " late", " lost" (sharing " l") and " new", 12 bytes.
    nodes = 7 + 7 * (3 + 10 - 2) + 21 * (1 + 4 + 3 + 3)
    prompts = [choice.tokens_in for choice in choices]
    common = shared([generator._tokenizer(generator._render(c, reply=True))["input_ids"] for c in chats])
    assert common > len(SYSTEM)
    assert sum(read) == common + sum(prompt - common + nodes for prompt in prompts)
