"""What is compared: prompts, inputs, configurations and seeds as callers and files give them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgelm.comparison.grid_file import read_grid
from edgelm.comparison.plan import (
    Configuration,
    Input,
    Plan,
    PromptCase,
    configurations,
    inputs_of,
    prompt_cases,
    seeds_of,
)
from edgelm.errors import ConfigError, EdgeLMError
from edgelm.text.prompt_template import PromptTemplate

EXAMPLES = [{"text": "a", "output": "b"}, {"text": "c", "output": "d"}]


def test_a_text_stands_for_itself_without_an_input() -> None:
    (case,) = prompt_cases("Say {{ text }} {% x")
    assert case.fill(Input()).text() == "Say {{ text }} {% x"


def test_an_input_has_its_place_or_stands_before_the_prompt() -> None:
    given = Input({"text": "{{ the }}", "to": "French"})
    assert PromptCase("p", "Say {{ text }} in {{ to }}").fill(given).text() == "Say {{ the }} in French"
    assert PromptCase("p", "Say it.").fill(given).text() == "{{ the }}\n\nSay it."
    assert PromptCase("p", PromptTemplate.load("translation")).fill(given).text().endswith("{{ the }}\nFrench:")
    with pytest.raises(ConfigError, match="the prompt 'p' has no variable 'text' for the input"):
        PromptCase("p", "Say {{ this }}").fill(given)


def test_several_counts_of_examples_are_several_prompts() -> None:
    cases = prompt_cases({"template": "classification", "examples": EXAMPLES, "k": [0, 2]})
    assert [case.name for case in cases] == ["classification k=0", "classification k=2"]
    assert [len(case.fill(Input({"text": "x"})).examples) for case in cases] == [0, 2]
    assert prompt_cases({"name": "few", "template": "summary", "examples": EXAMPLES, "k": 1})[0].name == "few"


def test_prompts_that_begin_alike_are_told_apart() -> None:
    names = [case.name for case in prompt_cases(["x" * 50 + "1", "x" * 50 + "2", "short"])]
    assert names == ["x" * 39 + "…", "x" * 39 + "… (2)", "short"]


def test_a_grid_is_every_combination() -> None:
    chosen = configurations({"temperature": [0.5, 1.0], "top_k": [0, 5]}, [{"name": "plain"}], {"max_new_tokens": 9})
    assert [one.name for one in chosen] == [
        *(f"temperature={t}, top_k={k}" for t in (0.5, 1.0) for k in (0, 5)),
        "plain",
    ]
    assert chosen[3].settings == {"max_new_tokens": 9, "temperature": 1.0, "top_k": 5}
    assert chosen[4].settings == {"max_new_tokens": 9}
    assert configurations(None, (), {"top_k": 1}) == (Configuration("default", {"top_k": 1}),)


def test_seeds() -> None:
    assert seeds_of(None) == (None,)
    assert seeds_of(3) == (1, 2, 3)
    assert seeds_of([7, 0, 7]) == (7, 0)


def test_inputs(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a", "reference": ["b", "c"]}\n{"input": "d", "output": "e", "to": "French"}\n')
    assert inputs_of(file) == (Input({"text": "a"}, ("b", "c")), Input({"to": "French", "text": "d"}, ("e",)))
    assert inputs_of("a") == inputs_of(["a"]) == inputs_of({"text": "a"}) == (Input({"text": "a"}),)
    assert inputs_of(None) == (Input(),)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: prompt_cases(3), r"prompts\[0\] must be a text, a template, or a mapping"),
        (lambda: prompt_cases([{"txt": "a"}]), r"prompts\[0\]: unknown field 'txt'"),
        (lambda: prompt_cases({"name": "a"}), "needs either 'text' or 'template'"),
        (lambda: prompt_cases({"text": "a", "template": "summary"}), "needs either"),
        (lambda: prompt_cases({"text": "a", "k": 1}), "goes with no field but 'name'"),
        (lambda: prompt_cases({"text": "a", "name": ""}), "'name' must be a text"),
        (lambda: prompt_cases({"template": 1}), "'template' must be a name or a file"),
        (lambda: prompt_cases({"template": "summary", "vars": 1}), "'vars' must be variables"),
        (lambda: configurations({"top_k": 5}), "the grid needs a list of values for top_k"),
        (lambda: configurations({"top_k": []}), "the grid needs a list of values for top_k"),
        (lambda: configurations(None, ["greedy"]), r"configurations\[0\] must be settings"),  # type: ignore[list-item]
        (lambda: seeds_of(0), "seeds must be from 1"),
        (lambda: seeds_of("3"), "seeds must be how many"),
        (lambda: seeds_of([-1]), "a seed must be at least 0"),
        (lambda: inputs_of([3]), r"inputs\[0\] must be a text or a mapping"),
        (lambda: inputs_of({"text": "a", "reference": 3}), "'reference' must be a text"),
        (lambda: inputs_of({}), r"inputs\[0\]: has no 'text'"),
        (lambda: Plan(prompts=()), "there is no prompt to compare"),
        (lambda: Plan(prompts=prompt_cases("a"), inputs=()), "there is no input to compare"),
        (lambda: Plan(prompts=prompt_cases(["a"]) * 2), "two prompts are called 'a'"),
        (
            lambda: Plan(prompts=prompt_cases("a"), configurations=configurations({"tempature": [1]})),
            "unknown generation setting 'tempature'; did you mean temperature?",
        ),
        (lambda: Plan(prompts=prompt_cases("a"), seeds=tuple(range(20_000))), "at most 10000 answers a model"),
        (lambda: Plan(prompts=prompt_cases("a"), raw=True, system="b"), "raw leaves out"),
    ],
)
def test_what_cannot_be_compared_is_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(EdgeLMError, match=words):
        make()


GRID = """
models = ["one", "two"]
inputs = "inputs.csv"
seeds = [4, 5]
system = "Be brief."
[settings]
max_new_tokens = 9
top_k = 3
[grid]
temperature = [0.5, 1.0]
[[configurations]]
name = "greedy"
do_sample = false
[[prompts]]
text = "Say {{ text }}"
[[prompts]]
template = "own.toml"
examples = "examples.jsonl"
k = [0, 1]
vars = { to = "French" }
"""


def test_a_file_of_a_grid(tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(GRID)
    (tmp_path / "inputs.csv").write_text("text,reference\na,b\nc,d\n")
    (tmp_path / "own.toml").write_text('input = "{{ to }}: {{ text }}"')
    (tmp_path / "examples.jsonl").write_text('{"text": "x", "output": "y"}\n')
    grid = read_grid(tmp_path / "grid.toml", {"top_k": 7})
    assert grid.models == ("one", "two")
    assert [case.name for case in grid.plan.prompts] == ["Say {{ text }}", "own.toml k=0", "own.toml k=1"]
    assert grid.plan.prompts[2].fill(grid.plan.inputs[1]).text() == "French: x\ny\n\nFrench: c"
    assert (grid.plan.seeds, grid.plan.system, len(grid.plan.inputs)) == ((4, 5), "Be brief.", 2)
    assert [dict(one.settings) for one in grid.plan.configurations] == [
        {"max_new_tokens": 9, "top_k": 7, "temperature": 0.5},
        {"max_new_tokens": 9, "top_k": 7, "temperature": 1.0},
        {"max_new_tokens": 9, "top_k": 7, "do_sample": False},
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models =", "not TOML"),
        ("prompts = ['a']", "'models' must be a list of names"),
        ("models = []\nprompts = ['a']", "'models' must be a list of names"),
        ("models = ['a']", "'prompts' is missing"),
        ("models = ['a']\nprompt = ['a']", "unknown field 'prompt'"),
        ("models = ['a']\nprompts = 'a'", "'prompts' must be a list"),
        ("models = ['a']\nprompts = ['a']\ngrid = { top_k = 1 }", "the grid needs a list of values"),
        ("models = ['a']\nprompts = ['a']\nsettings = { tpo_k = 1 }", "unknown generation setting 'tpo_k'"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "grid.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words) as refused:
        read_grid(file, {})
    assert str(file) in str(refused.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    settings: dict[str, Any] = {}
    with pytest.raises(ConfigError, match="No such file"):
        read_grid(tmp_path / "none.toml", settings)
