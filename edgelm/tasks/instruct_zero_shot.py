"""Labels by an instruct model: how likely it is to answer with each, when it is asked which one fits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ContextLengthError
from edgelm.language_model import LanguageModel
from edgelm.runtime.sequences import SequenceDecoder
from edgelm.tasks.classification import scores as function_scores
from edgelm.tasks.zero_shot import (
    HYPOTHESIS_TEMPLATE,
    ZeroShotResult,
    check_texts,
    checked_labels,
    filled_template,
    ranked,
)

_ASK_ONE = "{text}\n\nWhich of these labels fits the text above best: {labels}? Answer with the label only."
_ASK_EACH = "{text}\n\nIs this true of the text above: {hypothesis} Answer with yes or no only."
_YES_NO = ("Yes", "No")


class InstructClassifier:
    """A ``ZeroShotClassifier`` by a language model; may be used by many threads.

    A label's likelihood is the mean over its tokens of their log-probabilities as the answer, so that long labels are
    not less likely for being long. Texts and labels share as much of the KV cache as their prompts have in common.

    Args:
        lm: with or without a chat template. It stays its caller's, who closes it.
    """

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm

    def classify(
        self,
        texts: Sequence[str],
        labels: str | Sequence[str],
        *,
        hypothesis_template: str = HYPOTHESIS_TEMPLATE,
        multi_label: bool = False,
    ) -> list[ZeroShotResult]:
        """See ``ZeroShotClassifier``; the template is used with ``multi_label`` only: each label is asked about."""
        names = checked_labels(labels)
        hypotheses = [filled_template(hypothesis_template, name) for name in names]
        check_texts(texts)
        scorer = _Scorer(self._lm)
        results = []
        for text in texts:
            if multi_label:
                asked = [_ASK_EACH.format(text=text, hypothesis=hypothesis) for hypothesis in hypotheses]
                answers = np.array([scorer.likelihoods(question, _YES_NO) for question in asked])
                found = function_scores(answers, "softmax")[:, 0]
            else:
                question = _ASK_ONE.format(text=text, labels=", ".join(names))
                found = function_scores(scorer.likelihoods(question, names), "softmax")
            results.append(ranked(text, names, found))
        return results


class _Scorer:
    """Likelihoods of answers, on one KV cache: a prompt is computed from where it parts from the one before."""

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm
        self._decoder: SequenceDecoder = lm.new_decoder()
        self._held: list[int] = []

    def likelihoods(self, question: str, answers: Sequence[str]) -> NDArray[np.float32]:
        """(answers,) float32: the mean log-probability of each answer's tokens."""
        prompt = self._prompt(question)
        ids = [self._lm.tokenizer.encode_continuation(answer) for answer in answers]
        needed = len(prompt) + max(map(len, ids))
        if needed > self._lm.context_length:
            raise ContextLengthError(
                f"text and labels take {needed} tokens; {self._lm.bundle.manifest.name} takes {self._lm.context_length}"
            )
        self._lm.memory_budget(needed).check(self._lm.runtime.max_memory)
        first = self._first_logits(prompt)
        return np.array([self._mean(answer, first, len(prompt)) for answer in ids], np.float32)

    def _prompt(self, question: str) -> list[int]:
        if self._lm.has_chat_template:
            return self._lm.encode_chat([{"role": "user", "content": question}])
        return self._lm.tokenizer.encode(f"{question}\n")

    def _first_logits(self, prompt: list[int]) -> NDArray[np.float32]:
        shared = _common_prefix(self._held, prompt[:-1])
        self._decoder.rewind(shared)
        self._held = prompt
        return self._decoder.prefill(prompt[shared:]).copy()

    def _mean(self, answer: list[int], first: NDArray[np.float32], start: int) -> float:
        if not answer:
            return float("-inf")
        total = _log_probability(first, answer[0])
        if len(answer) > 1:
            self._decoder.rewind(start)
            rows = (row for chunk in self._decoder.all_logits(answer[:-1]) for row in chunk)
            total += sum(_log_probability(row, token) for row, token in zip(rows, answer[1:], strict=True))
            self._decoder.rewind(start)
        return total / len(answer)


def _log_probability(logits: NDArray[np.float32], token: int) -> float:
    highest = logits.max()
    return float(logits[token] - highest - np.log(np.exp(logits - highest).sum()))


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    length = min(len(a), len(b))
    return next((place for place in range(length) if a[place] != b[place]), length)
