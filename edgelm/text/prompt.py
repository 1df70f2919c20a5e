"""A chat to token ids, so that nobody but the template can write a special token."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

from edgelm.errors import PromptError
from edgelm.text.chat_template import ChatTemplate
from edgelm.text.messages import checked_messages
from edgelm.text.tokenizer import Tokenizer

MAX_DEPTH = 64  # of lists and objects in a message or a template's variable


def encode_chat(
    tokenizer: Tokenizer, template: ChatTemplate, messages: Sequence[Mapping[str, Any]], **variables: Any
) -> list[int]:
    """Ids of the rendered chat; ``variables`` go to ``template.render``.

    Special tokens that the template writes become special ids. Where a message or a variable spells one
    (``<|im_end|>``), it stays text. To tell the two apart, the first character of such a text is replaced by a
    private character while the template runs, and put back before the text around it is encoded. A template that
    puts a special token together from a role (``<|user|>``) means it, and gets it.

    Raises:
        PromptError: a message is not of the right form, nested too deep, has lone surrogates, or has a key that
            spells a special token.
        TemplateError: the template fails.
    """
    inputs = {"messages": checked_messages(messages), "variables": variables}
    spelling = _spelling(tokenizer.special_tokens, tokenizer.normalizes_special_tokens)
    strings: list[str] = []
    _collect(inputs, strings, spelling)
    if not tokenizer.can_spell_special_tokens and not any(map(spelling.places, strings)):
        return tokenizer.encode_markup(template.render(messages, **variables))
    mask = _unused_characters(spelling.first_characters, [*strings, template.source])
    hidden = _map_strings(inputs, lambda text: _masked(text, spelling.places(text), mask))
    rendered = template.render(hidden["messages"], **hidden["variables"])
    return _encode_around_special_tokens(tokenizer, rendered, {ord(private): char for char, private in mask.items()})


def _encode_around_special_tokens(tokenizer: Tokenizer, rendered: str, unmask: Mapping[int, str]) -> list[int]:
    """Ids of a text: its special tokens as such, what lies between them as text, with the private characters undone.

    A private character stands for one character, so places in the masked text are places in the text.
    """
    text = rendered.translate(unmask)
    ids: list[int] = []
    position = 0
    for start, end, token_id in [*tokenizer.special_spans(rendered), (len(text), len(text), None)]:
        if start > position:
            piece = text[position:start]
            # Behind another token a tokenizer must not mark the piece as the start of the text.
            ids += (
                tokenizer.encode_continuation(piece) if position else tokenizer.encode(piece, add_special_tokens=False)
            )
        if token_id is not None:
            ids.append(token_id)
        position = end
    return ids


@dataclass(frozen=True, slots=True)
class _Spelling:
    """Knows how the special tokens are spelled; ``first_characters`` are those they can start with."""

    whole: re.Pattern[str]
    beginnings: frozenset[str]
    first_characters: frozenset[str]
    longest: int
    ignores_case: bool

    def places(self, text: str) -> list[int]:
        """Where a special token starts, or one that the text behind could complete (white space may be trimmed)."""
        places = [found.start() for found in self.whole.finditer(text)]
        end = len(text.rstrip())
        for start in range(max(0, end - self.longest + 1), end):
            tail = text[start:end]
            if (tail.lower() if self.ignores_case else tail) in self.beginnings:
                places.append(start)
        return places


@lru_cache(maxsize=16)
def _spelling(special_tokens: tuple[str, ...], ignores_case: bool) -> _Spelling:
    """``ignores_case``: for tokenizers that look for special tokens in the normalized, perhaps lower-cased text."""
    tokens = [token for token in special_tokens if token and not token.isspace()]
    spelled = [token.lower() for token in tokens] if ignores_case else tokens
    first = {token[0] for token in tokens}
    # The first character is matched, the rest only looked at: one special token may start inside another.
    choices = "|".join(f"{re.escape(token[0])}(?={re.escape(token[1:])})" for token in tokens)
    return _Spelling(
        whole=re.compile(choices or r"(?!)", re.IGNORECASE if ignores_case else re.NOFLAG),
        beginnings=frozenset(token[:length] for token in spelled for length in range(1, len(token))),
        first_characters=frozenset(first | {c.lower() for c in first} | {c.upper() for c in first}),
        longest=max(map(len, tokens), default=0),
        ignores_case=ignores_case,
    )


def _masked(text: str, places: Sequence[int], mask: Mapping[str, str]) -> str:
    characters = list(text) if places else []
    for place in places:
        characters[place] = mask.get(text[place], text[place])
    return "".join(characters) if places else text


_PRIVATE_USE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))


def _unused_characters(first_characters: frozenset[str], texts: Sequence[str]) -> dict[str, str]:
    """A private character for each of ``first_characters`` that none of the texts has."""
    taken = set().union(*texts)
    free = (chr(code) for code in chain(*_PRIVATE_USE) if chr(code) not in taken)
    mask = dict(zip(sorted(first_characters), free, strict=False))
    if len(mask) < len(first_characters):
        raise PromptError("the messages use every private-use character, and spell a special token of the model")
    return mask


def _collect(value: Any, strings: list[str], spelling: _Spelling, depth: int = 0) -> None:
    """Adds every string in nested lists and mappings to ``strings``; refuses keys that spell a special token."""
    if depth > MAX_DEPTH:
        raise PromptError(f"messages and template variables may be nested {MAX_DEPTH} deep, not deeper")
    if isinstance(value, str):
        strings.append(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(key, str) and spelling.whole.search(key):
                raise PromptError(f"the key {key[:80]!r} of a message or template variable spells a special token")
            _collect(item, strings, spelling, depth + 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _collect(item, strings, spelling, depth + 1)


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """A copy of nested lists and mappings with every string changed but the keys."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _map_strings(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_map_strings(item, change) for item in value]
    return value
