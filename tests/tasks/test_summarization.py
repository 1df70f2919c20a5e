"""Summaries: what is asked, how long texts are parted and put together again, and that nothing is left out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bundles import write_decoder_bundle
from support.progress import RecordedProgress
from support.scripted_bundle import write_scripted_bundle

from edgelm.config import GenerationConfig
from edgelm.errors import ConfigError, ContextLengthError, PromptError, UnsupportedModelError
from edgelm.language_model import LanguageModel, load
from edgelm.tasks.summarization import MAX_NEW_TOKENS, Summarizer, looks_like_dialogue

CONTEXT = 400
# Whatever is asked, the last character starts the answer.
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}Q"
SENTENCES = [f"Number {index} is a sentence of its own. " for index in range(30)]


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageModel]:
    """A model that answers everything with "rst"."""
    folder = tmp_path_factory.mktemp("bundle")
    files = {"chat_template.jinja": TEMPLATE.encode()}
    write_scripted_bundle(folder, "Qrst", context_length=CONTEXT, files=files)
    with load(folder, prepack=False) as lm:
        yield lm


@pytest.fixture
def asked(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the model has been asked."""
    prompts: list[str] = []
    generate_batch = lm.generate_batch

    def recorded(batch: Any, **settings: Any) -> Any:
        prompts.extend(lm.tokenizer.decode(prompt) for prompt in batch)
        return generate_batch(batch, **settings)

    monkeypatch.setattr(lm, "generate_batch", recorded)
    return prompts


def test_a_text_that_fits_is_asked_about_once(lm: LanguageModel, asked: list[str]) -> None:
    summary = Summarizer(lm, max_new_tokens=20).summarize("It rains. It pours.")
    assert (summary.text, summary.parts) == ("rst", 1)
    assert asked == ["Summarize the following text in a few sentences.\n\nIt rains. It pours.Q"]
    assert summary.as_dict() == {
        "summary_text": "rst",
        "parts": 1,
        "finish_reason": "stop",
        "usage": {"prompt_tokens": len(asked[0]), "completion_tokens": 4},
    }


def test_a_long_text_is_summarized_in_parts_between_sentences(lm: LanguageModel, asked: list[str]) -> None:
    text = "".join(SENTENCES)
    progress = RecordedProgress()
    summary = Summarizer(lm, progress=progress, max_new_tokens=20).summarize(text)
    *parts, last = [prompt.split("\n\n", 1)[1].removesuffix("Q") for prompt in asked]
    assert "".join(parts) == text
    assert all(part.startswith("Number") and part.endswith(". ") for part in parts)
    assert all("part of a longer text" in prompt for prompt in asked[:-1])
    assert last == "\n\n".join(["rst"] * len(parts))
    assert (summary.text, summary.parts) == ("rst", len(parts))
    assert len(summary.answers) == len(parts) + 1
    assert progress.transfers == [(f"Summarizing {len(parts)} parts", len(parts), len(parts))]


def test_turns_of_a_dialogue_stay_whole(lm: LanguageModel, asked: list[str]) -> None:
    turns = [("Ann" if index % 2 else "Bob", f"Turn {index}. And more of it!") for index in range(40)]
    Summarizer(lm, max_new_tokens=20).summarize(turns)
    parts = [prompt.split("\n\n", 1)[1].removesuffix("Q") for prompt in asked if "longer conversation" in prompt]
    assert len(parts) > 2
    assert "".join(parts) == "\n".join(f"{speaker}: {said}" for speaker, said in turns)
    assert all(part.startswith(("Ann: ", "Bob: ")) for part in parts)


def test_a_dialogue_is_noticed_or_said(lm: LanguageModel, asked: list[str]) -> None:
    summarizer = Summarizer(lm, max_new_tokens=20)
    summarizer.summarize("Ann: hi\nBob: hello")
    summarizer.summarize("Ann: hi\nBob: hello", dialogue=False)
    summarizer.summarize("hi", dialogue=True)
    assert ["conversation" in prompt for prompt in asked] == [True, False, True]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ann: hi\n\nBob: hello\n", True),
        ("Ann (at home): hi\nDr. Bob 2: hello\nso it was", False),
        ("One: two", False),
        ("A text.\nIts second line.", False),
        ("http://a.example/b\nhttp://a.example/c", False),
        ("a: b\nc: d\ne: f\ng", True),
    ],
)
def test_what_looks_like_a_dialogue(text: str, expected: bool) -> None:
    assert looks_like_dialogue(text) is expected


@given(st.text())
def test_any_text_may_be_looked_at(text: str) -> None:
    assert looks_like_dialogue(text) in (True, False)


def test_summaries_that_do_not_get_shorter_are_an_error(tmp_path: Path) -> None:
    files = {"chat_template.jinja": TEMPLATE.encode()}
    write_scripted_bundle(tmp_path, "Qrst", loop=True, context_length=CONTEXT, files=files)
    with load(tmp_path, prepack=False) as lm, pytest.raises(ContextLengthError, match="too long to be summarized"):
        Summarizer(lm, max_new_tokens=230).summarize("".join(SENTENCES))


def test_no_room_for_a_text_is_said_with_the_count(lm: LanguageModel) -> None:
    with pytest.raises(ContextLengthError, match=r"leaves 0 tokens for the text; allow a longer context"):
        Summarizer(lm, max_new_tokens=380).summarize("It rains.")


def test_what_cannot_be_summarized_is_refused(lm: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="there is no text to summarize"):
        Summarizer(lm).summarize(" \n")
    with pytest.raises(ConfigError, match="num_return_sequences must be 1"):
        Summarizer(lm, num_return_sequences=2, num_beams=2)
    write_decoder_bundle(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    manifest = json.loads((tmp_path / "edgelm.json").read_text())
    del manifest["files"]["chat_template.jinja"]
    (tmp_path / "edgelm.json").write_text(json.dumps(manifest))
    with load(tmp_path, prepack=False) as plain, pytest.raises(UnsupportedModelError, match="only continues texts"):
        Summarizer(plain)


def test_answers_have_a_limit_of_their_own(lm: LanguageModel) -> None:
    assert Summarizer(lm)._settings["max_new_tokens"] == MAX_NEW_TOKENS
    assert Summarizer(lm, min_new_tokens=5)._settings["max_new_tokens"] == MAX_NEW_TOKENS


@pytest.mark.parametrize(
    "settings",
    [{"min_new_tokens": 300}, {"min_length": 300}, {"generation_config": GenerationConfig(min_length=300)}],
    ids=",".join,
)
def test_a_summary_may_have_to_be_longer_than_that_limit(lm: LanguageModel, settings: dict[str, Any]) -> None:
    answer = Summarizer(lm, **settings).summarize("It rains.").answers[-1]
    assert (answer.usage.completion_tokens, answer.finish_reason) == (300, "length")


def test_an_answer_without_a_limit_is_left_usual_room(lm: LanguageModel) -> None:
    assert Summarizer(lm, max_new_tokens=None).summarize("It rains.").text == "rst"
    with pytest.raises(ConfigError, match="max_new_tokens"):
        Summarizer(lm, max_new_tokens="many").summarize("It rains.")
