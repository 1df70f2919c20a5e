"""What of the context window each part of a templated prompt takes, and its token ids, ready for the model.

The parts are counted by putting them in one after the other, so that they add up to the prompt's very tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from edgelm.errors import ContextLengthError
from edgelm.language_model import LanguageModel

if TYPE_CHECKING:
    from edgelm.text.prompt_template import FilledPrompt

_MOST_NAMED = 8


@dataclass(frozen=True, slots=True)
class PromptParts:
    """Tokens of each part; all but ``answer`` add up to the prompt.

    Attributes:
        system: the system prompt.
        template: the template's instruction and labels, and the model's chat format.
        examples: of each.
        input: the text.
        answer: most tokens that the answer can have: what was asked for, or what the window leaves.
    """

    system: int
    template: int
    examples: tuple[int, ...]
    input: int
    answer: int

    @property
    def prompt(self) -> int:
        """Tokens of the prompt."""
        return self.system + self.template + sum(self.examples) + self.input

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, as ``--json`` prints it."""
        return {
            "system": self.system,
            "template": self.template,
            "examples": list(self.examples),
            "input": self.input,
            "answer": self.answer,
        }

    def __str__(self) -> str:
        shown = [f"example {number} {count}" for number, count in enumerate(self.examples, start=1)]
        if len(shown) > _MOST_NAMED:
            shown = [f"{len(shown)} examples {sum(self.examples)}"]
        return ", ".join([f"system {self.system}", f"template {self.template}", *shown, f"input {self.input}"])


def encode_filled(lm: LanguageModel, filled: FilledPrompt, *, raw: bool = False) -> str | list[int]:
    """What the model is given: the ids of a chat, or with ``raw`` and where it has no chat template, a text.

    Raises:
        ContextLengthError: a decoder's window does not hold it; names the parts.
        TemplateError, PromptError: see ``LanguageModel.encode_chat``.
    """
    as_text = raw or not lm.has_chat_template
    prompt = filled.text() if as_text else lm.encode_chat(filled.messages())
    ids = _ids(lm, filled, as_text)
    if lm.bundle.manifest.family == "decoder" and len(ids) >= lm.context_length:
        parts = prompt_parts(lm, filled, raw=raw)
        raise ContextLengthError(
            f"the prompt has {len(ids)} tokens, but the context window is {lm.context_length} tokens and must hold an "
            f"answer as well: {parts}; {_advice(parts)}"
        )
    return prompt


def prompt_parts(
    lm: LanguageModel, filled: FilledPrompt, *, raw: bool = False, settings: Mapping[str, Any] | None = None
) -> PromptParts:
    """Counts the parts of a prompt, whose answer has the length that ``settings`` of a generation ask for."""
    as_text = raw or not lm.has_chat_template
    blank = replace(filled, instruction="", examples=(), input="", cue="")
    blank = replace(blank, system=None if filled.system is None else "")
    asked = replace(filled, examples=(), input=filled.blank_input)
    stages = [blank, replace(blank, system=filled.system), asked]
    stages += [replace(asked, examples=filled.examples[: k + 1]) for k in range(len(filled.examples))]
    counts = [len(_ids(lm, stage, as_text)) for stage in [*stages, filled]]
    grown = [after - before for before, after in pairwise(counts)]
    lengths = {name: value for name, value in (settings or {}).items() if name in ("max_new_tokens", "max_length")}
    config = lm.generation_config.updated(**lengths)
    answer = config.new_tokens(counts[-1])
    if lm.bundle.manifest.family == "decoder":
        answer = min(answer, lm.context_length - counts[-1])
    return PromptParts(grown[0], counts[0] + grown[1], tuple(grown[2:-1]), grown[-1], max(answer, 0))


def _ids(lm: LanguageModel, filled: FilledPrompt, as_text: bool) -> Sequence[int]:
    return lm.tokenizer.encode(filled.text()) if as_text else lm.encode_chat(filled.messages())


def _advice(parts: PromptParts) -> str:
    """What to shorten: the part that takes the most."""
    sizes = {
        "shorten the input": parts.input,
        "give fewer or shorter examples (-k)": sum(parts.examples),
        "shorten the system prompt": parts.system,
        "shorten the template or its variables": parts.template,
    }
    return max(sizes, key=lambda advice: sizes[advice])
