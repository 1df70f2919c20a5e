"""The messages of a conversation, and its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelm.cli.conversation import Conversation
from edgelm.errors import EdgeLMError, StorageError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def conversation(system: str | None, turns: list[tuple[str, str]]) -> Conversation:
    made = Conversation(system)
    for question, answer in turns:
        made.ask(question)
        made.answer(answer)
    return made


@given(st.none() | TEXTS, st.lists(st.tuples(TEXTS, TEXTS), max_size=4))
def test_load_reads_what_save_wrote(
    tmp_path_factory: pytest.TempPathFactory, system: str | None, turns: list[tuple[str, str]]
) -> None:
    file = tmp_path_factory.getbasetemp() / "conversation.json"
    saved = conversation(system, turns)
    saved.save(file)
    loaded = Conversation.load(file)
    assert loaded.messages == saved.messages
    assert loaded.questions == len(turns)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
def test_undo_takes_one_turn_back(turns: list[tuple[str, str]]) -> None:
    talked = conversation("be kind", turns)
    assert talked.undo() == turns[-1][0]
    assert talked.messages == conversation("be kind", turns[:-1]).messages


def test_withdraw_and_clear() -> None:
    talked = conversation("be kind", [("a", "b")])
    talked.ask("c")
    talked.withdraw()
    assert talked.messages == conversation("be kind", [("a", "b")]).messages
    talked.clear()
    assert talked.messages == [{"role": "system", "content": "be kind"}]
    assert talked.undo() is None
    assert talked.messages == [{"role": "system", "content": "be kind"}]


def user(content: object = "x", **more: object) -> dict[str, object]:
    return {"role": "user", "content": content} | more


ASSISTANT = {"role": "assistant", "content": "y"}
SYSTEM = {"role": "system", "content": "z"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"messages": []}, "must be a list of messages, not dict"),
        ([1], "[0] must be an object with role and content"),
        ([{"role": "user"}], "[0] must be an object with role and content"),
        ([user(name="Bob"), ASSISTANT], "[0] must be an object with role and content, and nothing else"),
        ([user(5), ASSISTANT], "[0]: role and content must be strings"),
        ([SYSTEM, ASSISTANT], "[1] must be of the role 'user', not 'assistant'"),
        ([user(), user()], "[1] must be of the role 'assistant', not 'user'"),
        ([user(), ASSISTANT, SYSTEM, ASSISTANT], "[2] must be of the role 'user', not 'system'"),
        ([SYSTEM, user()], "the last question has no answer"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, values: object, words: str) -> None:
    file = tmp_path / "conversation.json"
    file.write_text(json.dumps(values))
    with pytest.raises(EdgeLMError) as refusal:
        Conversation.load(file)
    assert str(refusal.value).startswith(str(file))
    assert words in str(refusal.value)


@pytest.mark.parametrize("data", [b"", b"[NaN]", b"[" * 200_000, b'[{"role":"user","role":"user"}]', b"\xff"])
def test_what_is_no_strict_json_is_refused(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "conversation.json"
    file.write_bytes(data)
    with pytest.raises(EdgeLMError):
        Conversation.load(file)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(EdgeLMError, match="No such file"):
        Conversation.load(tmp_path / "none")
    with pytest.raises(EdgeLMError, match="Is a directory"):
        Conversation.load(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        conversation(None, []).save(Path("/proc/none/conversation.json"))
