"""Makes a recorded answer again, and says whether it is the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from edgelm.config import GenerationConfig
from edgelm.errors import PromptError
from edgelm.language_model import LanguageModel
from edgelm.replay.file import Replay
from edgelm.replay.machine import describe_machine
from edgelm.replay.record import form_argument, runtime_of
from edgelm.text.token_text import token_label


@dataclass(frozen=True, slots=True)
class Parting:
    """Where two answers part.

    Attributes:
        at: index of the first token that differs.
        expected, got: its id and text in the recorded answer and in the new one; None where that one has ended.
        gap: how much larger the largest logit is there than the next one, before penalties and cuts; None: unknown.
            A gap near zero is a tie, which rounding decides.
    """

    at: int
    expected: tuple[int, str] | None
    got: tuple[int, str] | None
    gap: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A recorded answer beside a new one.

    Attributes:
        tokens: of the recorded answer.
        parting: None: the answers are identical.
        differences: what is not as it was: name → then and now.
    """

    tokens: int
    parting: Parting | None
    differences: dict[str, tuple[str, str]]

    @property
    def identical(self) -> bool:
        """Whether both answers have the same tokens."""
        return self.parting is None

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        parting = self.parting
        return {
            "identical": self.identical,
            "tokens": self.tokens,
            "parting": None
            if parting is None
            else {
                "at": parting.at,
                "expected": _token_values(parting.expected),
                "got": _token_values(parting.got),
                "gap": parting.gap,
            },
            "differences": {name: {"then": then, "now": now} for name, (then, now) in self.differences.items()},
        }


def rerun(lm: LanguageModel, replay: Replay, *, on_text: Callable[[str], None] | None = None) -> Comparison:
    """Makes a recorded answer again; an answer that time could have ended is made to the same length.

    Args:
        lm: the model that it was recorded of, or another.
        replay: the recorded answer.
        on_text: given each piece of the new answer.

    Raises:
        PromptError: the recorded ids are of another vocabulary.
        EdgeLMError: see ``LanguageModel.generate``; the model may not take the recorded ids or settings.
    """
    _check_vocabulary(lm, replay)
    config = replay.config
    if config.max_time is not None:
        length = len(replay.output_ids)
        least = min(config.min_new_tokens, length)
        config = config.updated(max_time=None, max_new_tokens=length, min_new_tokens=least)
    with lm.stream(replay.prompt_ids, config, **form_argument(replay.form)) as stream:
        for chunk in stream:
            if on_text is not None:
                on_text(chunk.text)
    now = _described(describe_machine(), runtime_of(lm), lm.runtime.kv_cache)
    then = _described(replay.machine, replay.runtime, replay.kv_cache)
    differences = {
        name: (then.get(name, "none"), now.get(name, "none"))
        for name in {**then, **now}
        if then.get(name) != now.get(name)
    }
    return Comparison(len(replay.output_ids), _parting(lm, replay, stream.result.token_ids), differences)


def _check_vocabulary(lm: LanguageModel, replay: Replay) -> None:
    largest, known = max(*replay.prompt_ids, *replay.output_ids), lm.bundle.manifest.vocab_size
    if largest >= known:
        raise PromptError(
            f"the recorded ids go up to {largest}, but {lm.name} knows {known} tokens: its vocabulary is not that of "
            f"{replay.model}, so it cannot replay this answer"
        )


def _described(machine: Mapping[str, str], runtime: Mapping[str, int], kv_cache: str) -> dict[str, str]:
    return {**machine, **{name: str(value) for name, value in runtime.items()}, "kv_cache": kv_cache}


def _parting(lm: LanguageModel, replay: Replay, got: tuple[int, ...]) -> Parting | None:
    for at, (old, new) in enumerate(zip_longest(replay.output_ids, got)):
        if old != new:
            return Parting(at, _token(lm, old), _token(lm, new), _gap(lm, replay, at))
    return None


def _token(lm: LanguageModel, token: int | None) -> tuple[int, str] | None:
    if token is None:
        return None
    return token, token_label(lm.tokenizer, token) if token < lm.tokenizer.vocab_size else f"#{token}"


def _gap(lm: LanguageModel, replay: Replay, at: int) -> float | None:
    """Of the logits behind the tokens that both answers have; of a decoder, which one more prefill tells."""
    if lm.bundle.manifest.family != "decoder" or replay.config.num_beams > 1:
        return None
    ids = (*replay.prompt_ids, *replay.output_ids[:at])
    (token,) = lm.generate(ids, GenerationConfig(max_new_tokens=1, top_logprobs=2)).logprobs or (None,)
    if token is None or len(token.top_logprobs) < 2:
        return None
    first, second = token.top_logprobs[:2]
    return round(first.logprob - second.logprob, 6)


def _token_values(token: tuple[int, str] | None) -> dict[str, Any] | None:
    return None if token is None else {"id": token[0], "text": token[1]}
