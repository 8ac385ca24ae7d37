"""What a language model is asked when it grades a reply, and how its word is read. No I/O.

Source: reference-guided grading by a language model, Zheng et al., "Judging LLM-as-a-Judge with MT-Bench and Chatbot
Arena" (2023). A grade is worth what its agreement with the gold answers is: both are reported, agreement also as
Cohen's kappa ("A Coefficient of Agreement for Nominal Scales", 1960), which takes out what chance agrees on.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.core.prompts import normalised

WORDS = ("yes", "no")
SYSTEM = (
    "You grade answers. Say yes when the answer states what one of the reference answers states, and no when it does "
    "not. Reply with one word: yes or no."
)


def asking(question: str, gold: Sequence[str], answer: str) -> list[dict[str, str]]:
    """The chat that asks for a grade."""
    references = "\n".join(f"- {text}" for text in gold)
    said = f"Question: {question}\nReference answers:\n{references}\nAnswer: {answer or '(nothing)'}\nIs it right?"
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": said}]


def grade(text: str) -> bool | None:
    """True for yes, False for no, by the first word; None for what is neither."""
    first = (normalised(text).split() or [""])[0]
    return None if first not in WORDS else first == WORDS[0]
