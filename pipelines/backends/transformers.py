"""Generation with a causal language model through transformers, behind `ports.Generator`.

A model comes from a definition in models/generators. A GGUF file is converted once to bfloat16 safetensors, with its
tokenizer, below the cache; weights are only ever read from safetensors, and no model's own code is run. A LoRA
adapter is merged into the weights before anything is generated. Importing transformers' models costs 10 CPU-seconds:
the tokenizer alone (trimming, counting) needs 2, the digests none. It does not train, and knows no prompts.

The module bears its vendor's name; imports in this package are absolute, so the two never meet.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import time
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pipelines.core.digests import digest_json
from pipelines.definitions import arithmetic, sha256_file
from pipelines.errors import BackendError, BadInput, IntegrityError
from pipelines.generator_files import Definition, read_definition
from pipelines.locks import exclusive
from pipelines.ports import Choice, Completion, Messages

_CONVERSION = "1"  # part of the cache's key: raise it when `_convert` writes something else
_DECODING = "2"  # part of the generator's digest: raise it when `_generate` would reply otherwise
_SHARED = 64
"""Least number of tokens that prompts of a batch must begin with in common to be read once for all of them."""
_SEAL = "sealed.json"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
_CONFIG = ("config.json", "generation_config.json")


def _quiet() -> None:
    """No progress bars and hints on the terminal: stages print their own progress."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def _model_class(folder: Path) -> Any:
    """Llama's own class where the model is one: it spares the 5 CPU-seconds that the Auto classes import."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("architectures") == ["LlamaForCausalLM"]:
        from transformers.models.llama.modeling_llama import LlamaForCausalLM

        return LlamaForCausalLM
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM


def _convert(model: Path, destination: Path) -> None:
    """A GGUF file as a folder of bfloat16 safetensors, configuration and tokenizer.

    A model loaded from GGUF refuses `save_pretrained`; its state in a fresh model of the same configuration saves.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _quiet()
    source = {"pretrained_model_name_or_path": str(model.parent), "gguf_file": model.name}
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that no switch turns off
        loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = loaded.config
    config.__dict__.pop("quantization_config", None)
    config.__dict__.pop("_name_or_path", None)
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    fresh.load_state_dict(loaded.state_dict(), strict=True)
    fresh.generation_config = loaded.generation_config
    fresh.save_pretrained(str(destination))
    AutoTokenizer.from_pretrained(**source).save_pretrained(str(destination))


def _converted(definition: Definition, cache: Path) -> Path:
    """The definition's model as a sealed folder below the cache; made on first use, by one process."""
    if definition.folder is not None:
        return definition.folder
    assert definition.model is not None  # one of the two is set: read_definition
    key = digest_json([sha256_file(definition.model), _CONVERSION])[:32]
    folder = cache / "generators" / key
    if (folder / _SEAL).is_file():
        return folder
    with exclusive(cache / "generators" / f"{key}.lock", patience=900, what=f"conversion of {definition.name}"):
        if (folder / _SEAL).is_file():
            return folder
        unfinished = folder.with_name(f".{key}.tmp")
        for stale in (unfinished, folder):  # left by a process that was killed
            shutil.rmtree(stale, ignore_errors=True)
        try:
            unfinished.mkdir(parents=True)
            _convert(definition.model, unfinished)
            files = {file.name: sha256_file(file) for file in sorted(unfinished.iterdir())}
            (unfinished / _SEAL).write_text(json.dumps(files, indent=1) + "\n", encoding="utf-8")
            unfinished.rename(folder)
        except OSError as exc:
            raise BackendError(f"generator {definition.name}: cannot write {folder}: {exc.strerror or exc}") from exc
        except (ValueError, KeyError, RuntimeError) as exc:
            raise BadInput(f"generator {definition.name}: {definition.model.name} is not usable: {exc}") from exc
    return folder


def _file_digests(folder: Path) -> dict[str, str]:
    """sha256 of weights, configuration and tokenizer as they are on disk.

    IntegrityError when a converted folder is no longer what was sealed.
    """
    names = {*_TOKENIZER, *_CONFIG, *(file.name for file in folder.glob("*.safetensors*"))}
    found = {name: sha256_file(folder / name) for name in sorted(names) if (folder / name).is_file()}
    seal = folder / _SEAL
    if seal.is_file():
        sealed = json.loads(seal.read_text(encoding="utf-8"))
        if wrong := sorted(name for name in {*sealed, *found} if sealed.get(name) != found.get(name)):
            raise IntegrityError(f"{wrong[0]} in {folder} is not what was converted; remove that folder and run again")
    return found


class TransformersGenerator:
    """A `ports.Generator`. Nothing heavy is imported or loaded before the first call that needs it.

    `digest` covers the base's files, the adapter, precision and way of decoding; `base_digest` the base's files;
    `folder` is the base as a transformers folder, which training starts from.
    """

    def __init__(self, definition: Definition, *, cache: Path, adapter: Path | None, batch: int) -> None:
        self._definition = definition
        self._cache = cache
        self._adapter = adapter
        self._batch = batch
        self.name, self.licence = definition.name, definition.licence

    @cached_property
    def folder(self) -> Path:
        return _converted(self._definition, self._cache)

    @cached_property
    def _files(self) -> dict[str, str]:
        return _file_digests(self.folder)

    @cached_property
    def base_digest(self) -> str:
        return digest_json(self._files)

    @cached_property
    def tokenizer_digest(self) -> str:
        return digest_json({name: sha for name, sha in self._files.items() if name in _TOKENIZER})

    @cached_property
    def precision(self) -> str:
        """bfloat16 or float32."""
        return arithmetic(self._definition.precision)

    @cached_property
    def adapter_digest(self) -> str | None:
        """The digest of the adapter, once it is known to fit: IntegrityError when it was trained on another base or
        with another tokenizer. An adapter of before names no tokenizer: the base's digest covers it too."""
        if self._adapter is None:
            return None
        names = ("adapter_model.safetensors", "adapter_config.json", "assay.json")
        try:
            bound = json.loads((self._adapter / "assay.json").read_text(encoding="utf-8"))
            files = {name: sha256_file(self._adapter / name) for name in names}
        except (OSError, ValueError) as exc:
            raise BadInput(f"adapter {self._adapter.name} is not an adapter folder: {exc}") from exc
        trained = f"adapter {self._adapter.name} was trained on base {bound.get('base')}"
        tokenizer = bound.get("tokenizer_digest", self.tokenizer_digest)
        if tokenizer != self.tokenizer_digest:
            raise IntegrityError(
                f"{trained} with tokenizer {str(tokenizer)[:12]}, but generator {self.name} has tokenizer "
                f"{self.tokenizer_digest[:12]}"
            )
        if bound.get("base_digest") != self.base_digest:
            raise IntegrityError(
                f"{trained} {str(bound.get('base_digest'))[:12]}, but generator {self.name} is {self.base_digest[:12]}"
            )
        return digest_json(files)

    @cached_property
    def digest(self) -> str:
        return digest_json([self.base_digest, self.adapter_digest, self.precision, _DECODING])

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import PreTrainedTokenizerFast

        _quiet()
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(self.folder), padding_side="left")
        if tokenizer.chat_template is None:
            raise BadInput(f"generator {self.name}: its tokenizer has no chat template")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def trim(self, text: str, *, tokens: int) -> str:
        """The longest prefix of `text` that is at most `tokens` whole tokens."""
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans = encoded["offset_mapping"]
        return text if len(spans) <= tokens else text[: spans[tokens - 1][1]].rstrip()

    def count(self, chat: Messages) -> int:
        """Tokens of a whole chat (an assistant's message included), as the model reads it."""
        return len(self._tokenizer(self._render(chat, reply=False), add_special_tokens=False)["input_ids"])

    def _render(self, chat: Messages, *, reply: bool) -> str:
        rendered = self._tokenizer.apply_chat_template(
            [dict(message) for message in chat], tokenize=False, add_generation_prompt=reply
        )
        return str(rendered)

    @cached_property
    def _model(self) -> Any:
        """The model in evaluation mode, its files checked, the adapter merged."""
        import torch

        _quiet()
        _ = self.base_digest, self.adapter_digest  # the files are what they should be
        dtype = getattr(torch, self.precision)
        # Merged in float32, then rounded once: the adapter's small weights would be lost in bfloat16.
        first = dtype if self._adapter is None else torch.float32
        model = _model_class(self.folder).from_pretrained(
            str(self.folder), dtype=first, use_safetensors=True, trust_remote_code=False
        )
        if self._adapter is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(self._adapter)).merge_and_unload().to(dtype)
        return model.eval()

    @cached_property
    def _closing(self) -> frozenset[int]:
        """Ids of the tokens whose text holds a closing brace."""
        vocabulary = self._tokenizer.get_vocab()
        return frozenset(number for text, number in vocabulary.items() if "}" in text)

    def reply(self, chats: Sequence[Messages], *, max_new_tokens: int) -> list[Completion]:
        """Greedy completions, in order. Chats of like length share a batch, and the tokens that a batch's prompts all
        begin with are read once; a reply also ends where its JSON object is whole. `seconds` is the wall time of the
        reply's batch over the batch's size."""
        texts = [self._render(chat, reply=True) for chat in chats]
        encoded = self._tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        self._fits(encoded, max_new_tokens)
        order = sorted(range(len(texts)), key=lambda i: (-len(encoded[i]), i))
        out: dict[int, Completion] = {}
        for start in range(0, len(order), self._batch):
            members = order[start : start + self._batch]
            out.update(zip(members, self._generate([encoded[i] for i in members], max_new_tokens), strict=True))
        return [out[i] for i in range(len(texts))]

    def _fits(self, prompts: Sequence[Sequence[int]], new: int) -> None:
        """BadInput when the longest prompt and `new` tokens are more than the model reads."""
        window = getattr(self._model.config, "max_position_embeddings", None) if prompts else None
        longest = max(map(len, prompts), default=0)
        if window is not None and longest + new > window:
            raise BadInput(
                f"a prompt of {longest} tokens and {new} new ones exceed the {window} that {self.name} reads"
            )

    def choose(self, chats: Sequence[Messages], options: Sequence[str]) -> list[Choice]:
        """Every option's log-likelihood as the whole reply, by `pipelines.likelihood`."""
        from pipelines.likelihood import choose

        if not options or len(set(options)) < len(options) or not all(option.strip() for option in options):
            raise BadInput("options to choose from must be distinct texts that are not empty, at least one")
        if not chats:
            return []
        asked = [self._render(chat, reply=True) for chat in chats]
        prompts = self._tokenizer(asked, add_special_tokens=False)["input_ids"]
        # Encoded apart from the prompt, as training does it; up to the end marker.
        wholes = [self._render([*chats[0], {"role": "assistant", "content": text}], reply=False) for text in options]
        if not all(whole.startswith(asked[0]) for whole in wholes):
            raise BackendError(f"generator {self.name}: its chat template writes a prompt differently once answered")
        said = [whole[len(asked[0]) :].rstrip("\n") for whole in wholes]
        completions = self._tokenizer(said, add_special_tokens=False)["input_ids"]
        self._fits(prompts, max(map(len, completions)))
        return choose(self._model, prompts, completions)

    def _generate(self, prompts: list[list[int]], max_new_tokens: int) -> list[Completion]:
        """One batch; prompts as token ids."""
        import torch
        from transformers import StoppingCriteriaList

        from pipelines.likelihood import begin, shared

        tokenizer, model = self._tokenizer, self._model
        start, cpu = time.perf_counter(), time.process_time()
        alike = shared(prompts) if len(prompts) > 1 else 0
        alike = alike if alike >= _SHARED else 0
        rest = tokenizer.pad({"input_ids": [ids[alike:] for ids in prompts]}, padding=True, return_tensors="pt")
        cache = begin(model, prompts[0][:alike])
        cache.batch_repeat_interleave(len(prompts))
        once = torch.tensor([prompts[0][:alike]], dtype=torch.long)
        inputs = torch.cat([once.expand(len(prompts), -1), rest["input_ids"]], dim=1)
        seen = torch.cat([torch.ones(len(prompts), alike, dtype=torch.long), rest["attention_mask"]], dim=1)
        width = inputs.shape[1]
        ends = _ObjectEnds(tokenizer, self._closing, width)
        with torch.inference_mode():
            made = model.generate(
                input_ids=inputs,
                attention_mask=seen,
                past_key_values=cache,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                stopping_criteria=StoppingCriteriaList([ends]),
            )
        seconds = (time.perf_counter() - start) / len(prompts)
        cpu_seconds = (time.process_time() - cpu) / len(prompts)
        out = []
        for prompt, row in zip(prompts, made[:, width:].tolist(), strict=True):
            stops = [n for n, token in enumerate(row, 1) if token in (tokenizer.eos_token_id, tokenizer.pad_token_id)]
            row = row[: stops[0]] if stops else row
            text = tokenizer.decode(row, skip_special_tokens=True).strip()
            out.append(Completion(text, len(prompt), len(row), seconds, cpu_seconds))
        return out


class _ObjectEnds:
    """transformers' stopping criterion: a sequence is done when its reply starts with a JSON object that is whole."""

    def __init__(self, tokenizer: Any, closing: frozenset[int], width: int) -> None:
        self._tokenizer = tokenizer
        self._closing = closing
        self._width = width

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        import torch

        last = input_ids[:, -1].tolist()
        done = [token in self._closing and self._whole(row) for row, token in zip(input_ids, last, strict=True)]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)

    def _whole(self, row: Any) -> bool:
        text = self._tokenizer.decode(row[self._width :], skip_special_tokens=True).lstrip()
        try:
            json.JSONDecoder().raw_decode(text)
        except ValueError:
            return False
        return text.startswith("{")


def load_generator(definition: Path, *, cache: Path, adapter: Path | None = None, batch: int = 16) -> Any:
    """The generator of a definition file, with an adapter folder merged when one is given.

    BadConfig and MissingTool when the definition or its model cannot be used; everything else waits for first use.
    """
    for key in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ.setdefault(key, "1")
    return TransformersGenerator(read_definition(definition), cache=cache, adapter=adapter, batch=batch)
