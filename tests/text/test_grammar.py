from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import tokenizers as build

from edgelm.errors import ConfigError, UnsupportedModelError
from edgelm.text.answer_form import AnswerForm, split_form
from edgelm.text.grammar import GrammarReader, check_form
from edgelm.text.tokenizer import Tokenizer

llguidance = pytest.importorskip("llguidance")

KINDS = {
    "byte level": build.byte_level,
    "byte fallback": build.byte_fallback,
    "unigram": lambda: build.unigram(with_bytes=False),
    "unigram with bytes": build.unigram,
}
MADE = {name: Tokenizer(make()) for name, make in KINDS.items()}
READERS = {name: GrammarReader(tokenizer) for name, tokenizer in MADE.items()}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "ages": {"type": "array", "items": {"type": "integer"}}},
    "required": ["name", "ages"],
}


def form_of(**settings) -> AnswerForm:
    form, _ = split_form(settings)
    assert form is not None
    return form


def follow(automaton, ids) -> bool:
    """Takes tokens up to one that may not come, which the mask must not allow."""
    for token in ids:
        allowed = bool(automaton.allowed()[token])
        if not automaton.advance(token):
            assert not allowed
            return False
    return True


def accepts(kind: str, text: str, **settings) -> bool:
    """Whether some tokens that spell the text are an answer of the form."""
    automaton = READERS[kind].automaton(form_of(**settings))
    tried = [automaton.copy() for _ in spellings(kind, text)]
    return any(follow(each, ids) and each.may_end for each, ids in zip(tried, spellings(kind, text), strict=True))


def spelled(kind: str, text: str) -> list[int]:
    return spellings(kind, text)[0]


def spellings(kind: str, text: str) -> list[list[int]]:
    """Tokens whose text it is, one for each character where there is one, with and without a space that goes."""
    tokenizer = MADE[kind]
    ids = [token for character in text for token in characters(tokenizer, character)]
    found = [each for each in (ids, [*characters(tokenizer, " "), *ids]) if tokenizer.decode(each) == text]
    assert found
    return found


def characters(tokenizer: Tokenizer, character: str) -> list[int]:
    for name in (character, character.replace(" ", "▁"), character.replace(" ", "Ġ")):
        token = tokenizer.token_to_id(name)
        if token is not None and character.isascii():  # others are bytes in some vocabularies
            return [token]
    ids = tokenizer.encode_continuation(character)
    return ids[1:] if tokenizer.id_to_token(ids[0]) == "▁" else ids


WITH_BYTES = [kind for kind in KINDS if kind != "unigram"]


@pytest.mark.parametrize("kind", WITH_BYTES)
def test_json_of_a_schema(kind: str) -> None:
    for text, right in (
        ('{"name": "Zoë\\n", "ages": [1, 22]}', True),
        ('{"name": "", "ages": []}', True),
        ('{"name":"x","ages":[]}', False),
        ('{"name": "x", "ages": [1,2]}', False),
        ('{"name": "x"}', False),
        ('{"ages": [], "name": "x"}', False),
        ('{"name": "x", "ages": ["1"]}', False),
        ('\n{"name": "x", "ages": []}', False),
        ('{"name": "x", "ages": []} ', False),
    ):
        assert accepts(kind, text, json_schema=PERSON) == right, text


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text('abé\n"\\ 你', max_size=4),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc ", max_size=3), inner, max_size=3),
        max_leaves=6,
    )
)
def test_any_object_is_what_python_writes(value) -> None:
    assert accepts("byte level", json.dumps({"value": value}, ensure_ascii=False), json_schema={})


def test_a_schema_may_ask_for_its_own_white_space() -> None:
    schema = {"type": "array", "items": {"type": "integer"}}
    compact = {**schema, "x-guidance": {"item_separator": ","}}
    assert accepts("byte level", "[1, 2]", json_schema=schema)
    assert accepts("byte level", "[1,2]", json_schema=compact)
    assert not accepts("byte level", "[1, 2]", json_schema=compact)
    with pytest.raises(ConfigError, match="x-guidance must be an object"):
        READERS["byte level"].automaton(form_of(json_schema={**schema, "x-guidance": 5}))


@pytest.mark.parametrize("kind", KINDS)
def test_expressions_match_the_whole_answer(kind: str) -> None:
    for text, right in (
        ("the fox", True),
        ("thethe dog", True),
        ("the", False),
        ("the foxy", False),
        (" the fox", False),
    ):
        assert accepts(kind, text, regex="(the)+ (fox|dog)") == right, text
    assert accepts(kind, "the", regex="^the$")
    assert not accepts("byte level", "٣", regex=r"\d")


@pytest.mark.parametrize("kind", KINDS)
def test_the_space_that_a_first_token_loses_does_not_count(kind: str) -> None:
    for text, right in ((" the", True), ("the", True), ("  the", False)):
        assert accepts(kind, text, regex=" ?the") == right, text
    for text, right in ((" the", True), ("the", False)):
        assert accepts(kind, text, regex=" the") == right, text
    tokenizer = MADE[kind]
    word = tokenizer.token_to_id("▁the" if kind != "byte level" else "Ġthe")
    automaton = READERS[kind].automaton(form_of(choices=["the fox"]))
    assert follow(automaton, [] if word is None else [word]) == (kind != "byte level" or word is None)


@pytest.mark.parametrize("kind", KINDS)
def test_choices_and_grammars(kind: str) -> None:
    for text in ("sea", "sea shells", "shore"):
        assert accepts(kind, text, choices=["sea shells", "shore", "sea"])
    assert not accepts(kind, "sea s", choices=["sea shells", "shore", "sea"])
    grammar = 'start: word (" " word)*\nword: "the" | /s[a-z]+/'
    assert accepts(kind, "the sea shells", grammar=grammar)
    assert not accepts(kind, "the  sea", grammar=grammar)


def test_where_it_may_end() -> None:
    automaton = READERS["byte level"].automaton(form_of(choices=["sea", "sea s"]))
    assert not automaton.may_end
    assert follow(automaton, spelled("byte level", "sea"))
    assert automaton.may_end
    assert automaton.allowed().any()
    assert follow(automaton, spelled("byte level", " s"))
    assert automaton.may_end
    assert not automaton.allowed().any()


@pytest.mark.parametrize("kind", WITH_BYTES)
def test_special_tokens_are_never_allowed_but_where_a_grammar_names_them(kind: str) -> None:
    special = sorted(MADE[kind].special_token_ids)
    for settings in ({"regex": ".*"}, {"json_schema": {}}, {"choices": MADE[kind].special_tokens}):
        assert not READERS[kind].automaton(form_of(**settings)).allowed()[special].any()
    if kind == "byte level":
        automaton = READERS[kind].automaton(form_of(grammar='start: <|im_start|> "a"'))
        assert np.flatnonzero(automaton.allowed()).tolist() == [MADE[kind].token_to_id("<|im_start|>")]


@given(st.lists(st.integers(0, 30), max_size=12), st.integers(0, 12))
def test_tokens_taken_back_and_copies_change_nothing(picks: list[int], back: int) -> None:
    reader = READERS["byte level"]
    automaton = reader.automaton(form_of(json_schema=PERSON))
    taken: list[int] = []
    for pick in picks:
        allowed = np.flatnonzero(automaton.allowed())
        taken.append(int(allowed[pick % len(allowed)]))
        assert automaton.advance(taken[-1])
    kept = taken[: max(0, len(taken) - back)]
    before = automaton.allowed()
    copy = automaton.copy()
    copy.rewind(len(taken) - len(kept))
    fresh = reader.automaton(form_of(json_schema=PERSON))
    assert follow(fresh, kept)
    np.testing.assert_array_equal(copy.allowed(), fresh.allowed())
    np.testing.assert_array_equal(automaton.allowed(), before)


def test_tokens_outside_the_vocabulary_may_not_come() -> None:
    automaton = READERS["byte level"].automaton(form_of(regex=".*"))
    size = MADE["byte level"].vocab_size
    assert automaton.allowed().shape == (size,)
    assert not any(automaton.advance(token) for token in (-1, size, size + 1, 10**6))
    assert automaton.may_end


@pytest.mark.parametrize("kind", ["byte level", "byte fallback"])
def test_masks_are_those_of_llguidance_s_own_reading(kind: str) -> None:
    tokenizer = MADE[kind]
    own = llguidance.LLTokenizer(tokenizer.native.to_str())
    grammar = llguidance.LLMatcher.grammar_from_regex("[a-z ]{1,9}|x[0-9]+")
    matcher = llguidance.LLMatcher(own, grammar, log_level=0)
    reader = READERS[kind]
    automaton = reader.automaton(form_of(regex="[a-z ]{1,9}|x[0-9]+"))
    if reader.automaton(form_of(regex=" ")).advance(tokenizer.encode_continuation("a")[0]):
        pytest.fail("a word is no space")
    if kind == "byte fallback":  # its first space does not count
        assert automaton.advance(tokenizer.token_to_id("▁"))
    for token in [None, *tokenizer.encode_continuation("hello")]:
        if token is not None:
            assert matcher.consume_token(token)
            assert automaton.advance(token)
        bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        theirs = np.unpackbits(bits, count=tokenizer.vocab_size, bitorder="little").astype(bool)
        theirs[sorted(tokenizer.special_token_ids)] = False
        assert (automaton.allowed() == theirs).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"regex": "(a"}, r"regex: .*regex parse error: \(a error: unclosed group$"),
        ({"regex": "a(?=b)"}, "regex: .*look-around, including look-ahead and look-behind, is not supported"),
        ({"grammar": "start: foo"}, 'grammar: .*unknown name: "foo"$'),
        ({"grammar": "start: ("}, "grammar: .*Expected token"),
        ({"grammar": 'rule: "a"'}, "grammar: .*start"),
        ({"json_schema": {"type": "strin"}}, "json_schema: Invalid type: strin$"),
        ({"json_schema": {"not": {}}}, 'json_schema: Unimplemented keys: \\["not"\\]$'),
        (
            {"json_schema": {"minimum": 3, "maximum": 2, "type": "integer"}},
            "json_schema: Unsatisfiable schema: minimum",
        ),
        ({"json_schema": {"$ref": "#/$defs/x"}}, "json_schema: Pointer '/\\$defs/x' does not exist$"),
        ({"json_schema": {"type": "string", "pattern": "(a"}}, "json_schema: regex parse error: .*unclosed group$"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(settings, message: str) -> None:
    form = form_of(**settings)
    for refuse in (lambda: check_form(form), lambda: READERS["byte level"].automaton(form)):
        with pytest.raises(ConfigError, match=f"^{message}") as caught:
            refuse()
        assert "\n" not in str(caught.value)


def test_what_can_be_read_passes_without_a_model() -> None:
    for settings in ({"regex": "a+"}, {"choices": ["a"]}, {"json_schema": PERSON}, {"grammar": "start: /a/"}):
        check_form(form_of(**settings))


def test_a_tokenizer_without_the_letters_is_told() -> None:
    with pytest.raises(
        ConfigError, match=r"^the model's tokenizer has no token that an answer of this form could go on with"
    ):
        READERS["unigram"].automaton(form_of(json_schema=PERSON))


def test_a_tokenizer_that_joins_words_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="its tokenizer's decoder is WordPiece"):
        GrammarReader(Tokenizer(build.word_piece()))


def test_without_llguidance_the_command_that_installs_it_is_told() -> None:
    code = (
        "import sys; sys.modules['llguidance'] = None\n"
        "from edgelm.errors import MissingDependencyError\n"
        "from edgelm.text.answer_form import split_form\nfrom edgelm.text.grammar import check_form\n"
        "try:\n    check_form(split_form({'regex': 'a'})[0])\n"
        "except MissingDependencyError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "holding answers to a form needs llguidance; run: pip install 'edgelm[guided]'\n"
