"""The forms of answers as automata over a model's tokens: the only importer of llguidance."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ConfigError, MissingDependencyError
from edgelm.text.answer_form import AnswerForm
from edgelm.text.token_bytes import token_bytes
from edgelm.text.tokenizer import Tokenizer

# JSON as Python writes it: what small models have seen most. Free white space leads them to write nothing else.
_JSON_STYLE = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
_ANSWER = "answer"
# What marks a token as special for the library.
_SPECIAL = b"\xff"
# The library's word where a mask is empty.
_NO_TOKEN = "NoExtension"
_DRAWN = re.compile(r"\d+ \||\^+$")


def check_form(form: AnswerForm) -> None:
    """Checks a form without a model.

    Raises:
        ConfigError: it cannot be read; says why, in the words of llguidance.
        MissingDependencyError: llguidance is not installed.
    """
    llguidance = _import_llguidance()
    fault = llguidance.LLMatcher.validate_grammar(_grammars(form, prefix=None))
    if fault:
        raise _refusal(form, fault)


class GrammarReader:
    """Reads forms for one tokenizer; building it takes some hundred milliseconds. May be used by many threads.

    Raises:
        MissingDependencyError: llguidance is not installed.
        UnsupportedModelError: the tokenizer's tokens have no bytes of their own.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._library = _import_llguidance()
        read = token_bytes(tokenizer)
        self._drops_first_space = read.drops_first_space
        self._with_space = np.array([token.startswith(b" ") for token in read.tokens])
        self._tokens = self._library.LLTokenizer(_Vocabulary(tokenizer, read.tokens))

    def automaton(self, form: AnswerForm) -> Automaton:
        """The automaton of a form, at its start.

        Raises:
            ConfigError: the form cannot be read, or no token of this model's could begin an answer.
        """
        automaton = self._automaton(form, None)
        if self._drops_first_space:
            # A first token's space does not show: the answer may begin with one more, and must if it has its own.
            with_own = bool((automaton.allowed() & self._with_space).any())
            automaton = self._automaton(form, '" "' if with_own else '" "?')
        automaton.copy().allowed()  # so that what cannot even begin is told now
        return automaton

    def _automaton(self, form: AnswerForm, prefix: str | None) -> Automaton:
        limits = self._library.LLParserLimits(verbose_errors=False)
        matcher = self._library.LLMatcher(self._tokens, _grammars(form, prefix), log_level=0, limits=limits)
        fault = matcher.get_error()
        if fault:
            raise _refusal(form, fault)
        return Automaton(matcher, self._with_space.size)


class Automaton:
    """Which tokens may come next in an answer of a form; see ``edgelm.generation.constraint.Constraint``.

    Args:
        matcher: llguidance's; taken over.
        size: tokens of the vocabulary.
    """

    def __init__(self, matcher: Any, size: int) -> None:
        self._matcher = matcher
        self._size = size

    @property
    def may_end(self) -> bool:
        """Whether the answer is complete as it is."""
        return bool(self._matcher.is_accepting())

    def allowed(self) -> NDArray[np.bool_]:
        """(N,) for each token of the tokenizer, whether it may come next; none where the answer is over.

        Where the form leaves no choice of text, only the token is that the tokenizer would take.

        Raises:
            ConfigError: the form has become too large to follow, or needs characters that the tokenizer has not.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return np.unpackbits(bits, count=self._size, bitorder="little").view(np.bool_)

    def advance(self, token: int) -> bool:
        """Takes the next token; returns False, and stays as it is, where that may not come."""
        if not 0 <= token < self._size:
            return False
        taken: bool = self._matcher.try_consume_tokens([token]) == 1
        self._check()
        return taken

    def rewind(self, count: int) -> None:
        """Takes back the last ``count`` tokens."""
        if count:
            self._matcher.rollback(count)
            self._check()

    def copy(self) -> Self:
        """Another one in the same state; the two go on by themselves."""
        return type(self)(self._matcher.deep_copy(), self._size)

    def _check(self) -> None:
        fault = self._matcher.get_error()
        if _NO_TOKEN in fault:
            raise ConfigError("the model's tokenizer has no token that an answer of this form could go on with")
        if fault:
            raise ConfigError(f"the answer's form cannot be followed further: {_one_line(fault)}")


class _Vocabulary:
    """A tokenizer as llguidance wants it; one more token stands for the end, whichever tokens end an answer."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, tokens: list[bytes]) -> None:
        self.eos_token_id = len(tokens)
        self.special_token_ids = [*sorted(tokenizer.special_token_ids), self.eos_token_id]
        names = {token_id: tokenizer.id_to_token(token_id) or "" for token_id in tokenizer.special_token_ids}
        named = [
            _SPECIAL + names[token_id].encode() if token_id in names else token for token_id, token in enumerate(tokens)
        ]
        self.tokens = [*named, _SPECIAL + b"<end of the answer>"]
        self._tokenizer = tokenizer
        self._ids = {token: token_id for token_id, token in enumerate(tokens) if token}
        self._longest = max(map(len, self._ids), default=0)

    def __call__(self, text: str) -> list[int]:
        """The tokens that spell a text which the grammar leaves no choice about."""
        ids = self._tokenizer.encode_continuation(text)
        wanted = text.encode()
        # Tokenizers may put a space before the text, or normalize it.
        return ids if b"".join(self.tokens[token_id] for token_id in ids) == wanted else self._longest_first(wanted)

    def _longest_first(self, text: bytes) -> list[int]:
        ids, start = [], 0
        while start < len(text):
            pieces = (text[start:end] for end in range(min(len(text), start + self._longest), start, -1))
            piece = next((piece for piece in pieces if piece in self._ids), None)
            if piece is None:  # the library makes do with a beginning
                break
            ids.append(self._ids[piece])
            start += len(piece)
        return ids


def _grammars(form: AnswerForm, prefix: str | None) -> str:
    """The form as llguidance takes it, behind ``prefix``, an expression of Lark's syntax."""
    answer: dict[str, Any] = {"name": _ANSWER}
    if form.kind == "json_schema":
        schema: Mapping[str, Any] = json.loads(form.text)
        answer["json_schema"] = {**schema, "x-guidance": {**_JSON_STYLE, **_json_style(schema)}}
    elif form.kind == "regex":
        # \d is 0 to 9: models know other scripts' digits, and callers seldom mean them.
        answer["lark_grammar"] = f"start: /{_import_llguidance().regex_to_lark(form.text, 'd')}/"
    else:
        answer["lark_grammar"] = form.text
    if prefix is None:
        return json.dumps({"grammars": [answer]})
    return json.dumps({"grammars": [{"lark_grammar": f"start: {prefix} @{_ANSWER}"}, answer]})


def _json_style(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema's own wishes about white space."""
    own = schema.get("x-guidance", {})
    if not isinstance(own, Mapping):
        raise ConfigError("json_schema: x-guidance must be an object of llguidance's options")
    return own


def _import_llguidance() -> ModuleType:
    try:
        import llguidance
    except ImportError as error:
        raise MissingDependencyError(
            "holding answers to a form needs llguidance; run: pip install 'edgelm[guided]'"
        ) from error
    module: ModuleType = llguidance
    return module


def _refusal(form: AnswerForm, fault: str) -> ConfigError:
    return ConfigError(f"{form.kind}: {_one_line(fault)}")


def _one_line(fault: str) -> str:
    """What llguidance says, without the lines that draw the place."""
    lines = [line.strip() for line in fault.splitlines()]
    told = [line for line in lines if line and not _DRAWN.match(line)]
    return f"{' '.join(told):.300}" or "llguidance gives no reason"
