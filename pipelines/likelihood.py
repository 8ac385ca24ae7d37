"""How likely each of given completions is as the whole reply to a chat, under a causal language model of transformers.

The completions' tokens are laid out as a prefix tree, and one forward pass reads a prompt and the tree: each node sees
the prompt and its own ancestors, by mask and position ("tree attention": Miao et al., "SpecInfer", ASPLOS 2024). So
what completions share is read once, nothing is padded, and the tokens that all prompts begin with are read once for
all chats. It knows tokens only; templates and tokenizers are the generator's.

The score is the sum of the log-probabilities of a completion's tokens, its end marker included: the probability that
the reply is exactly this text, which is what training raises. It is not divided by the length, which would favour long
completions whose tails follow from their beginnings.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import numpy as np

from pipelines.ports import Choice

NODES = 512
"""Most nodes of one pass; at 50,000 tokens of vocabulary their logits are 100 MB."""


@dataclass(frozen=True)
class Tree:
    """Distinct beginnings of some completions, parents first. `members` are their places among all completions;
    `tokens` and `parents` are of the nodes (parent -1: the prompt); `paths` holds for each member its (state, token)
    steps, a state being 0 for the prompt's end or 1 + a node."""

    members: tuple[int, ...]
    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    paths: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def depths(self) -> list[int]:
        """0 for a node right behind the prompt."""
        out: list[int] = []
        for parent in self.parents:
            out.append(0 if parent < 0 else out[parent] + 1)
        return out

    @property
    def sees(self) -> np.ndarray:
        """bool (nodes, nodes): row sees column, which is itself or one of its ancestors."""
        out = np.eye(len(self.tokens), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                out[node] |= out[parent]
        return out


def grow(completions: Sequence[Sequence[int]], members: Sequence[int]) -> Tree:
    """The tree of some completions. A completion's last token is predicted, never read: it needs no node."""
    known: dict[tuple[int, ...], int] = {(): -1}
    tokens: list[int] = []
    parents: list[int] = []
    paths: list[tuple[tuple[int, int], ...]] = []
    for member in members:
        completion = tuple(completions[member])
        path = [(0, completion[0])]
        for end in range(1, len(completion)):
            prefix = completion[:end]
            if prefix not in known:
                known[prefix] = len(tokens)
                tokens.append(prefix[-1])
                parents.append(known[prefix[:-1]])
            path.append((1 + known[prefix], completion[end]))
        paths.append(tuple(path))
    return Tree(tuple(members), tuple(tokens), tuple(parents), tuple(paths))


def trees(completions: Sequence[Sequence[int]], *, nodes: int = NODES) -> Iterator[Tree]:
    """All completions as trees of at most `nodes` nodes (a single longer completion is a tree of its own); those that
    begin alike stand together."""
    held: list[int] = []
    for member in sorted(range(len(completions)), key=lambda place: tuple(completions[place])):
        if held and len(grow(completions, [*held, member]).tokens) > nodes:
            yield grow(completions, held)
            held = []
        held.append(member)
    if held:
        yield grow(completions, held)


def shared(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, at least one left to each."""
    first = min(prompts, key=len)
    alike = takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False))
    return min(sum(1 for _ in alike), len(first) - 1)


def begin(model: Any, tokens: Sequence[int]) -> Any:
    """A cache that holds the tokens with which all prompts begin (there may be none)."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache()
    if tokens:
        with torch.inference_mode():
            model(input_ids=torch.tensor([list(tokens)]), past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache


def choose(
    model: Any, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], *, nodes: int = NODES
) -> list[Choice]:
    """A choice for each prompt among the completions, all as token ids. No prompt's depends on another prompt."""
    scorer, out = _Scorer(model, list(trees(completions, nodes=nodes)), len(completions)), []
    cache = begin(model, prompts[0][: shared(prompts)])
    for prompt in prompts:
        start, cpu = time.perf_counter(), time.process_time()
        scores = scorer.score(prompt, cache)
        spent = time.perf_counter() - start, time.process_time() - cpu
        choice = Choice(tuple(scores), len(prompt), 0, *spent)
        out.append(replace(choice, tokens_out=len(completions[choice.best])))
    return out


class _Scorer:
    """One model with the trees of the completions that are to be scored, `count` in all."""

    def __init__(self, model: Any, found: Sequence[Tree], count: int) -> None:
        self._model, self._trees, self._count = model, found, count

    def score(self, prompt: Sequence[int], cache: Any) -> list[float]:
        """Log-likelihoods (nats) in the order of the completions. `cache` holds the prompt's beginning, and holds
        that again afterwards."""
        import torch

        out, held, states = [0.0] * self._count, cache.get_seq_length(), None
        rest = list(prompt[held:])
        with torch.inference_mode():
            for tree in self._trees:
                logits = self._pass(rest, tree, cache, length=len(prompt))
                if tree.tokens:
                    cache.crop(-len(tree.tokens))
                # Later trees do not read the prompt again: its last state is that of the first pass.
                states = logits if states is None else torch.cat([states[:1], logits])
                rest = []
                for member, value in zip(tree.members, _sums(states, tree), strict=True):
                    out[member] = value
        if len(prompt) > held:
            cache.crop(held - len(prompt))
        return out

    def _pass(self, rest: Sequence[int], tree: Tree, cache: Any, *, length: int) -> Any:
        """Logits of the prompt's last token (where `rest` of the prompt is read) and of the nodes."""
        import torch

        past, new, nodes = cache.get_seq_length(), len(rest), len(tree.tokens)
        if new + nodes == 0:
            return torch.empty(0)
        sees = torch.zeros(new + nodes, past + new + nodes, dtype=torch.bool)
        sees[:, :past] = True
        sees[:new, past : past + new] = torch.ones(new, new, dtype=torch.bool).tril()
        sees[new:, past : past + new] = True
        sees[new:, past + new :] = torch.from_numpy(tree.sees)
        dtype = self._model.dtype
        mask = torch.zeros(sees.shape, dtype=dtype).masked_fill(~sees, torch.finfo(dtype).min)
        positions = [*range(past, length), *(length + depth for depth in tree.depths)]
        made = self._model(
            input_ids=torch.tensor([[*rest, *tree.tokens]]),
            attention_mask=mask[None, None],
            position_ids=torch.tensor([positions]),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=nodes + min(new, 1),
        )
        return made.logits[0]


def _sums(states: Any, tree: Tree) -> list[float]:
    """Sum of the log-probabilities along each member's path; float32 over the vocabulary, float64 over the path."""
    import torch

    logits = states.float()
    total = torch.logsumexp(logits, dim=-1)
    steps = sorted({step for path in tree.paths for step in path})
    at = torch.tensor(steps)
    values = (logits[at[:, 0], at[:, 1]] - total[at[:, 0]]).tolist()
    value = dict(zip(steps, values, strict=True))
    return [float(sum(value[step] for step in path)) for path in tree.paths]
