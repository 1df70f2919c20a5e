"""The form that an answer shall have, as a caller asks for it: JSON of a schema, an expression, a grammar, a choice."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from edgelm.errors import ConfigError
from edgelm.text.json_schema import as_schema, closed

Kind = Literal["json_schema", "regex", "grammar", "choices"]
KINDS: tuple[Kind, ...] = ("json_schema", "regex", "grammar", "choices")


class AnswerForm(NamedTuple):
    """What the whole answer must be.

    Attributes:
        kind: the argument that asked for it.
        text: the schema as JSON; the regular expression; the grammar in Lark's syntax, also of choices.
    """

    kind: Kind
    text: str


def split_form(settings: Mapping[str, Any]) -> tuple[AnswerForm | None, dict[str, Any]]:
    """The form among the arguments of a call (None: there is none, or it is None), and the other arguments.

    ``json_schema``: see ``as_schema``; objects have the properties that are named, and others only where
    ``additionalProperties`` says so. ``regex``: the whole answer matches it. ``grammar``: Lark as llguidance takes
    it. ``choices``: the answer is one of these texts.

    Raises:
        ConfigError: there are several, or one is not what it should be.
    """
    others = {name: value for name, value in settings.items() if name not in KINDS}
    asked: list[Kind] = [kind for kind in KINDS if settings.get(kind) is not None]
    if len(asked) > 1:
        raise ConfigError(f"{' and '.join(asked)} are given, but an answer has one form: give one of them")
    return (_form(asked[0], settings[asked[0]]) if asked else None), others


def _form(kind: Kind, value: Any) -> AnswerForm:
    if kind == "json_schema":
        return AnswerForm(kind, json.dumps(closed(as_schema(value))))
    if kind == "choices":
        return AnswerForm(kind, _choice_grammar(value))
    if not isinstance(value, str):
        raise ConfigError(f"{kind} must be a text, not {type(value).__name__}")
    return AnswerForm(kind, _utf8(kind, value))


def _choice_grammar(given: Any) -> str:
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise ConfigError(f"choices must be a list of texts, not {type(given).__name__}")
    texts = list(given)
    if not texts:
        raise ConfigError("choices are empty; give at least one text")
    for text in texts:
        if not isinstance(text, str) or not text:
            raise ConfigError(f"choices must be texts that are not empty, not {text!r:.80}")
        _utf8("choices", text)
    return "start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in dict.fromkeys(texts))


def _utf8(kind: Kind, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{kind} has a lone surrogate at character {error.start}") from None
    return text
