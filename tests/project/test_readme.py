"""README.md says what the code does: its tables are held to the code's."""

from __future__ import annotations

import json
import re

import click
import pytest
from support.source_tree import ROOT

import edgelm
from edgelm.bundle.manifest import QUANTIZATION_SCHEMES
from edgelm.cli.app import app
from edgelm.cli.help_page import SUB_COMMANDS
from edgelm_tools.architectures.bart_model import MEMBERS as BART
from edgelm_tools.architectures.encoder_members import ENCODERS
from edgelm_tools.architectures.gpt_members import MEMBERS as GPT
from edgelm_tools.architectures.llama_members import MEMBERS as LLAMA
from edgelm_tools.architectures.t5_model import DEFAULTS as T5

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [name for section in SUB_COMMANDS.values() for name in section]
# Options of one command only, which its own help page is enough for.
SHARED = ("run", "chat", "bench")
OWN = {"--help", "--prompt", "--file", "--prompt-ids", "--prompt-tokens", "--prepack"}


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found, f"README.md has no section {title!r}"
    return found[1]


def first_cells(text: str) -> list[str]:
    """The first cell of each row of the tables, without its quotes."""
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| `")]
    return [re.findall(r"`([^`]+)`", row)[0] for row in rows]


def long_options(name: str) -> set[str]:
    command = app.get_command(click.Context(app), name)
    assert command
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    return {name for option in options for name in (*option.opts, *option.secondary_opts) if name.startswith("--")}


def test_every_command_is_in_the_table() -> None:
    rows = first_cells(section("Commands"))
    assert [row.split()[1] for row in rows if row.startswith("edgelm ")] == COMMANDS


@pytest.mark.parametrize("command", SHARED)
def test_every_shared_flag_is_in_the_table(command: str) -> None:
    assert long_options(command) - OWN - set(re.findall(r"--[a-z-]+", section("Commands"))) == set()


def test_every_flag_of_the_readme_exists() -> None:
    known = set().union(*(long_options(command) for command in COMMANDS)) | {"--compare", "--help"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - known == set()


def test_every_scheme_is_in_the_table() -> None:
    assert first_cells(section("Quantization")) == list(QUANTIZATION_SCHEMES)


def test_every_decoder_is_in_the_table() -> None:
    decoders = [*LLAMA, *GPT]
    assert first_cells(section("Models"))[: len(decoders)] == decoders


def test_what_is_read_of_gguf_files_is_in_a_table_of_its_own() -> None:
    tables = re.findall(r"^[^|\n]+:\n\n(?:\|.*\n)+", section("Models"), re.MULTILINE)
    assert first_cells("".join(table for table in tables if "GGUF" in table)) == list(LLAMA)


def test_every_encoder_decoder_is_in_the_table() -> None:
    expected = [*T5, *BART]
    assert [name for name in first_cells(section("Models")) if name in expected] == expected


def test_every_encoder_is_in_the_table() -> None:
    assert [name for name in first_cells(section("Models")) if name in ENCODERS] == list(ENCODERS)


def test_every_folder_of_the_map_exists() -> None:
    paths = re.findall(r"`((?:edgelm|tools|models|tests)/[\w./]*)`", README)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_python_examples_use_public_names() -> None:
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert examples
    for example in examples:
        compile(example, "README.md", "exec")
        assert set(re.findall(r"\bedgelm\.(\w+)", example)) <= set(edgelm.__all__)
        assert len([line for line in example.splitlines() if line.strip()]) <= 10


def test_examples_that_define_something_can_be_copied_as_they_are() -> None:
    for example in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        if "def " in example or "class " in example:
            assert "import edgelm\n" in example
            assert re.search(r"^with edgelm\.load\(", example, re.MULTILINE)
            exec(example.partition("with edgelm")[0], {"__name__": "__main__"})


def test_the_file_of_each_console_example_is_shown() -> None:
    for file in ("reviews.jsonl", "person.json"):
        shown = re.search(rf"^\$ cat {re.escape(file)}\n(.*?)\n\$ ", README, re.MULTILINE | re.DOTALL)
        assert shown is not None
        values = [json.loads(line) for line in shown[1].splitlines()] if file.endswith("l") else json.loads(shown[1])
        assert len(values) == 3


def test_the_exit_codes_are_those_of_the_errors() -> None:
    from edgelm import errors

    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    codes = {error.exit_code for error in classes if issubclass(error, errors.EdgeLMError)}
    line = re.search(r"^Exit codes: (.*?)\. A prompt", README, re.MULTILINE)
    assert line
    assert {int(code) for code in re.findall(r"\b\d+\b", line[1])} == codes | {0}
