"""What the long measurements of a corpus have in common: the candidate that they are about, trainings on other sets,
questions asked of an arm. `assay measure` runs them (`actions.measure`); nothing here judges or releases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipelines import adapters, training
from pipelines.answering import prompts, replies
from pipelines.core.bootstrap import mean_interval
from pipelines.core.digests import digest_json
from pipelines.core.long_prompt import LongPrompt
from pipelines.core.nouns import Metric
from pipelines.core.prompts import chat
from pipelines.errors import NotMeasurable
from pipelines.params import CorpusParams
from pipelines.ports import Completion, Generator, Hit, Ports
from pipelines.retrieval import Filters, search
from pipelines.schemas import read_jsonl
from pipelines.scoring import Scorer, scorer
from pipelines.stages.score_answers import chosen
from pipelines.stages.train import code_of
from pipelines.workspace import Workspace

Json = Mapping[str, Any]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Subject:
    """The last candidate of a corpus. NotFound, when a part of it is first used that was not made; NotMeasurable, when
    its test asks nothing."""

    params: CorpusParams
    workspace: Workspace
    ports: Ports

    @cached_property
    def questions(self) -> list[Json]:
        """The test questions that its arms were asked."""
        file = self.workspace.versioned / "questions.jsonl"
        found = chosen(list(read_jsonl(file)) if file.is_file() else [], self.params)
        if not any(q["answers"] for q in found):
            raise NotMeasurable(
                f"{self.workspace.corpus} has no test question with an answer: there is nothing to measure by"
            )
        return found

    @cached_property
    def base(self) -> Generator:
        """What its adapter was trained on."""
        return self.ports.base_generator()

    @cached_property
    def untuned(self) -> Generator:
        """What its arms without an adapter were asked of."""
        return self.ports.generator()

    @cached_property
    def tuned(self) -> Generator | None:
        """The base with the candidate's adapter; None where nothing was trained."""
        train = self.workspace.receipt("train")
        if "skipped" in train:
            return None
        return self.ports.generator(adapters.fetch(self.ports.objects, train["key"], cache=self.ports.settings.cache))

    @cached_property
    def scorer(self) -> Scorer:
        return scorer(self.params.generate, self.ports)

    @cached_property
    def primary(self) -> str:
        return self.params.judge.primary.partition(".")[2]

    def example(self, name: str, prompt: str, completion: str) -> dict[str, Any]:
        """A training row without context, in the form of those that `mix` writes."""
        said = {"role": "assistant", "content": completion.strip()}
        return {"id": name, "messages": [*chat(prompt, system=self.params.generate.system), said]}

    def rows(self, split: str) -> list[dict[str, Any]]:
        """train or validation: the chats that the candidate's adapter was trained on."""
        return list(read_jsonl(self.workspace.training / f"{split}.jsonl"))

    def passages(self, questions: Sequence[str], *, filters: Filters | None = None) -> list[list[Hit]]:
        """What the candidate's index finds, whatever its access labels: it is measured whole."""
        how: dict[str, Any] = {"retrieve": self.params.retrieve, "reranker": self.ports.reranker}
        how |= {"filters": filters, "labels": None}
        collection = self.workspace.receipt("index")["collection"]
        return search(self.ports.store, self.ports.embedder, collection, questions, **how)

    def trained_on(self, rows: Sequence[Row], *, what: str) -> tuple[Generator, float]:
        """(the base with an adapter trained on `rows` as the candidate's was trained on its own, wall seconds of that
        training when it was made). The same rows are trained on once."""
        ports, validation = self.ports, self.rows("validation")
        plan = training.planned(
            self.params.train,
            self.base,
            digest_json([list(rows), validation]),
            code=code_of(self.workspace),
            device=ports.settings.device,
        )
        steps = self.params.train.steps

        def say(step: int, values: Mapping[str, float]) -> None:
            if "loss" in values and (step in (1, steps) or step % 20 == 0):
                print(f"measure: {what}: step {step} of {steps}, loss {values['loss']:.3f}", flush=True)

        with training.alone(ports.settings, plan):
            record = training.known(ports, plan)
            if record is None:
                record = training.train(plan, self.base, ports, train=rows, validation=validation, on_log=say)
            training.tidy(ports.settings, plan)
        folder = adapters.fetch(ports.objects, record["key"], cache=ports.settings.cache)
        return ports.generator(folder), float(record["seconds"])

    def ask(
        self, generator: Generator, arm: str, questions: Sequence[str], hits: Sequence[Sequence[Hit]], *, what: str
    ) -> list[Completion]:
        """A reply to each question, asked as the arm asks; the arm `prompt` is not asked here."""
        how: dict[str, Any] = {"arm": arm, "generate": self.params.generate}
        _, chats = prompts(questions, hits, generator, **how)
        found, _ = replies(
            self.ports.objects,
            generator,
            chats,
            max_new_tokens=self.params.generate.max_new_tokens,
            batch=self.params.answer.batch,
            options=self.options,
            say=lambda ready, wanted: print(f"measure: {what}: {ready} of {wanted} replies", flush=True),
        )
        return found

    @cached_property
    def options(self) -> list[str] | None:
        """What replies are chosen from, as the arms' were."""
        options: list[str] | None = self.workspace.receipt("score_answers").get("labels")
        return options

    def quality(self, generator: Generator, arm: str, hits: Sequence[Sequence[Hit]], *, what: str) -> Metric | None:
        """The primary metric's mean over the test questions that have it, with its interval."""
        texts = [q["question"] for q in self.questions]
        shown, _ = prompts(texts, hits, generator, arm=arm, generate=self.params.generate, longer=LongPrompt("", ()))
        said = self.ask(generator, arm, texts, hits, what=what)
        values = [
            found[self.primary]
            for q, passages, reply in zip(self.questions, shown, said, strict=True)
            if self.primary in (found := self.scorer.score(reply.text, q, passages).metrics)
        ]
        return mean_interval(values) if values else None
