"""Chat templates, rendered and encoded, against transformers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import chat_templates as real
from support import tokenizers as build

from edgelm.text.chat_template import ChatTemplate
from edgelm.text.prompt import encode_chat
from edgelm.text.tokenizer import Tokenizer

pytestmark = [
    pytest.mark.reference,
    # transformers and torch warn about themselves
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

BUILDERS = {"byte_level": build.byte_level, "byte_fallback": build.byte_fallback}
VARIABLES: tuple[dict[str, Any], ...] = (
    {},
    {"add_generation_prompt": False},
    {"tools": [{"type": "function", "function": {"name": "add", "parameters": {"ä": ["<x>", 1.5, None]}}}]},
    {"enable_thinking": False},
)
SNIPPETS = (
    "{% for i in [1, 2, 3] %}{{ i }}{{ loop.length }}{{ loop.last }}{% break %}{% else %}none{% endfor %}",
    "{% for m in messages %}{{ loop.index }}{{ loop.previtem.role if loop.previtem }}{{ loop.revindex }}{% endfor %}",
    "{% for m in messages[1:] %}{{ m.content[:5] ~ loop.first ~ 1.5 ~ none }}\n  {% endfor %}\n",
    "{% set n = namespace(a=[]) %}{% for m in messages %}{% set n.a = n.a + [m.role] %}{% endfor %}{{ n.a }}",
    "{{ messages | map(attribute='role') | join(', ') }}{{ messages | selectattr('role', 'equalto', 'user') | list }}",
    "{{ {'b': 1, 'a': (1, 2), 'c': []} }}{{ {'b': 1} | dictsort | tojson }}{{ ('a',) + ('b',) }}{{ [] in [[], 1] }}",
    "{% macro f(x, y=2) %}{{ x }}{{ y }}{{ caller() if caller }}{% endmacro %}{{ f(1) }}{% call f(3) %}c{% endcall %}",
    "{% set x %}a{{ 1 }}b{% endset %}{{ x | length }}{% filter upper %}abc{{ x }}{% endfilter %}",
    "{{ messages[0].content.split(' ') | last | replace('.', '!') | indent(2) }}{{ 7 // 2 }}{{ 7 % 4 }}{{ 2 ** 3 }}",
    "{{ '%s and %03d' | format('a', 5) }}{{ '{:>5}|{x}'.format('a', x=1) }}{{ 'x' | center(5) }}{{ 2.5 | round }}",
    "{{ messages | tojson(indent=4, sort_keys=true) }}{{ messages is iterable }}{{ undefined_name }}{{ bos_token }}",
    "{% generation %}{% set q = 1 %}{{ messages[0].role }}{% endgeneration %}{{ q is defined }}",
    "{{ 'a\n\nb' | indent(2, true, true) }}{{ [3, 1, 2] | sort | reverse | list }}{{ [1, 1] | unique | list }}",
    "{%- if messages | length > 1 and messages[-1].role == 'user' -%}  yes  {%- endif %}\n{# a comment #}\n  end\n",
)


def transformers_tokenizer(name: str, template: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    roles = real.SPECIAL_TOKENS if name == "byte_fallback" else {}
    return PreTrainedTokenizerFast(tokenizer_object=BUILDERS[name](), chat_template=template, **roles)


@pytest.mark.parametrize("variables", VARIABLES, ids=lambda variables: next(iter(variables), "none"))
@pytest.mark.parametrize("name", real.ALL)
def test_rendering_equals_transformers(name: str, variables: dict[str, Any]) -> None:
    reference = transformers_tokenizer("byte_fallback", real.ALL[name])
    options = {"add_generation_prompt": True} | variables
    expected = reference.apply_chat_template(list(real.CHAT[1:]), tokenize=False, **options)
    template = ChatTemplate(real.ALL[name], special_tokens=real.SPECIAL_TOKENS)
    assert template.render(real.CHAT[1:], **variables) == expected


@pytest.mark.parametrize("source", SNIPPETS)
def test_jinja_features_equal_transformers(source: str) -> None:
    reference = transformers_tokenizer("byte_fallback", source)
    expected = reference.apply_chat_template(list(real.CHAT), tokenize=False, add_generation_prompt=True)
    assert ChatTemplate(source, special_tokens=real.SPECIAL_TOKENS).render(real.CHAT) == expected


@pytest.mark.parametrize("name", BUILDERS)
@settings(max_examples=50)
@given(contents=st.lists(st.text(max_size=30), min_size=1, max_size=3))
def test_ids_equal_transformers(name: str, contents: list[str]) -> None:
    source = real.CHATML if name == "byte_level" else "{% for m in messages %}<s>{{ m.content }}</s>\n{% endfor %}"
    reference = transformers_tokenizer(name, source)
    # One vocabulary for both: training twice does not always give the same.
    backend = type(reference.backend_tokenizer).from_str(reference.backend_tokenizer.to_str())
    messages = [{"role": "user", "content": content} for content in contents]
    expected = reference.apply_chat_template(messages, add_generation_prompt=True)
    assert encode_chat(Tokenizer(backend), ChatTemplate(source), messages) == list(expected)
