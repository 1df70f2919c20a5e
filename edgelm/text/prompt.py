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
    writes a special token's first character itself, as in one put together from a role (``<|user|>``), means it, and
    gets it.

    A template may also make a special token of what was none (``<|im_/thinkend|>`` without ``/think``). So where a
    message has a character that special tokens start with, a second rendering, in which all of these are private,
    tells which special tokens are the template's own. It stands where the first one has others.

    Raises:
        PromptError: a message is not of the right form, nested too deep, has lone surrogates, or has a key that
            spells a special token.
        TemplateError: the template fails.
    """
    inputs = {"messages": checked_messages(messages), "variables": variables}
    spelling = _spelling(tokenizer.special_tokens, tokenizer.normalizes_special_tokens)
    strings: list[str] = []
    keys: list[str] = []
    _collect(inputs, strings, keys, spelling)
    texts = [*strings, *keys]
    if not any(map(spelling.may_start_in, texts)):
        return _encoded(tokenizer, template.render(messages, **variables), {})
    mask = _unused_characters(spelling.first_characters, [*texts, template.source])

    def hidden(text: str) -> str:
        return _masked(text, spelling.places(text), mask)

    def unstarted(text: str) -> str:
        # Names (roles, types) are what a template compares; they have nothing that a token like <|im_end|> starts with.
        return hidden(text) if text.isidentifier() else _replaced(text, mask)

    inputs_shown = _map_strings(inputs, hidden)
    inputs_unstarted = _map_strings(inputs, unstarted, lambda key: unstarted(key) if _is_free(key) else key)
    rendered = template.render(inputs_shown["messages"], **inputs_shown["variables"])
    if inputs_unstarted != inputs_shown:
        own = template.render(inputs_unstarted["messages"], **inputs_unstarted["variables"])
        if spelling.tokens(own) != spelling.tokens(rendered):
            rendered = own
    return _encoded(tokenizer, rendered, {private: char for char, private in mask.items()})


def _encoded(tokenizer: Tokenizer, rendered: str, unmask: Mapping[str, str]) -> list[int]:
    """Ids of a rendering in which only the template spells special tokens, but for private characters."""
    text = _replaced(rendered, unmask)
    if text == rendered and not (tokenizer.can_spell_special_tokens or tokenizer.normalizes_special_tokens):
        return tokenizer.encode_markup(text)
    return _encode_around_special_tokens(tokenizer, rendered, unmask)


def _encode_around_special_tokens(tokenizer: Tokenizer, rendered: str, unmask: Mapping[str, str]) -> list[int]:
    """Ids of a text: its special tokens as such, what lies between them as text, with the private characters undone.

    A private character stands for one character, so places in the masked text are places in the text.
    """
    text = _replaced(rendered, unmask)
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

    def may_start_in(self, text: str) -> bool:
        """Whether a part of the text could become the beginning of a special token."""
        return any(character in text for character in self.first_characters)

    def tokens(self, text: str) -> list[int | None]:
        """Which special tokens the text spells, one number for each kind."""
        return [found.lastindex for found in self.whole.finditer(text)]

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
    # The first character is matched, the rest only looked at: one special token may start inside another. The empty
    # group tells which it is.
    choices = "|".join(f"{re.escape(token[0])}(?={re.escape(token[1:])})()" for token in tokens)
    return _Spelling(
        whole=re.compile(choices or r"(?!)", re.IGNORECASE if ignores_case else re.NOFLAG),
        beginnings=frozenset(token[:length] for token in spelled for length in range(1, len(token))),
        first_characters=frozenset(first | {c.lower() for c in first} | {c.upper() for c in first}),
        longest=max(map(len, tokens), default=0),
        ignores_case=ignores_case,
    )


def _replaced(text: str, characters: Mapping[str, str]) -> str:
    for character, other in characters.items():  # much faster than `translate`
        text = text.replace(character, other)
    return text


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
        raise PromptError("the messages use every private-use character, and what special tokens start with")
    return mask


def _collect(value: Any, strings: list[str], keys: list[str], spelling: _Spelling, depth: int = 0) -> None:
    """Adds every string and free key in nested lists and mappings; refuses keys that spell a special token."""
    if depth > MAX_DEPTH:
        raise PromptError(f"messages and template variables may be nested {MAX_DEPTH} deep, not deeper")
    if isinstance(value, str):
        strings.append(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(key, str) and spelling.whole.search(key):
                raise PromptError(f"the key {key[:80]!r} of a message or template variable spells a special token")
            if _is_free(key):
                keys.append(key)
            _collect(item, strings, keys, spelling, depth + 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _collect(item, strings, keys, spelling, depth + 1)


def _is_free(key: Any) -> bool:
    """Whether a key is text that a template can only print: those that it looks up are names."""
    return isinstance(key, str) and not key.isidentifier()


def _map_strings(value: Any, change: Callable[[str], str], change_key: Callable[[Any], Any] | None = None) -> Any:
    """A copy of nested lists and mappings with every string changed, and the keys if there is a function for them."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {
            key if change_key is None else change_key(key): _map_strings(item, change, change_key)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_map_strings(item, change, change_key) for item in value]
    return value
