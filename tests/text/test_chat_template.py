from __future__ import annotations

import datetime
import json
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import chat_templates as real

from edgelm.errors import PromptError, TemplateError
from edgelm.text import template_limits
from edgelm.text.chat_template import MAX_OUTPUT_BYTES, MAX_SOURCE_BYTES, ChatTemplate

HELLO = ({"role": "user", "content": "Hello"},)
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"ä": ["<x>", 1.5, None, True]}}}]


def render(source: str, **variables: Any) -> str:
    return ChatTemplate(source).render(HELLO, **variables)


def test_chatml() -> None:
    assert render(real.CHATML) == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert ChatTemplate(real.CHATML).render(HELLO, add_generation_prompt=False).endswith("<|im_end|>\n")


def test_llama2() -> None:
    template = ChatTemplate(real.LLAMA2, special_tokens=real.SPECIAL_TOKENS)
    assert template.render(real.CHAT[:3]).startswith("<s>[INST] <<SYS>>\nYou are helpful.\n<</SYS>>\n\nWhich is")
    with pytest.raises(TemplateError, match="refuses these messages: user and assistant must take turns"):
        template.render([*HELLO, *HELLO])


def test_variables_reach_the_template() -> None:
    template = ChatTemplate(real.QWEN)
    assert template.render(HELLO, enable_thinking=False).endswith("<think>\n\n</think>\n\n")
    assert "<think>" not in template.render(HELLO)
    assert json.dumps(TOOLS, ensure_ascii=False, indent=2) in template.render(HELLO, tools=TOOLS)


def test_blocks_are_trimmed_as_in_transformers() -> None:
    assert render("a\n  {% if true %}\nb\n  {% endif %}\nc\n") == "a\nb\nc"


def test_tojson_does_not_escape() -> None:
    assert render("{{ '<é&\"' | tojson }}") == '"<é&\\""'


def test_generation_block_prints_its_body_and_is_a_scope() -> None:
    assert render("{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}") == "21"


def test_strftime_now() -> None:
    assert render("{{ strftime_now('%Y') }}") in {str(datetime.datetime.now().year + i) for i in (-1, 0)}


def test_absent_tools_are_none_as_in_transformers() -> None:
    assert render("{{ tools is none }}{{ documents is none }}{{ bos_token is defined }}") == "TrueTrueFalse"


def test_loop_values_survive_the_meter() -> None:
    source = "{% for i in [1, 2, 3] %}{{ i }}{{ loop.length }}{{ loop.last }}{% break %}{% endfor %}"
    assert render(source) == "13False"
    assert render("{% for i in [] %}{% else %}none{% endfor %}") == "none"
    assert render("{% for i in messages if i.role == 'x' %}{{ i }}{% else %}no{% endfor %}") == "no"


def test_text_parts_are_joined_by_line_breaks() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert ChatTemplate("{{ messages[0].content }}").render([{"role": "user", "content": parts}]) == "one\ntwo"


def test_content_may_be_missing_beside_tool_calls() -> None:
    call = {"function": {"name": "add", "arguments": {"a": 1}}}
    rendered = ChatTemplate(real.QWEN).render([{"role": "assistant", "tool_calls": [call]}])
    assert 'add {"a": 1}' in rendered


BAD_MESSAGES: dict[str, tuple[Any, str]] = {
    "no list": ("Hello", "must be a list"),
    "one message": ({"role": "user", "content": "a"}, "must be a list"),
    "none": ([], "at least one"),
    "no object": (["Hello"], r"messages\[0\] must be an object"),
    "no role": ([{"content": "a"}], r"messages\[0\]\.role"),
    "empty role": ([{"role": "", "content": "a"}], r"messages\[0\]\.role"),
    "number as role": ([*HELLO, {"role": 1, "content": "a"}], r"messages\[1\]\.role"),
    "no content": ([{"role": "user"}], r"messages\[0\]\.content"),
    "bytes": ([{"role": "user", "content": b"a"}], r"messages\[0\]\.content"),
    "image": ([{"role": "user", "content": [{"type": "image"}]}], r"messages\[0\]\.content\[0\]"),
    "text of a part": ([{"role": "user", "content": [{"type": "text", "text": 1}]}], r"content\[0\]"),
}


@pytest.mark.parametrize("case", BAD_MESSAGES)
def test_bad_messages_name_the_place(case: str) -> None:
    messages, place = BAD_MESSAGES[case]
    with pytest.raises(PromptError, match=place):
        ChatTemplate(real.CHATML).render(messages)


UNSAFE = (
    "{{ ''.__class__ }}",
    "{{ ''['__class__'] }}",
    "{{ messages | attr('__class__') }}",
    "{{ messages | map(attribute='__class__') | list }}",
    "{{ '{0.__class__}'.format('') }}",
    "{{ ''.format.__globals__ }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(role='x') }}",
    "{{ (5).to_bytes(1000000000, 'big') }}",
    "{{ 'a'.translate({97: 'b'}) }}",
    "{% include 'x' %}",
    "{% extends 'x' %}",
    "{% import 'x' as x %}",
)


@pytest.mark.parametrize("source", UNSAFE)
def test_python_s_internals_are_out_of_reach(source: str) -> None:
    with pytest.raises(TemplateError) as caught:
        render(source)
    assert "\n" not in str(caught.value)


GREEDY = (
    "{% for i in range(100000) %}{{ 'x' * 3000 }}{% endfor %}",
    "{{ 'a' * 10**9 }}",
    "{{ [0] * 10**9 }}",
    "{{ 10 ** 10 ** 10 }}",
    "{{ 'a' | center(1000000000) }}",
    "{{ 'a'.center(1000000000) }}",
    "{{ 'a'.zfill(1000000000) }}",
    "{{ 'a\t'.expandtabs(1000000000) }}",
    "{{ 'a'.expandtabs(tabsize=1000000000) }}",
    "{{ 'a\nb' | indent(1000000000) }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ '%.1000000000f' % 1.5 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%(a)1000000000d' % {'a': 1} }}",
    "{{ ('%(a)s' * 100000) % {'a': 'x' * 100000} }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ '{:{w}}'.format(1, w=1000000000) }}",
    "{{ ('{0}' * 100000).format('x' * 100000) }}",
    "{{ ('{0}' * 100000).format_map({'0': 'x' * 100000}) }}",
    "{{ range(100000) | join('x' * 100000) }}",
    "{{ ('x' * 100000).join(range(100000) | map('string')) }}",
    "{{ ('x' * 100000) | replace('', 'x' * 100000) }}",
    "{{ ('x' * 100000).replace('x', 'x' * 100000) }}",
    "{{ messages | tojson(indent=1000000000) }}",
    "{{ 5 | round(-1000000000) }}",
    "{{ 5.5 | round(1000000000, 'ceil') }}",
    "{{ ('f' * 100000) | int(base=16) // 3 }}",
    "{{ ('f' * 100) | int(base=16) }}",
    "{{ strftime_now('%c' * 100000) }}",
    "{{ range(10**9) | list }}",
    "{% set n = namespace(s='a') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "{% set n = namespace(s='a') %}{% for i in range(60) %}{% set n.s %}{{ n.s }}{{ n.s }}{% endset %}{% endfor %}",
    "{% set n = namespace(s=[]) %}{% for i in range(60) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s }}",
    "{% set n = namespace(s=()) %}{% for i in range(60) %}{% set n.s = (n.s, n.s) %}{% endfor %}{{ n.s }}",
    "{% set n = namespace(s={}) %}{% for i in range(60) %}{% set n.s = {1: n.s, 2: n.s} %}{% endfor %}{{ n.s }}",
    "{% set n = namespace(s={}) %}{% for i in range(60) %}{% set n.s = dict(a=n.s, b=n.s) %}{% endfor %}{{ n.s }}",
    "{% set a = namespace() %}{% set b = namespace(x=a, y=a) %}{{ b }}",
    "{% set a = namespace() %}{% set b = namespace() %}{% set b.x = a %}{{ b }}",
    "{% set s = 'x' * 2000000 %}" + "".join(f"{{% set a{i} = s[{i}:] %}}" for i in range(300)),
    "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "{% block a %}{{ self.a() }}{% endblock %}",
)


def peak_until_refused(source: str) -> int:
    """Bytes that a template had at most when it was refused."""
    template = ChatTemplate(source)
    tracemalloc.start()
    try:
        with pytest.raises(TemplateError):
            template.render(HELLO)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("source", GREEDY, ids=range(len(GREEDY)))
def test_memory_is_refused_before_it_is_taken(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "MAX_SECONDS", 0.5)  # tracing is slow
    # The sum of all values may be large, but only this much where everything is kept.
    assert peak_until_refused(source) < template_limits.MAX_TOTAL_BYTES + (64 << 20)


CHARACTERS = "('Ā' * 100 * 250)"
AT_ONCE = (
    "{{ ('\t' * 60000).expandtabs(1000) }}",
    "{{ ('\t' * 60000).expandtabs() }}" * 2 + "{{ ('\t' * 60000).expandtabs(tabsize=100) }}",
    "{{ " + "[" * 30 + "[none] * 2000" + "]" * 30 + " | tojson(indent=100) }}",
    "{{ ([none] * 2000) | tojson(separators=('x' * 1000, ':')) }}",
    "{{ ('aa ' * 20000).split() }}",
    "{{ ('aa ' * 20000).rsplit(sep=' ') }}",
    "{{ ('aa\n' * 20000).splitlines() }}",
    "{{ ('aa\n' * 20000) | indent(0) | length }}",
    "{{ ('aa ' * 20000) | title }}",
    f"{{{{ {CHARACTERS} | list }}}}",
    f"{{{{ {CHARACTERS} | sort }}}}",
    f"{{{{ {CHARACTERS} | groupby(none) }}}}",
    f"{{{{ {CHARACTERS} | join }}}}",
    f"{{{{ ''.join({CHARACTERS}) }}}}",
    f"{{{{ cycler(*{CHARACTERS}) }}}}",
    f"{{{{ 'a' | default(*{CHARACTERS}) }}}}",
    f"{{{{ 'a' is in(*{CHARACTERS}) }}}}",
    f"{{% for c in {CHARACTERS} | select %}}{{{{ loop.length }}}}{{% endfor %}}",
    "{{ range(200) | map(attribute='x', default=[none] * 1000) | sum(start=[]) }}",
    "{{ ('{0:999}' * 600).format(1) }}",
    "{{ '%(a(b))1000000d' % {'a(b)': 1} }}",
)


@pytest.mark.parametrize("source", AT_ONCE, ids=range(len(AT_ONCE)))
def test_one_operation_takes_the_memory_of_a_few_values(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "MAX_VALUE_BYTES", 1 << 16)
    assert peak_until_refused(source) < 8 * template_limits.MAX_VALUE_BYTES


MANY_STEPS = (
    "{{ ('x' * 2000) | reject | first }}",
    "{{ ('x' * 2000) | map(attribute='a') | select | first }}",
    "{{ ('x' * 2000) | max }}",
    "{{ ('x' * 2000) | unique | list }}",
    "{{ ([[1]] * 2000) | sum(start=[]) | length }}",
    "{{ range(2000) | sum }}",
    "{{ dict(('ab ' * 2000).split()) }}",
    "{{ {}.fromkeys(range(2000)) | length }}",
    "{{ namespace(('ab ' * 2000).split()) }}",
    "{% for c in 'x' * 2000 if c.a %}{% endfor %}",
)


@pytest.mark.parametrize("source", MANY_STEPS, ids=range(len(MANY_STEPS)))
def test_every_step_looks_at_the_clock(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter(range(100))
    monkeypatch.setattr(template_limits.Meter, "tick", lambda _: next(moments))
    with pytest.raises(TemplateError, match="fails"):  # out of moments
        ChatTemplate(source).render(HELLO)


SEARCHES = (
    "{{ ('a' * 100).rfind('a' * 20) }}",
    "{{ ('a' * 100).rindex('a' * 20) }}",
    "{{ ('a' * 100).rpartition('a' * 20) }}",
    "{{ ('a' * 100).rsplit('a' * 20) }}",
    "{{ ('a' * 100).strip('a' * 20) }}",
    "{{ ('a' * 100).lstrip('a' * 20) }}",
    "{{ ('a' * 100).rstrip('a' * 20) }}",
    "{{ ('a' * 100) | trim('a' * 20) }}",
)


@pytest.mark.parametrize("source", SEARCHES)
def test_searches_of_too_many_steps_are_refused(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    render(source)
    monkeypatch.setattr(template_limits, "MAX_SEARCH_STEPS", 1000)
    with pytest.raises(TemplateError, match="looks for 20 characters in 100"):
        render(source)


def test_patterns_are_read_once() -> None:
    # With a look at the rest from every place, the template's time would not do.
    assert len(render("{{ (':' * 30000).format() }}")) == 30000
    with pytest.raises(TemplateError, match="key that has brackets"):
        render("{{ ('%(' * 1000) % 1 }}")


LIKE_JINJA = (
    "{{ 'abc' | list }}{{ [3, 1] | sort }}{{ {'b': 1, 'a': 2} | sort }}{{ {'b': 1} | list }}{{ {'b': 1} | first }}",
    "{{ none | map('upper') | list }}{{ x | select | list }}{{ x | sum }}{{ [] | first }}{{ '' | max }}",
    "{{ [1, 2] | sum }}{{ [[1], [2]] | sum(start=[]) }}{{ [{'a': 1}, {'a': 2}] | sum(attribute='a', start=3) }}",
    "{{ dict(a=1) }}{{ dict([('a', 1)], b=2) }}{{ dict({'b': 2}) }}{{ {}.fromkeys('ab', 1) }}{{ dict.fromkeys([1]) }}",
    "{% for i in 'abc' if i != 'b' %}{{ i }}{{ loop.length }}{{ dict([(i, 1)]) }}{% else %}none{% endfor %}",
    "{{ 'a b  c'.split() }}{{ 'a,b,c'.split(',', 1) }}{{ 'a b'.rsplit(sep=' ', maxsplit=0) }}",
    "{{ 'a\tb'.expandtabs() }}{{ 'a\tb'.expandtabs(tabsize=2) }}{{ 'a\nb\r\nc'.splitlines() }}{{ 'a b-c' | title }}",
    "{{ ' a ' | trim }}{{ 'xax' | trim('x') }}{{ '12' | int }}{{ 'x' | int('none') }}{{ '0x1f' | int(base=16) }}",
    "{{ '%5.1f%%' % 2.5 }}{{ '%(x)s (%(y)d)' % {'x': 1, 'y': 2} }}{{ '{:>5}|{x!r:3} {{}}'.format('a', x=1) }}",
    "{{ 'In 2024: {} 12345 !{}'.format('b', 2) }}",
    "{% macro f() %}{{ varargs }}{% endmacro %}{{ f(*'ab') }}{{ '%s%s' | format(*[1, 2]) }}{{ 1 is in(*[[1]]) }}",
    "{{ [{'a': 1, 'b': 2}, {'a': 1}] | groupby('a') }}{{ 'bab' | unique | list }}{{ 'ab' | join('-') }}",
)


@pytest.mark.parametrize("source", LIKE_JINJA, ids=range(len(LIKE_JINJA)))
def test_metered_filters_compute_as_jinja(source: str) -> None:
    assert render(source) == jinja2.Environment().from_string(source).render()


def test_json_with_spaces_or_separators_is_python_s() -> None:
    for arguments in ({"indent": 2}, {"separators": (",", ":")}, {"indent": "\t", "separators": (" ,", ":  ")}):
        written = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        expected = json.dumps(TOOLS, ensure_ascii=False, **arguments)
        assert render(f"{{{{ tools | tojson({written}) }}}}", tools=TOOLS) == expected


ENDLESS = (
    "{% set r = range(100000) %}{% for i in r %}{% for j in r %}{% endfor %}{% endfor %}",
    "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "{% set x %}{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}{% endset %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
    "{{ range(100000) | select('in', range(100000) | map('string') | list) | list }}",
    "{{ range(100000) | map('replace', 'a', 'b') | map('center') | select('in', 'abc') | list | length }}" * 300,
)


@pytest.mark.parametrize("source", ENDLESS, ids=range(len(ENDLESS)))
def test_time_is_limited(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "MAX_SECONDS", 0.2)
    template = ChatTemplate(source)
    started = time.monotonic()
    with pytest.raises(TemplateError, match=r"seconds|value"):
        template.render(HELLO)
    assert time.monotonic() - started < 3


INVALID = (
    "{% for",
    "{{ 'a' | urlize }}",
    "{{" + "(" * 5000 + ")" * 5000 + "}}",
    "{{" + "[" * 5000 + "]" * 5000 + "}}",
    "{{" + "not " * 16000 + "a }}",
    "{% if a %}" * 3000 + "{% endif %}" * 3000,
    " " * (MAX_SOURCE_BYTES + 1),
)


@pytest.mark.parametrize("source", INVALID, ids=range(len(INVALID)))
def test_invalid_sources_are_refused_at_once(source: str) -> None:
    with pytest.raises(TemplateError):
        ChatTemplate(source)


def test_syntax_errors_name_the_line() -> None:
    with pytest.raises(TemplateError, match="line 3"):
        ChatTemplate("a\nb\n{% endif %}")


def test_output_up_to_the_limit_passes() -> None:
    messages = [{"role": "user", "content": "ä" * (MAX_OUTPUT_BYTES // 2)}]
    template = ChatTemplate("{{ messages[0].content }}{{ more }}")
    assert len(template.render(messages)) == MAX_OUTPUT_BYTES // 2
    with pytest.raises(TemplateError, match=f"more than {MAX_OUTPUT_BYTES} bytes"):
        template.render(messages, more="x")


@given(st.lists(st.integers(-100, 100), max_size=5), st.integers(0, 10), st.text(max_size=10))
def test_metered_operators_compute_as_python(numbers: list[int], times: int, text: str) -> None:
    template = ChatTemplate("{{ n * t }}{{ n + [t] }}{{ x * t }}{{ t ** 3 - t }}{{ '%s-%d' % (x, t) }}{{ x ~ t }}")
    expected = f"{numbers * times}{[*numbers, times]}{text * times}{times**3 - times}{text}-{times}{text}{times}"
    assert template.render(HELLO, n=numbers, t=times, x=text) == expected


def test_eight_threads_share_a_template() -> None:
    template = ChatTemplate(real.QWEN)
    expected = [template.render([{"role": "user", "content": f"{i}"}] * 5) for i in range(8)]

    def work(i: int) -> bool:
        messages: list[Mapping[str, Any]] = [{"role": "user", "content": f"{i}"}] * 5
        return all(template.render(messages) == expected[i] for _ in range(20))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_a_tokenizer_alone_does_not_load_jinja() -> None:
    code = "import sys, edgelm.text.detokenizer, edgelm.text.stop_strings; sys.exit('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
