"""Chat templates in the manner of the well-known ones, written for the tests."""

from __future__ import annotations

CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

LLAMA2 = """\
{%- if messages[0]['role'] == 'system' %}
    {%- set system = '<<SYS>>\\n' ~ messages[0]['content'] ~ '\\n<</SYS>>\\n\\n' %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set system = '' %}
    {%- set turns = messages %}
{%- endif %}
{%- for turn in turns %}
    {%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('user and assistant must take turns') }}
    {%- endif %}
    {%- if turn['role'] == 'user' %}
        {{- bos_token + '[INST] ' + (system if loop.first else '') + turn['content'].strip() + ' [/INST]' }}
    {%- else %}
        {%- generation %}{{ ' ' + turn['content'] | trim + ' ' + eos_token }}{% endgeneration %}
    {%- endif %}
{%- endfor %}"""

GEMMA = """\
{{ bos_token }}
{%- set names = {'assistant': 'model'} %}
{%- for message in messages if message.role != 'system' %}
<start_of_turn>{{ names.get(message.role, message.role) }}
{{ message.content | trim }}<end_of_turn>
{% endfor %}
{%- if add_generation_prompt %}
<start_of_turn>model
{% endif %}"""

QWEN = """\
{%- macro turn(role, text) -%}
    <|im_start|>{{ role }}{{ '\\n' ~ text }}<|im_end|>{{ '\\n' }}
{%- endmacro %}
{%- set ns = namespace(last=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{%- if tools %}
    {{- turn('system', 'Tools:\\n' ~ (tools | tojson(indent=2))) }}
{%- endif %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == 'assistant' and loop.index0 < ns.last and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {%- set calls = namespace(text='') %}
    {%- for call in message.tool_calls or [] %}
        {%- if call.function is not defined %}{% continue %}{% endif %}
        {%- set calls.text = calls.text ~ '\\n' ~ call.function.name ~ ' ' ~ (call.function.arguments | tojson) %}
    {%- endfor %}
    {{- turn(message.role, content ~ calls.text) }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}"""

ROLE_TOKENS = """\
{%- for message in messages %}
    {{- '<|' + message.role + '|>\\n' + message.content + '<|end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""

ALL = {"chatml": CHATML, "llama2": LLAMA2, "gemma": GEMMA, "qwen": QWEN, "role_tokens": ROLE_TOKENS}
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
CHAT = (
    {"role": "system", "content": "You are helpful."},
    {"role": "user", "content": "  Which is larger, 3 < 4 or <b>5</b>?\n"},
    {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nÄpfel & 🌍 \"quoted\" 'single'"},
    {"role": "user", "content": "你好 {{ not_a_template }} {% raw %}"},
)
