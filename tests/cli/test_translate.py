from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from support.marian_files import write_bergamot

import edgelm
from edgelm.bundle.manifest import Source
from edgelm.tasks.translation import Translator
from edgelm_tools.export import export

Invoke = Callable[..., Result]
TEXT = "The cat sat.\n\n He sat!"


@pytest.fixture
def model(home: Path) -> Path:
    """A model under the name that the catalog has for English to Portuguese."""
    folder = home / "models" / "en-pt"
    export(write_bergamot(home / "checkpoint"), folder, name="en-pt", origin=Source("test"), report=False)
    return folder


@pytest.fixture
def expected(model: Path) -> str:
    with edgelm.load(model) as lm:
        return Translator(lm, max_new_tokens=8).translate(TEXT).text


def test_the_catalog_has_the_model_for_a_pair(invoke: Invoke, expected: str, tmp_path: Path) -> None:
    for languages in (["--to", "pt"], ["--to", "pt-BR", "--from", "en"]):
        done = invoke("translate", TEXT, *languages, "-n", "8")
        assert (done.exit_code, done.stdout) == (0, expected + "\n"), done.stderr
    file = tmp_path / "text.txt"
    file.write_text(TEXT, encoding="utf-8")
    assert invoke("translate", "-f", str(file), "--to", "pt", "-n", "8").stdout == expected + "\n"
    assert invoke("translate", "--to", "pt", "-n", "8", stdin=TEXT).stdout == expected + "\n"


def test_a_model_of_ones_own_needs_no_languages(invoke: Invoke, expected: str, model: Path) -> None:
    assert invoke("translate", "-m", str(model), TEXT, "-n", "8").stdout == expected + "\n"


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_end_of_the_last_line_stays(invoke: Invoke, expected: str, end: str) -> None:
    done = invoke("translate", "--to", "pt", "-n", "8", stdin=(TEXT + end).encode())
    assert done.stdout_bytes.decode() == expected + (end or "\n")
    answer = json.loads(invoke("translate", "--to", "pt", "-n", "8", "--json", stdin=(TEXT + end).encode()).stdout)
    assert answer["translation_text"] == expected


def test_json(invoke: Invoke, expected: str) -> None:
    done = invoke("translate", "--to", "pt", "-n", "8", "--json", TEXT)
    answer = json.loads(done.stdout)
    assert answer["translation_text"] == expected
    assert (answer["model"], answer["source"], answer["target"], answer["sentences"]) == ("en-pt", "en", "pt", 2)


def test_sentences_cut_at_the_limit_are_told(invoke: Invoke, model: Path) -> None:
    done = invoke("translate", "--to", "pt", "-n", "1", "The cat sat.")
    assert done.exit_code == 0
    assert "1 of 1 sentences ended at the limit of tokens" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--to"),
        (["--to", "tlh"], "no model that translates to tlh, only en to pt, pt to en"),
        (["--from", "de", "--to", "pt"], "from de to pt"),
        (["-m", "en-pt", "--to", "de"], "translates to pt, not to de"),
        (["-m", "tiny", "--to", "de"], "not for translation, which takes an encoder-decoder"),
        (["--to", "pt", "-f", "none.txt"], "more than once"),
    ],
)
def test_refusals(invoke: Invoke, model: Path, arguments: list[str], message: str) -> None:
    done = invoke("translate", TEXT, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_a_text_that_is_not_utf8_is_refused(invoke: Invoke, model: Path) -> None:
    done = invoke("translate", "--to", "pt", stdin=b"ab\xff")
    assert done.exit_code == 2
    assert "offset 2" in done.stderr


def test_verbose_says_what_it_cost(invoke: Invoke, expected: str) -> None:
    done = invoke("translate", "--to", "pt", "-n", "8", "--verbose", TEXT)
    assert done.stdout == expected + "\n"
    assert "2 sentences, source " in done.stderr
    assert all(part in done.stderr for part in (" tokens/s, ", "peak memory "))
