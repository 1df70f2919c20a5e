"""Labels by a language model: the label with which it would most likely write the text.

Asked which label fits, small models name the one that stands first, whatever the text. So they are asked to write a
text with each label, and the likelihood of the text given is compared: the noisy channel of Min et al. (2022),
https://arxiv.org/abs/2108.04106.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ContextLengthError, PromptError
from edgelm.language_model import LanguageModel
from edgelm.runtime.sequences import SequenceDecoder
from edgelm.tasks.classification import scores as function_scores
from edgelm.tasks.probabilities import softmax
from edgelm.tasks.zero_shot import LabelRequest

_ASK = "Write a sentence. {hypothesis}"
# What each label is compared with where it stands for itself.
_ANY_LABEL = "anything"


class InstructScorer:
    """A ``LabelScorer`` by a language model; may be used by many threads.

    Scores are probabilities of the labels, all held to be equally frequent. The longer the text, the surer they are.

    Args:
        lm: with or without a chat template. It stays its caller's, who closes it.
    """

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm

    def scores(self, asked: LabelRequest) -> NDArray[np.float32]:
        """See ``LabelScorer``; with ``multi_label`` each label is compared with none in particular."""
        compared = [*asked.labels, _ANY_LABEL] if asked.multi_label else asked.labels
        prompts = [self._prompt(asked.sentence(label)) for label in compared]
        answers = self._answers(asked.texts, max(map(len, prompts)), asked.truncation)
        likelihoods = _Likelihoods(self._lm)
        found = np.array([likelihoods.of(prompt, answers) for prompt in prompts]).T
        return function_scores(found[:, :-1] - found[:, -1:], "sigmoid") if asked.multi_label else softmax(found)

    def _prompt(self, hypothesis: str) -> list[int]:
        asked = _ASK.format(hypothesis=hypothesis)
        if self._lm.has_chat_template:
            return self._lm.encode_chat([{"role": "user", "content": asked}])
        return self._lm.tokenizer.encode(f"{asked}\n")

    def _answers(self, texts: Sequence[str], prompt_tokens: int, truncation: bool) -> list[list[int]]:
        """The texts' ids, all of which fit behind the longest prompt."""
        room = self._lm.context_length - prompt_tokens
        answers = [self._lm.tokenizer.encode_continuation(text) for text in texts]
        for index, answer in enumerate(answers):
            if not answer:
                raise PromptError(f"text {index} has no token for this model", place=index)
        longest = max(map(len, answers), default=0)
        if room < 1 or (longest > room and not truncation):
            raise ContextLengthError(
                f"text and label take {prompt_tokens + longest} tokens; {self._lm.bundle.manifest.name} takes "
                f"{self._lm.context_length}: shorten them, or have them cut with truncation=True (--truncate)"
            )
        self._lm.check_memory(self._lm.memory_budget(prompt_tokens + min(longest, room)))
        return [answer[:room] for answer in answers]


class _Likelihoods:
    """Likelihoods of answers, on one KV cache: a prompt is computed from where it parts from the one before."""

    def __init__(self, lm: LanguageModel) -> None:
        self._decoder: SequenceDecoder = lm.new_decoder()
        self._held: list[int] = []

    def of(self, prompt: list[int], answers: Sequence[list[int]]) -> NDArray[np.float32]:
        """(answers,) float32: the log-probability of each answer behind the prompt."""
        shared = _common_prefix(self._held, prompt[:-1])
        self._decoder.rewind(shared)
        self._held = prompt
        first = self._decoder.prefill(prompt[shared:]).copy()
        return np.array([self._likelihood(answer, first, len(prompt)) for answer in answers], np.float32)

    def _likelihood(self, answer: list[int], first: NDArray[np.float32], start: int) -> float:
        total = _log_probability(first, answer[0])
        if len(answer) > 1:
            self._decoder.rewind(start)
            rows = (row for chunk in self._decoder.all_logits(answer[:-1]) for row in chunk)
            total += sum(_log_probability(row, token) for row, token in zip(rows, answer[1:], strict=True))
            self._decoder.rewind(start)
        return total


def _log_probability(logits: NDArray[np.float32], token: int) -> float:
    highest = logits.max()
    return float(logits[token] - highest - np.log(np.exp(logits - highest).sum()))


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    length = min(len(a), len(b))
    return next((place for place in range(length) if a[place] != b[place]), length)
