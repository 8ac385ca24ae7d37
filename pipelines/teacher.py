"""Training examples whose completions a long prompt gave: the model of the arm `prompt` is asked as that arm asks it.

Replies are kept by content, like all others: a second run asks nothing. Nothing of the test is shown or asked. What is
left of the prompt is the set's `teacher.json`: the arm `prompt` is then asked with the very prompt that was distilled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.answering import replies
from pipelines.core import distil
from pipelines.core.long_prompt import LongPrompt
from pipelines.core.mixing import Account, Item
from pipelines.few_shot import long_prompt
from pipelines.params import CorpusParams
from pipelines.ports import Completion, Ports
from pipelines.reply_schema import load_validator
from pipelines.schemas import read_jsonl
from pipelines.tasks import labels_of
from pipelines.workspace import Workspace


class Teacher:
    """Asks about examples that training admitted. `longer` and `facts` are there once it has taught."""

    def __init__(self, params: CorpusParams, workspace: Workspace, *, questions: Sequence[Item], ports: Ports) -> None:
        self._params, self._workspace, self._ports = params, workspace, ports
        self._questions = questions
        self.longer: LongPrompt | None = None
        self.facts: dict[str, Any] = {}

    def teach(self, examples: Sequence[Item], account: Account) -> list[Item]:
        """The examples with the teacher's replies as completions; those whose reply teaches nothing are left out, and
        `account` says why. BadConfig for an unusable reply schema or set of labels."""
        generate, ports = self._params.generate, self._ports
        admitted = {str(example["id"]) for example in examples}
        how: dict[str, Any] = {"questions": self._questions, "ports": ports, "admitted": admitted}
        self.longer = long_prompt(self._params, self._workspace, ports.generator(), **how)
        made = self._replies(examples, self.longer)
        found = self._unfit(made)
        for example, reason in zip(examples, found, strict=True):
            if reason is not None:
                account.say(example, "teacher", reason)
        kept: list[Item] = [
            distil.taught(example, reply.text, system=generate.system)
            for example, reason, reply in zip(examples, found, made, strict=True)
            if reason is None
        ]
        self.facts = {"prompt": self.longer.digest, "asked": len(examples), "kept": len(kept)}
        self.facts |= {"dropped": distil.reasons(found)}
        return kept

    def _replies(self, examples: Sequence[Item], longer: LongPrompt) -> list[Completion]:
        params, file = self._params, self._workspace.versioned / "examples.jsonl"
        given = list(read_jsonl(file)) if file.is_file() else []
        made, _ = replies(
            self._ports.objects,
            self._ports.generator(),
            [distil.asking(example, longer) for example in examples],
            max_new_tokens=params.generate.max_new_tokens,
            batch=params.answer.batch,
            options=labels_of(params, self._questions, given, ports=self._ports),
            say=lambda ready, wanted: print(f"mix: {ready} of {wanted} replies of the teacher", flush=True),
        )
        return made

    def _unfit(self, made: Sequence[Completion]) -> list[str | None]:
        """Why each reply teaches nothing. Personal data and secrets that a model made up are no one's to take out: they
        are dropped unless `mix.sensitive` is report."""
        from pipelines.backends import sensitive

        generate, mix = self._params.generate, self._params.mix
        obeys = load_validator(generate.reply_schema, self._ports)
        most = generate.max_new_tokens
        out = [
            distil.unfit(reply.text, refusal=generate.refusal, obeys=obeys, cut=reply.tokens_out >= most)
            for reply in made
        ]
        if mix.sensitive == "report":
            return out
        findings = sensitive.screen([reply.text for reply in made], allow=mix.allow, region=mix.region)
        return [reason or ("sensitive" if found else None) for reason, found in zip(out, findings, strict=True)]
