"""What the adapter's tests share: a workspace, ports with real backends, and models small enough to wait for."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipelines.params import CorpusParams, corpus_block, read_raw
from pipelines.schemas import write_jsonl
from pipelines.settings import Settings, checkout
from pipelines.wiring import Wiring
from pipelines.workspace import Workspace

HANDBOOK = checkout() / "tests" / "fixtures" / "handbook"
SMOLLM2 = checkout() / "models" / "generators" / "smollm2.yaml"


def params_of(corpus: str = "handbook", **over: Mapping[str, Any]) -> CorpusParams:
    """The corpus's params with sections overridden key by key."""
    raw = read_raw(checkout() / "params.yaml")
    block = corpus_block(raw, corpus)
    for section, values in over.items():
        block[section] = {**block[section], **values}
    return CorpusParams.model_validate(block)


def handbook(kind: str, revision: str = "2026-01-12") -> list[dict[str, Any]]:
    """Questions or examples of one revision's folder."""
    files = sorted((HANDBOOK / revision / kind).glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines() if line.strip()]


def workspace_with(
    home: Path, *, questions: Iterable[Mapping[str, Any]] = (), examples: Iterable[Mapping[str, Any]] = ()
) -> Workspace:
    """A workspace below `home` that holds a versioned corpus's questions and examples."""
    workspace = Workspace(home / "workspaces" / "handbook", "handbook")
    write_jsonl(workspace.versioned / "questions.jsonl", questions)
    write_jsonl(workspace.versioned / "examples.jsonl", examples)
    return workspace


class OwnGenerator(Wiring):
    """The real wiring, with the generator of a definition file of the test's own."""

    definition: Path = SMOLLM2

    def generator(self, adapter: Path | None = None) -> Any:
        from pipelines.backends.transformers import load_generator

        return load_generator(
            self.definition, cache=self.settings.cache, adapter=adapter, batch=self.params.answer.batch
        )

    def base_generator(self) -> Any:
        return self.generator()


def wiring(home: Path, params: CorpusParams, definition: Path = SMOLLM2) -> OwnGenerator:
    """Ports with real backends below `home`."""
    made = OwnGenerator(Settings(home, checkout() / "params.yaml", "local[1]"), "handbook", params)
    made.definition = definition
    return made


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tiny_generator(folder: Path) -> Path:
    """A definition of a random two-layer Llama whose tokens are bytes; returns its file, beside `folder`.

    It says nothing sensible, but it is trained, saved, merged and asked by the same code, in seconds.
    """
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.models.llama import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(letters)}, merges=[]))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokens.decoder = decoders.ByteLevel()
    tokens.add_special_tokens([AddedToken(text, special=True) for text in ("<|im_start|>", "<|im_end|>")])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = CHATML
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    definition = folder.with_suffix(".yaml")
    definition.write_text(yaml.safe_dump({"path": str(folder), "precision": "float32"}))
    return definition


def shuffled_answers(examples: Iterable[Mapping[str, Any]], *, seed: int = 7) -> list[dict[str, Any]]:
    """The examples with their completions dealt out anew, none kept where it was: what a worse adapter is trained on.

    Every completion is still well formed; only what it answers is wrong. A list of one stays as it is.
    """
    rows = list(examples)
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    dealt = dict(zip(order, order[1:] + order[:1], strict=True))
    return [{**row, "completion": rows[dealt[place]]["completion"]} for place, row in enumerate(rows)]
