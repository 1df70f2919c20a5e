"""Explains the tokens of an answer while it is made, and those of a text that is given.

Nothing is computed anew: a recorder is told what each processor and warper made of the logits, and what was drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgelm.checks import check_int
from edgelm.errors import ContextLengthError, NumericError, PromptError
from edgelm.generation.logits_processors import NO_IDS, Ids, Logits, LogitsProcessor
from edgelm.inspection.explain.distribution import Distribution
from edgelm.inspection.explain.reasons import stage_name, why_removed
from edgelm.inspection.explain.results import Candidate, Choice, ExplainedToken, Explanation, Stage
from edgelm.inspection.explain.visible import bytes_spelled
from edgelm.results import GenerationResult
from edgelm.runtime.sequences import SequenceDecoder
from edgelm.text.token_text import token_label
from edgelm.text.tokenizer import Tokenizer

MOST_CANDIDATES = 1000
OnToken = Callable[[ExplainedToken], None]


class _Seen(NamedTuple):
    """A stage as it was seen; ``rule``: None for the model itself."""

    rule: LogitsProcessor | None
    after: Distribution


class Recorder:
    """Keeps what is worth knowing of each step; implements ``generation.observer.Observer``.

    Args:
        tokenizer: for the tokens' texts.
        top: how many of the likeliest tokens to keep of each stage.
        on_token: called with each token as it is chosen.

    Raises:
        ConfigError: ``top`` is none from 1 to 1,000.
    """

    def __init__(self, tokenizer: Tokenizer, top: int, on_token: OnToken | None = None) -> None:
        check_int("top", top, 1, MOST_CANDIDATES)
        self._tokenizer = tokenizer
        self._top = top
        self._on_token = on_token
        self._prompt: Ids = NO_IDS
        self._ids: Ids = NO_IDS
        self._seen: list[_Seen] = []
        self._tokens: list[ExplainedToken] = []

    def began(self, ids: Ids, logits: Logits) -> None:
        """See ``Observer``.

        Raises:
            NumericError: a logit is NaN or +infinity, or all are -infinity.
        """
        highest = logits.max()
        if not np.isfinite(highest):
            step = len(self._tokens) + 1
            raise NumericError(f"step {step}: the largest logit is {highest}; logits must be finite, or -inf, not all")
        if not self._tokens:
            self._prompt = ids
        self._ids = ids
        self._seen = [_Seen(None, Distribution.of(logits))]

    def processed(self, processor: LogitsProcessor, logits: Logits) -> None:
        """See ``Observer``; what changes nothing is left out."""
        after = Distribution.of(logits)
        if not after.equals(self._seen[-1].after):
            self._seen.append(_Seen(processor, after))

    def warped(self, warper: LogitsProcessor, tokens: NDArray[np.intp] | None, logits: Logits) -> None:
        """See ``Observer``."""
        self._seen.append(_Seen(warper, Distribution.of(logits, tokens)))

    def chose(self, token: int, uniform: float | None) -> None:
        """See ``Observer``."""
        self._explain(token, "likeliest" if uniform is None else "drawn", uniform)

    def _explain(self, token: int, choice: Choice, uniform: float | None) -> None:
        stages = [seen.after for seen in self._seen]
        final = stages[-1]
        explained = ExplainedToken(
            id=token,
            token=self.label(token),
            stages=self._stages(),
            candidates=self._candidates(token, drawn=uniform is not None),
            choice=choice,
            uniform=uniform,
            interval=None if uniform is None else final.interval(token),
            raw_surprise=stages[0].surprise(token),
            surprise=final.surprise(token),
        )
        self._tokens.append(explained)
        if self._on_token is not None:
            self._on_token(explained)

    def label(self, token: int) -> str:
        """A token's text; parts of characters as bytes."""
        label = token_label(self._tokenizer, token)
        is_part = label == self._tokenizer.id_to_token(token) and token not in self._tokenizer.special_token_ids
        return bytes_spelled(label) if is_part else label

    def explanation(
        self, model: str, answer: GenerationResult, *, source: Sequence[int] | Ids | None = None
    ) -> Explanation:
        """All of it, now that the answer is whole; ``source``: what was given, where it is not the prompt."""
        prompt = self._prompt if source is None else source
        return self._whole(model, prompt, answer.text, answer.finish_reason)

    def score(self, model: str, decoder: SequenceDecoder, ids: Ids) -> Explanation:
        """Has the decoder, which must be empty, read a text of two tokens or more; explains all but the first."""
        rows = (row for chunk in decoder.all_logits(ids[:-1]) for row in chunk)
        for position, row in enumerate(rows, start=1):
            self.began(ids[:position], row)
            self._explain(int(ids[position]), "given", None)
        text = self._tokenizer.decode(ids.tolist(), skip_special_tokens=False)
        return self._whole(model, ids[:1], text, None)

    def _whole(self, model: str, prompt: Sequence[int] | Ids, text: str, finish_reason: str | None) -> Explanation:
        before = tuple(self.label(int(token)) for token in prompt)
        return Explanation(model, before, text, tuple(self._tokens), finish_reason)

    def _stages(self) -> tuple[Stage, ...]:
        raw = self._seen[0].after
        stages = [Stage("raw", "raw", raw.tokens.size, 0, 0.0, raw.entropy)]
        for (_, before), (rule, after) in pairwise(self._seen):
            removed = before.without(after)
            name, label = ("raw", "raw") if rule is None else stage_name(rule)
            mass = before.mass(removed)
            stages.append(Stage(name, label, after.tokens.size, removed.tokens.size, mass, after.entropy))
        return tuple(stages)

    def _candidates(self, chosen: int, *, drawn: bool) -> tuple[Candidate, ...]:
        wanted = {chosen}
        for _, after in self._seen:
            wanted.update(after.likeliest(self._top))
        for (_, before), (_, after) in pairwise(self._seen):
            wanted.update(before.without(after).likeliest(1))
        candidates = [self._candidate(token, drawn=drawn) for token in wanted]
        return tuple(sorted(candidates, key=_standing, reverse=True))

    def _candidate(self, token: int, *, drawn: bool) -> Candidate:
        stages = [after for _, after in self._seen]
        out = len(stages)
        while out > 0 and stages[out - 1].place(token) is None:
            out -= 1
        reason = ""
        if 0 < out < len(stages):
            rule = self._seen[out].rule
            reason = "" if rule is None else why_removed(rule, stages[out - 1], token, self._ids)
        return Candidate(
            id=token,
            token=self.label(token),
            probabilities=tuple(stage.probability(token) for stage in stages),
            removed_by=None if out == len(stages) else out,
            reason=reason,
            interval=stages[-1].interval(token) if drawn else None,
        )


def _standing(candidate: Candidate) -> tuple[float, int, float, int]:
    """How far a token came: its probability at the end, the stage that ruled it out, its probability before that."""
    if candidate.removed_by is None:
        return candidate.probabilities[-1], len(candidate.probabilities), 0.0, -candidate.id
    before = candidate.probabilities[candidate.removed_by - 1] if candidate.removed_by else 0.0
    return -1.0, candidate.removed_by, before, -candidate.id


def check_scorable(ids: Ids, context: int) -> None:
    """Refuses a text in which no token stands behind another, or that is too long.

    Raises:
        PromptError: it has only one token.
        ContextLengthError: it has more than ``context``.
    """
    if ids.size < 2:
        raise PromptError("the text has one token; only tokens behind others have a probability")
    if ids.size > context:
        raise ContextLengthError(f"the text has {ids.size} tokens, but the context window is {context} tokens")
