"""Summaries of texts and dialogues, of any length: what is above the context window is summarized in parts.

An encoder-decoder that was trained for it is given the text as it is; a model that follows instructions is asked.
The parts' summaries are summarized again until one is left: nothing is cut off.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgelm.bundle.progress import NoProgress, Progress
from edgelm.config import GenerationConfig
from edgelm.errors import ContextLengthError, PromptError, UnsupportedModelError
from edgelm.language_model import LanguageModel
from edgelm.results import GenerationResult
from edgelm.tasks.task_settings import has_limit, has_own_length, own_limit, refuse_several, suggested
from edgelm.text.packing import pack
from edgelm.text.sentences import split_sentences

MAX_NEW_TOKENS = 256
# A part that is shorter than this is no text to summarize any more.
LEAST_PART_TOKENS = 64
# Encoders with relative positions take any length; this much they have mostly seen in training.
USUAL_SOURCE_LENGTH = 512
# Parts in one batch: more are little faster and take more memory.
AT_ONCE = 4

_ASK = {
    False: "Summarize the following text in a few sentences.\n\n{text}",
    True: "Summarize the following conversation in a few sentences: who wants what, and what is agreed.\n\n{text}",
}
_ASK_PART = {
    False: "Summarize the following part of a longer text in a few sentences.\n\n{text}",
    True: "Summarize the following part of a longer conversation in a few sentences.\n\n{text}",
}
_ASK_WHOLE = "These are summaries of the parts of one text, in order. Write one summary of the whole text.\n\n{text}"
_TURN = re.compile(r"[^\S\n]*[^\s:][^:\n]{0,39}:[^\S\n]+\S.*")
_LEAST_TURNS = 2

# Architectures of nothing but translators.
_TRANSLATORS = frozenset({"bergamot", "m2m_100", "marian"})
# Lengths of prompt and answer together, and those of the answer.
_LENGTHS = {"max_length": "max_new_tokens", "min_length": "min_new_tokens"}

Turn = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Summary:
    """A summary.

    ``parts``: how many parts the text was summarized in, 1 where it fitted; ``answers``: every answer of the model on
    the way, the last of which is the summary.
    """

    text: str
    parts: int
    answers: tuple[GenerationResult, ...]

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, as ``--json`` prints it."""
        usages = [answer.usage for answer in self.answers]
        return {
            "summary_text": self.text,
            "parts": self.parts,
            "finish_reason": self.answers[-1].finish_reason,
            "usage": {
                "prompt_tokens": sum(usage.prompt_tokens for usage in usages),
                "completion_tokens": sum(usage.completion_tokens for usage in usages),
            },
        }


class Summarizer:
    """Summarizes with one model.

    Args:
        lm: an encoder-decoder, or a decoder with a chat template.
        progress: told how many parts there are, and of each that is done, where there are several.
        settings: fields of ``GenerationConfig``, on top of what the model's authors suggest for summaries, and
            ``generation_config``, in the place of that. ``max_length`` and ``min_length`` are the summary's, also of a
            model that is asked in a prompt, which nobody sees.

    Raises:
        UnsupportedModelError: the model only continues texts, or only translates.
        ConfigError: the settings ask for several answers.
    """

    def __init__(self, lm: LanguageModel, *, progress: Progress | None = None, **settings: Any) -> None:
        self._lm = lm
        self._progress = progress or NoProgress()
        self._asks = lm.bundle.manifest.family == "decoder"
        if self._asks and not lm.has_chat_template:
            raise UnsupportedModelError(
                f"{lm.bundle.manifest.name} only continues texts; a summary needs a model that takes instructions, "
                "or an encoder-decoder"
            )
        if _only_translates(lm):
            raise UnsupportedModelError(
                f"{lm.name} is a translator; a summary needs a model that takes instructions, or one trained for it"
            )
        refuse_several(settings, "a summary")
        own = suggested(lm.bundle, "summarization")
        self._prefix = own.prefix
        self._settings = _of_the_answer(own.under(settings)) if self._asks else own.under(settings)
        if not has_own_length(self._settings) and (self._asks or not has_limit(lm.generation_config)):
            self._settings["max_new_tokens"] = own_limit(MAX_NEW_TOKENS, self._settings, lm.generation_config)

    def summarize(self, text: str | Sequence[Turn], *, dialogue: bool | None = None) -> Summary:
        """Summarizes a text, or a dialogue.

        Args:
            text: a text, or the turns of a dialogue as pairs of speaker and what was said.
            dialogue: whether the text is one (lines such as ``Ann: Hello``); None: look.

        Raises:
            PromptError: there is nothing to summarize.
            ContextLengthError: the context window is too small for any part of it.
            Others: see ``LanguageModel.generate``.
        """
        if not isinstance(text, str):
            text, dialogue = "\n".join(f"{speaker}: {said}" for speaker, said in text), True
        if not text.strip():
            raise PromptError("there is no text to summarize")
        is_dialogue = looks_like_dialogue(text) if dialogue is None else dialogue
        ask = _ASK[is_dialogue]
        parts = self._parts(text, ask, is_dialogue)
        if len(parts) > 1:
            ask = _ASK_PART[is_dialogue]
            parts = self._parts(text, ask, is_dialogue)
        answers = self._answers(parts, ask)
        count = len(parts)
        while len(parts) > 1:
            shorter = self._parts("\n\n".join(answer.text.strip() for answer in answers[-len(parts) :]), _ASK_WHOLE)
            if len(shorter) >= len(parts):
                raise ContextLengthError(
                    f"the summaries of {len(parts)} parts are too long to be summarized together; ask for shorter "
                    "ones (max_new_tokens)"
                )
            parts = shorter
            answers += self._answers(parts, _ASK_WHOLE)
        return Summary(answers[-1].text.strip(), count, tuple(answers))

    def _answers(self, parts: Sequence[str], ask: str) -> list[GenerationResult]:
        progress = self._progress if len(parts) > 1 else NoProgress()
        progress.start(f"Summarizing {len(parts)} parts", len(parts))
        answers: list[GenerationResult] = []
        for start in range(0, len(parts), AT_ONCE):
            prompts = [self._prompt(part, ask) for part in parts[start : start + AT_ONCE]]
            answers += self._lm.generate_batch(prompts, **self._settings)
            progress.advance(len(prompts))
        progress.finish()
        return answers

    def _prompt(self, text: str, ask: str) -> str | list[int]:
        if not self._asks:
            return self._prefix + text
        return self._lm.encode_chat([{"role": "user", "content": ask.format(text=text)}])

    def _parts(self, text: str, ask: str, is_dialogue: bool = False) -> list[str]:
        """The text in parts that fit beside the question and the answer, cut between sentences or turns."""
        limit = self._room()
        whole = self._prompt(text, ask)
        if len(whole if isinstance(whole, list) else self._lm.tokenizer.encode(whole)) <= limit:
            return [text]
        # Beside other text, the first and last words of a part may be encoded in a token more.
        room = limit - self._tokens_around(ask) - 2
        if room < min(LEAST_PART_TOKENS, self._lm.context_length // 4):
            raise ContextLengthError(
                f"beside question and answer, the context window leaves {max(room, 0)} tokens for the text; "
                "allow a longer context or a shorter answer"
            )
        pieces = text.splitlines(keepends=True) if is_dialogue else split_sentences(text)
        return pack(pieces, lambda part: len(self._lm.tokenizer.encode(part, add_special_tokens=False)), room)

    def _room(self) -> int:
        """Most tokens of a prompt."""
        if not self._asks:
            return self._lm.bundle.manifest.source_length or USUAL_SOURCE_LENGTH
        # None: as long as it gets; what is no number, ``generate_batch`` refuses.
        config = self._settings.get("generation_config")
        answer = self._settings.get("max_new_tokens", getattr(config, "max_new_tokens", None))
        return self._lm.context_length - (answer if isinstance(answer, int) else MAX_NEW_TOKENS)

    def _tokens_around(self, ask: str) -> int:
        empty = self._prompt("", ask)
        return len(empty if isinstance(empty, list) else self._lm.tokenizer.encode(empty))


def _only_translates(lm: LanguageModel) -> bool:
    """By its tasks; folders of other tools do not tell them, but what the model is."""
    others = {"summarization", "text2text-generation"} & set(lm.tasks)
    return ("translation" in lm.tasks and not others) or lm.bundle.manifest.architecture in _TRANSLATORS


def _of_the_answer(settings: dict[str, Any]) -> dict[str, Any]:
    """The lengths of prompt and answer as lengths of the answer alone; where both are given, those hold."""
    config = settings.get("generation_config")
    if isinstance(config, GenerationConfig):
        named = {name: getattr(config, name) for name, new in _LENGTHS.items() if not getattr(config, new)}
        named = {name: value for name, value in named.items() if value}
        settings = {**settings, "generation_config": config.updated(**_renamed(named))}
    return _renamed(settings)


def _renamed(settings: Mapping[str, Any]) -> dict[str, Any]:
    renamed = {_LENGTHS[name]: value for name, value in settings.items() if name in _LENGTHS}
    return {**renamed, **{name: value for name, value in settings.items() if name not in _LENGTHS}}


def looks_like_dialogue(text: str) -> bool:
    """Whether most lines begin with the name of who speaks, as in ``Ann: Hello``."""
    lines = [line for line in text.splitlines() if line.strip()]
    turns = sum(_TURN.fullmatch(line) is not None for line in lines)
    return turns >= _LEAST_TURNS and turns > 0.7 * len(lines)
