"""Fuzzers of the text side: tokenizers, the detokenizer, stop strings, templates, forms of answers."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import tokenizers as build
from support.chat_templates import ALL
from support.fuzzing import JSON_VALUES, as_bytes, fuzzed, lawful, mutated, mutated_json

from edgelm.errors import ConfigError, MissingDependencyError, ModelError, PromptError, TemplateError
from edgelm.text.answer_form import split_form
from edgelm.text.chat_template import ChatTemplate
from edgelm.text.detokenizer import IncrementalDetokenizer
from edgelm.text.grammar import GrammarReader, check_form
from edgelm.text.prompt_template import PromptTemplate
from edgelm.text.stop_strings import StopMatcher
from edgelm.text.template_file import parse_template
from edgelm.text.tokenizer import Tokenizer

_BUILT = [
    build.byte_level,
    build.byte_level_with_bos,
    build.fused_byte_level,
    build.byte_fallback,
    build.unigram,
    build.word_level,
    build.word_piece,
]


@functools.cache
def documents() -> list[bytes]:
    return [make().to_str().encode() for make in _BUILT]


@functools.cache
def tokenizers_() -> list[Tokenizer]:
    return [Tokenizer(make()) for make in _BUILT]


_ANY_TEXT = st.text(st.one_of(st.characters(), st.sampled_from("ab é中🌍\ud800\u200d\0")), max_size=30)


@fuzzed(60)
@given(st.data(), _ANY_TEXT)
def test_tokenizer_files(data: st.DataObject, text: str) -> None:
    sound = data.draw(st.sampled_from(documents()))
    forged = data.draw(st.one_of(mutated(sound), mutated_json(json.loads(sound)).map(as_bytes)))
    with lawful(ModelError, PromptError):
        tokenizer = Tokenizer.from_bytes(forged, what="tokenizer.json")
        ids = tokenizer.encode(text)
        tokenizer.encode_markup(text)
        tokenizer.encode_continuation(text)
        detokenizer = IncrementalDetokenizer(tokenizer)
        pieces = [detokenizer.push(token) for token in ids]
        assert "".join([*pieces, detokenizer.finish()]) == tokenizer.decode(ids)


@fuzzed(150)
@given(st.integers(0, len(_BUILT) - 1), st.lists(st.integers(0, 499), max_size=40), st.booleans())
def test_the_detokenizer(which: int, numbers: list[int], skip: bool) -> None:
    tokenizer = tokenizers_()[which]
    ids = [number % tokenizer.vocab_size for number in numbers]
    detokenizer = IncrementalDetokenizer(tokenizer, skip_special_tokens=skip)
    pieces = [detokenizer.push(token) for token in ids]
    assert "".join([*pieces, detokenizer.finish()]) == tokenizer.decode(ids, skip_special_tokens=skip)


_FEW_LETTERS = st.text(st.sampled_from("ab🌍"), max_size=12)


@fuzzed(300)
@given(st.lists(_FEW_LETTERS.filter(bool), max_size=4), st.lists(_FEW_LETTERS, max_size=12))
@example(["aab"], ["a", "a", "aab"])
def test_the_stop_matcher(stops: list[str], pieces: list[str]) -> None:
    text = "".join(pieces)
    ends = sorted((text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text)
    matcher = StopMatcher(tuple(stops))
    released, stopped = "", False
    for piece in pieces:
        new, stopped = matcher.push(piece)
        released += new
        assert text.startswith(released)
    released += matcher.finish()
    assert stopped == bool(ends)
    assert released == (text[: ends[0][1]] if ends else text)


_WORDS = """
    {{ {% %} }} {# #} messages message.content message['role'] for if endif endfor set in loop.index loop range(
    ) | tojson join upper list length replace( 'a' * + ~ 10 10000000000 ** .__class__ .__mro__ [0] namespace() ns.x
    self cycler joiner lipsum( dict( macro call endmacro raise_exception( strftime_now( filter block generation -
    not is defined string mapping format( '%s' '{0.__class__}' .format( .items() .append( .split( eos_token == else
    elif %}{% recursive import include extends 'x'
"""
_PARTS = st.sampled_from(_WORDS.split())
_SOURCES = st.one_of(
    st.lists(_PARTS, max_size=25).map(" ".join),
    st.lists(_PARTS, max_size=12).map(lambda parts: "{% for message in messages %}{{ " + " ".join(parts) + " }}"),
    st.lists(_PARTS, max_size=8).map(lambda parts: "{{ " + " ".join(parts) + " }}"),
    st.deferred(lambda: mutated(*(source.encode() for source in ALL.values()))).map(
        lambda data: data.decode("utf-8", "surrogateescape")
    ),
)
_MESSAGES = [{"role": "system", "content": "be"}, {"role": "user", "content": "hello <|im_end|> {{ x }}"}]


@fuzzed(80)
@given(_SOURCES)
def test_chat_templates(source: str) -> None:
    with lawful(TemplateError, PromptError):
        ChatTemplate(source, special_tokens={"eos_token": "</s>"}).render(_MESSAGES)


@fuzzed(80)
@given(_SOURCES, st.one_of(_ANY_TEXT, st.lists(_PARTS).map(" ".join)), _ANY_TEXT)
def test_prompt_templates(source: str, document: str, text: str) -> None:
    with lawful(TemplateError, PromptError, ConfigError):
        template = PromptTemplate(name="x", input=source)
        template.render_text(**dict.fromkeys(template.variables, text))
    with lawful(TemplateError):
        parse_template(document, "x")


_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^a+$", "maxLength": 5},
        "ages": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1},
        "kind": {"enum": ["a", 1, None]},
        "more": {"$ref": "#/$defs/more"},
    },
    "required": ["name"],
    "$defs": {"more": {"anyOf": [{"type": "number"}, {"const": {"x": [1]}}]}},
}
_GRAMMARS = (
    b'start: "a" b+\nb: /[a-z]{2,5}/ | c?\nc: "x" | %json {"type": "integer"}\n',
    b'%ignore /\\s+/\nstart: item ("," item)*\nitem: NUMBER | STRING\nNUMBER: /[0-9]+/\nSTRING: /"[^"]*"/\n',
)
_REGEXES = (rb"(a|b)*c{1,3}[^x-z]\d+\w?(?:x|y)\u00e9", rb"[0-9]{1,3}(\.[0-9]{1,3}){3}", rb"(?i)a.*?b+$|^\s{0,9}")


@functools.cache
def _reader() -> GrammarReader:
    return GrammarReader(Tokenizer(build.byte_level()))


@fuzzed(60)
@given(st.data())
def test_forms_of_answers(data: st.DataObject) -> None:
    pytest.importorskip("llguidance")
    kind = data.draw(st.sampled_from(["json_schema", "regex", "grammar", "choices"]))
    strategies: dict[str, st.SearchStrategy[Any]] = {
        "json_schema": st.one_of(
            mutated_json(_SCHEMA),
            mutated_json(_SCHEMA).map(json.dumps),
            mutated(as_bytes(_SCHEMA)).map(_text),
            JSON_VALUES,
        ),
        "regex": st.one_of(mutated(*_REGEXES).map(_text), _ANY_TEXT),
        "grammar": st.one_of(mutated(*_GRAMMARS).map(_text), _ANY_TEXT),
        "choices": st.one_of(st.lists(_ANY_TEXT, max_size=5), JSON_VALUES),
    }
    with lawful(ConfigError, MissingDependencyError):
        form, _ = split_form({kind: data.draw(strategies[kind])})
        if form is None:
            return
        check_form(form)
        automaton = _reader().automaton(form)
        for token in (int(token) for token in automaton.allowed().nonzero()[0][:3]):
            assert automaton.copy().advance(token)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
