"""Whether a text gives orders to a language model: signs with weights, that count together where they stand together.

No sign is proof: "reply with" stands in any handbook, "language model" in any article about one. A stretch of 400
characters whose different signs weigh 3 together is taken for an order (4, where none of them is about models or instructions). English, with the commonest command in some
other languages. Source of what is looked for: the published collections of prompt injections and jailbreaks (Greshake
et al. 2023, "Not what you've signed up for"; OWASP LLM01), reduced to the parts they are made of.
"""

# ruff: noqa: E501 -- a pattern is read as a whole
from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from pipelines.core.needs import WORD, beginnings, folded

_NEAR = 400
_ENOUGH = 3
_RULES = r"(?:instructions?|prompts?|directions?|directives?|guidelines?|commands?|rules|policy|policies|constraints?|programming|training)"
_OLD = r"(?:previous|prior|above|earlier|preceding|foregoing|former|original|initial|past|system|safety|your|given|hitherto|before|so far)"
_SOURCES = r"(?:passages?|sources?|documents?|contexts?|results?|pages?|references?)"
_OTHER = r"(?:all|any|other|every|retrieved|remaining|rest of)"
_DROP = (
    r"\b(?:ignor(?:e|es|ing)|disregard(?:ing)?|forget(?:ting)?|overrid(?:e|es|ing)|bypass|overrule|neglect|abandon|drop|discard|void"
    r"|skip|erase|set aside|throw away|stop (?:following|obeying)|(?:do not|don't|must not|never|no longer) (?:follow|obey|use|heed))\b"
)
_MODEL = (
    r"(?:ai|a\.i\.|llms?|(?:large )?language models?|chat ?bots?|bots?|gpt|copilot|summari[sz]ers?|rag systems?"
    r"|(?:(?:ai|virtual|digital|automated|helpful|retrieval|answering|unrestricted) )+(?:assistants?|agents?|models?|systems?))"
)
_CALLED = rf"(?:{_MODEL}|assistants?|models?|agents?|systems?)"
_REPLY = r"(?:answers?|repl(?:y|ies)|responses?|outputs?|summar(?:y|ies)|completions?)"
_SAY = r"(?:answer|reply|respond|say|conclude)"
_MUST = r"(?:must|should|shall|has to|have to|need to|needs to|will|ought to)"

_SIGNS: dict[str, tuple[int, str]] = {
    "forget instructions": (
        3,
        rf"{_DROP}(?:\W+\w+){{0,4}}?\W+{_OLD}(?:\W+\w+){{0,2}}?\W+{_RULES}\b"
        rf"|{_DROP}(?:\W+\w+){{0,3}}?\W+{_RULES}\W+(?:\w+\W+){{0,3}}?(?:above|before|earlier|given|so far)\b"
        rf"|{_DROP}\W+(?:all|everything|anything|whatever|what)\b(?:\W+\w+){{0,3}}?\W+(?:above|before|told|said|instructed|{_RULES})\b",
    ),
    "forget instructions, in another language": (
        3,
        r"\b(?:ignorier|vergiss|missacht)\w*\b.{0,40}\b(?:anweisung|vorgabe|regel|instruktion)"
        r"|\b(?:ignor\w+|oubli\w+|olvid\w+|dimentic\w+|esque[cç]\w+)\b.{0,40}\b(?:instruc|istruzion|instruç|consign|reglas|regole|regras)"
        r"|(?:игнорируй|забудь|не обращай).{0,40}(?:инструкц|указани|правил)|忽略.{0,12}(?:指示|指令|说明|提示|规则)"
        r"|無視.{0,4}|(?:指示|命令).{0,6}無視|(?:negeer|ignoruj|zignoruj).{0,40}(?:instruct|polece|instrukc)",
    ),
    "chat-template token": (
        3,
        r"<\|\w{2,24}\|>|\[/?inst\]|<</?sys>>|<(?:start|end)_of_turn>|</?(?:system|assistant)(?:[ _-]?\w+)?>"
        r"|^\W{0,4}(?:begin|start|end)(?: of)? system (?:prompt|message)|^#{2,} ?(?:system|new) ?(?:prompt|instructions?|message)?\s*:?\s*$",
    ),
    "role marker": (
        3,
        r"^\W{0,3}(?:system|assistant|developer)\s?:\s*(?:you|ignore|from now|always|never|sure|new|understood|okay)\b"
        r"|^\W{0,3}(?:human|user)\s?:.{0,400}?^\W{0,3}(?:assistant|ai|bot)\s?:",
    ),
    "talk to a model": (
        2,
        rf"\b(?:attention|notice|note|message|memo|instructions?|directives?|warning|reminder|hint|addressed)\W+(?:(?:to|for)\W+)?(?:the |any |all |every |an? )*(?:\w+ )?{_CALLED}\b"
        rf"|\b(?:dear|hey|hello|ok) (?:\w+ )?{_MODEL}\b|(?:\A|[.!?>\n]\W*)(?:to )?(?:the |any |all |every )?(?:\w+ )?{_MODEL}\s?[,:]"
        rf"|(?:\A|[.!?>\n]\W*)(?:assistant|model|agent)\s?[,:]"
        rf"|\bif you(?: are|'re) an? (?:\w+ ){{0,2}}{_CALLED}\b|\bas an? (?:\w+ )?{_MODEL},? you\b"
        rf"|\b(?:any|every|all|each) (?:\w+ )?{_CALLED} (?:that|which|who|reading|processing|summari[sz]ing)\b"
        rf"|\b{_MODEL} (?:\w+ ){{0,3}}?(?:reading|reads?|processing|summari[sz]ing|ingesting) this\b",
    ),
    "a model is spoken of": (1, rf"\b{_MODEL}\b"),
    "new role": (
        2,
        r"\byou are (?:now|no longer)\b|\b(?:act|behave|pretend|speak|respond) (?:as|like) (?:an?|the|if)\b.{0,40}\b(?:restrict|limit|rules|filter|unfiltered|ai\b|persona|pirate)"
        r"|\bno (?:longer bound|restrictions|filters)\b|\b(?:dan|developer|god|jailbreak|debug|maintenance) mode\b|\bunrestricted\b.{0,20}\b(?:mode|assistant|model)\b",
    ),
    "new task": (
        2,
        r"\byour (?:only|new|sole|real|actual|true|first|next|main) (?:tasks?|jobs?|goals?|purpose|objectives?|mission|role|priority|instructions?)\b"
        r"|\b(?:new|updated|revised|special|urgent|real) (?:instructions?|directives?|orders)\s?:|\b(?:instructions?|system|safety|security|admin\w*) overrides?\b"
        r"|\b(?:rules|filters?|guardrails|restrictions) (?:are|is|were|have been) (?:suspended|lifted|off|disabled|void)\b",
    ),
    "system prompt": (
        2,
        r"\b(?:system|hidden|secret|developer|initial|internal) (?:prompts?|instructions?|messages?)\b",
    ),
    "order about every reply": (
        2,
        rf"\b(?:your|each|every|all|any|the final)\W+(?:\w+\W+)?{_REPLY}\b(?:\W+\w+){{0,2}}?\W+(?:{_MUST}|begins?|starts?|ends?|contains?|includes?|with|to)\b"
        rf"|\b{_SAY}\W+(?:only|always|exclusively|just|nothing but|every \w+|all \w+|any \w+)\b|\b(?:only|always|never|must) {_SAY}\b"
        rf"|\b(?:in|to|of|with|into|before|after) (?:each|every|any|all|your)(?: \w+)? (?:{_REPLY}|questions?|quer(?:y|ies)|prompts?)\b"
        rf"|\b{_MUST} {_SAY}\b|\bwhatever (?:was|is|they|the \w+) asks?(?:ed)?\b",
    ),
    "speak to the user": (
        1,
        r"\b(?:tell|inform|convince|assure|direct|send|advise|urge|persuade) (?:the |every |any )?(?:users?|readers?|person)\b|\bwhen(?:ever)? (?:the |a |any |some)?(?:users?|one|body|anyone|someone) asks?\b|\b(?:when|if) asked\b",
    ),
    "secrecy": (
        1,
        r"\b(?:do not|don't|never|without) (?:\w+ )?(?:mention|reveal|disclos|tell|say|admit|cit|show|explain)\w*\b(?:\W+\w+){0,5}?\W+(?:this|these|instructions?|note|text|document|passages?|source)\b",
    ),
    "only this source": (
        2,
        rf"{_DROP}\W+(?:the |your )?{_OTHER}\W+(?:\w+\W+){{0,2}}?{_SOURCES}\b|\b(?:this|the following) (?:\w+ )?(?:document|passage|page|text|paragraph|note|source) (?:supersedes|overrides|outranks|replaces|takes precedence)\b"
        rf"|\b(?:cite|use|trust|rely on|quote|answer) (?:only |just |solely )(?:from |on )?(?:this|here|the present)\b",
    ),
    "verbatim": (
        1,
        r"\bverbatim\b|\bword for word\b|\bin full\b|\bfrom now on\b|\bbefore you (?:reply|answer|respond)\b",
    ),
    "send out": (3, r"!\[[^\]]*\]\(https?://[^)\s]*(?:\{|\[|<|%7b)"),
    "use a tool": (1, r"\b(?:call|invoke|run|use|trigger) the \w+ (?:tool|plugin)\b"),
}
_OF_TALK = {"a model is spoken of", "system prompt"}
"""Signs that any article about models has too: with none but these, nobody is ordered to do anything."""
_OF_WORDING = {"order about every reply", "speak to the user", "secrecy", "verbatim", "use a tool"}
"""Signs that rules for people have too: with none but these, one more is wanted."""
_COMPILED = {
    name: (weight, re.compile(pattern, re.IGNORECASE | re.MULTILINE | re.DOTALL))
    for name, (weight, pattern) in _SIGNS.items()
}

_CHARACTERS = 5  # of a beginning: longer ones are more, and take longer to look for than they spare


class _Signs:
    """Some of the signs, each tried only where it may begin: at the words and marks that its pattern begins with."""

    def __init__(self, names: Iterable[str]) -> None:
        self._signs = {name: _COMPILED[name] for name in names}
        begin = {name: beginnings(sign, most=_CHARACTERS) for name, (_, sign) in self._signs.items()}
        self._begin = {name: texts for name, texts in begin.items() if "" not in texts}  # of others nothing is known
        self._starts = [self._of(WORD, r"\b"), self._of("", "")]

    def _of(self, mark: str, place: str) -> tuple[re.Pattern[str], dict[str, list[str]]]:
        """An expression for the beginnings with a mark, of which one is at a place at most, and the signs of each."""
        texts = {name: {t[len(mark) :] for t in of if (t[0] == WORD) == bool(mark)} for name, of in self._begin.items()}
        every = set().union(*texts.values())
        heads = sorted(text for text in every if not any(text[:n] in every for n in range(len(text))))
        ways = [
            f"{re.escape(first)}(?=({'|'.join(re.escape(head[1:]) for head in of)}))"
            for first, of in groupby(heads, lambda head: head[0])
        ]
        tries = {h: [name for name, of in texts.items() if any(t.startswith(h) for t in of)] for h in heads}
        return re.compile(f"{place}(?:{'|'.join(ways) or '(?!)'})"), tries

    def places(self, text: str) -> list[tuple[int, int, str]]:
        """(start, weight, name) of what `finditer` of each sign finds, in order."""
        may: dict[str, list[int]] = {name: [0] for name in self._begin}
        low = folded(text)
        for starts, tries in self._starts:
            for at in starts.finditer(low):
                for name in tries[at.group() + at[at.lastindex or 0]]:
                    may[name].append(at.start())
        out = []
        for name, (weight, sign) in self._signs.items():
            found = _tried(sign, text, sorted(may[name])) if name in may else sign.finditer(text)
            out += [(match.start(), weight, name) for match in found]
        return sorted(out)


def _tried(sign: re.Pattern[str], text: str, starts: Iterable[int]) -> Iterator[re.Match[str]]:
    end = 0
    for start in starts:
        if start >= end and (found := sign.match(text, start)):
            yield found
            end = found.end()


_TALK, _SPOKEN_OF = "talk to a model", "a model is spoken of"
_OTHERS, _TALKS = _Signs(_SIGNS.keys() - {_TALK}), _Signs([_TALK])


def orders(text: str) -> str | None:
    """The signs that together make an order, strongest first; None without. Each counts once in a stretch."""
    places = _OTHERS.places(text)
    if all(name == _SPOKEN_OF for *_, name in places):
        return None  # and talk to a model does not make it one: it is the costliest to look for
    return _judged(sorted(places + _TALKS.places(text)))


def _judged(places: Sequence[tuple[int, int, str]]) -> str | None:
    for first, (start, *_) in enumerate(places):
        near: dict[str, int] = {}
        for at, weight, name in places[first:]:
            if at - start > _NEAR:
                break
            near[name] = weight
        if _TALK in near:
            near.pop(_SPOKEN_OF, None)
        if sum(near.values()) >= _ENOUGH + (near.keys() <= _OF_WORDING) and not near.keys() <= _OF_TALK:
            return ", ".join(sorted(near, key=lambda name: (-near[name], name)))
    return None
