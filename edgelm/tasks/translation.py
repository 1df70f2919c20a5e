"""Translations of texts of any length: cut into sentences, translated many at a time, and put together again.

Translation models were trained on single sentences. What stands between them, spaces, line breaks, empty lines, is
kept as it is, and so is what has no word in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from edgelm.bundle.progress import NoProgress, Progress, transfer
from edgelm.checks import check_int
from edgelm.errors import ContextLengthError, UnsupportedModelError
from edgelm.language_model import LanguageModel
from edgelm.results import GenerationResult
from edgelm.runtime.cores import available_cores
from edgelm.tasks.languages import LanguagePlan, language_plan
from edgelm.tasks.task_settings import base_config, has_own_length, own_limit, refuse_several
from edgelm.text.language_codes import base_language
from edgelm.text.packing import pack
from edgelm.text.sentences import split_clauses, split_sentences

# Encoders with relative positions take any length; this much they have mostly seen in training.
USUAL_SOURCE_LENGTH = 512
# An answer may be that often as long as its source, and some tokens more.
LENGTH_FACTOR = 2.5
SPARE_TOKENS = 16
BATCH_SIZE = 32
BATCHES_AT_ONCE = 2
_WITHOUT_SPACES = frozenset({"zh", "ja", "th", "km", "my"})


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of text without white space at its ends, and that white space; ``translated``: it has words."""

    before: str
    text: str
    after: str

    @property
    def translated(self) -> bool:
        """Whether there is anything to translate."""
        return any(character.isalpha() for character in self.text)


@dataclass(frozen=True, slots=True)
class Translation:
    """A translated text.

    ``source`` and ``target``: languages, None where neither the caller nor the model said; ``sentences``: how many were
    translated; ``incomplete``: how many of them ended at the limit of tokens; ``prompt_tokens``,
    ``completion_tokens``: what the model read and wrote, each sentence once.
    """

    text: str
    source: str | None
    target: str | None
    sentences: int
    incomplete: int
    prompt_tokens: int
    completion_tokens: int

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, as ``--json`` prints it."""
        return {
            "translation_text": self.text,
            "source": self.source,
            "target": self.target,
            "sentences": self.sentences,
            "incomplete": self.incomplete,
            "usage": {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens},
        }


class Translator:
    """Translates with one model.

    Args:
        lm: an encoder-decoder that was trained for it.
        source: language of the texts, by its code; None: the model's only one.
        target: language of the translations, likewise.
        batch_size: sentences that are translated at a time.
        progress: told of the sentences, as they are done.
        settings: fields of ``GenerationConfig``.

    Raises:
        UnsupportedModelError: the model is no encoder-decoder.
        ConfigError: the model does not translate these languages, or must be told them and was not; ``batch_size`` is
            below 1, or the settings ask for several answers.
    """

    def __init__(
        self,
        lm: LanguageModel,
        *,
        source: str | None = None,
        target: str | None = None,
        batch_size: int = BATCH_SIZE,
        progress: Progress | None = None,
        **settings: Any,
    ) -> None:
        check_translates(lm)
        check_int("batch_size", batch_size, 1)
        refuse_several(settings, "a translation")
        self._lm = lm
        self._batch_size = batch_size
        self._progress = progress or NoProgress()
        self._settings = settings
        self.plan: LanguagePlan = language_plan(lm.bundle, lm.tokenizer, source, target)

    def translate(self, text: str) -> Translation:
        """Translates a text; for the errors see ``translate_batch``."""
        return self.translate_batch([text])[0]

    def translate_batch(self, texts: Sequence[str]) -> list[Translation]:
        """Translates texts, their sentences together.

        Raises:
            ContextLengthError: the model's limit leaves no room for a text.
            PromptError: a text cannot be encoded.
            Others: see ``LanguageModel.generate``.
        """
        segmented = [self._segments(text) for text in texts]
        wanted = dict.fromkeys(segment.text for segments in segmented for segment in segments if segment.translated)
        answers = self._answers(list(wanted))
        return [self._joined(segments, answers) for segments in segmented]

    def _segments(self, text: str) -> list[Segment]:
        segments = []
        for sentence in split_sentences(text, self.plan.source):
            whole = _segment(sentence)
            if whole.translated and len(self._encode(whole.text)) > self._limit:
                segments += [_segment(part) for part in self._parts(sentence)]
            else:
                segments.append(whole)
        return segments

    def _parts(self, sentence: str) -> list[str]:
        """A sentence that is too long, in parts that are not, cut between clauses, or at worst between words."""
        # Beside other text, the first and last words of a part may be encoded in a token more.
        room = self._limit - len(self._encode("")) - 2
        if room < 1:
            raise ContextLengthError(f"the source may have {self._limit} tokens, which leaves none for its text")
        return pack(split_clauses(sentence), lambda part: len(self._encode(part)) - len(self._encode("")), room)

    @property
    def _limit(self) -> int:
        """Tokens that a source may have, with what is put around it."""
        return min(self._lm.bundle.manifest.source_length or USUAL_SOURCE_LENGTH, USUAL_SOURCE_LENGTH)

    def _encode(self, text: str) -> list[int]:
        prompt = self.plan.prompt + text
        if self.plan.around is None:
            return self._lm.tokenizer.encode(prompt)
        before, behind = self.plan.around
        return [*before, *self._lm.tokenizer.encode(prompt, add_special_tokens=False), *behind]

    def _answers(self, texts: Sequence[str]) -> dict[str, GenerationResult]:
        """The answer to each text; those of about the same length are translated together."""
        encoded = sorted(((self._encode(text), text) for text in texts), key=lambda pair: len(pair[0]), reverse=True)
        batches = [encoded[start : start + self._batch_size] for start in range(0, len(encoded), self._batch_size)]
        answers: dict[str, GenerationResult] = {}
        with transfer(self._progress, "Translating", len(encoded)), ThreadPoolExecutor(self._workers) as workers:
            for batch, results in zip(batches, workers.map(self._batch, batches), strict=True):
                answers |= zip((text for _, text in batch), results, strict=True)
                self._progress.advance(len(batch))
        return answers

    @property
    def _workers(self) -> int:
        """Batches at a time: while one chooses tokens, which takes one thread, another is computed."""
        return min(BATCHES_AT_ONCE, self._lm.runtime.threads or available_cores())

    def _batch(self, batch: Sequence[tuple[list[int], str]]) -> list[GenerationResult]:
        """Answers to sources, the longest first."""
        return self._lm.generate_batch([ids for ids, _ in batch], **self._limits(len(batch[0][0])))

    def _limits(self, longest: int) -> dict[str, Any]:
        settings = self.plan.suggestion.under({**self.plan.settings, **self._settings})
        if has_own_length(settings):
            return settings
        own = self._lm.generation_config
        most = base_config(settings, own).new_tokens(1)  # the start token counts to max_length
        limit = own_limit(min(int(longest * LENGTH_FACTOR) + SPARE_TOKENS, most), settings, own)
        limit = min(limit, self._lm.context_length - 1)
        return {"max_new_tokens": limit, "max_length": None, **settings}

    def _joined(self, segments: Iterable[Segment], answers: dict[str, GenerationResult]) -> Translation:
        listed = list(segments)
        texts = [answers[segment.text].text.strip() if segment.translated else segment.text for segment in listed]
        used = {segment.text: answers[segment.text] for segment in listed if segment.translated}
        return Translation(
            text=rejoined(listed, texts, spaced=base_language(self.plan.target) not in _WITHOUT_SPACES),
            source=self.plan.source,
            target=self.plan.target,
            sentences=sum(segment.translated for segment in listed),
            incomplete=sum(answer.finish_reason == "length" for answer in used.values()),
            prompt_tokens=sum(answer.usage.prompt_tokens for answer in used.values()),
            completion_tokens=sum(answer.usage.completion_tokens for answer in used.values()),
        )


def check_translates(lm: LanguageModel) -> None:
    """Refuses a model that is no encoder-decoder.

    Raises:
        UnsupportedModelError: it is none.
    """
    manifest = lm.bundle.manifest
    if manifest.family != "encoder-decoder":
        raise UnsupportedModelError(
            f"{lm.name} is for {', '.join(lm.tasks)}, not for translation, which takes an encoder-decoder such as en-pt"
        )


def rejoined(segments: Sequence[Segment], texts: Sequence[str], *, spaced: bool = True) -> str:
    """Texts in the place of the segments', with the white space between them.

    ``spaced``: sentences that had no space between them, as in Chinese, and are no longer what they were, get one.
    """
    pieces: list[str] = []
    for index, (segment, text) in enumerate(zip(segments, texts, strict=True)):
        last = index + 1 == len(segments)
        missing = spaced and not last and not segment.after and not segments[index + 1].before and text != segment.text
        pieces += [segment.before, text, segment.after or (" " if missing else "")]
    return "".join(pieces)


def _segment(piece: str) -> Segment:
    text = piece.strip()
    start = len(piece) - len(piece.lstrip())
    return Segment(piece[:start], text, piece[start + len(text) :])
