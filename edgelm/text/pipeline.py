"""Reads and rewrites the parts of a ``tokenizers`` pipeline (pre-tokenizer, decoder) through their JSON form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import tokenizers

Part = Literal["pre_tokenizer", "decoder"]


def part_state(tokenizer: tokenizers.Tokenizer, part: Part) -> dict[str, Any] | None:
    """The part as it would stand in ``tokenizer.json``; None where the tokenizer has no such part."""
    component = getattr(tokenizer, part)
    if component is None:
        return None
    state: dict[str, Any] = json.loads(component.__getstate__())
    return state


def build_part(part: Part, state: Mapping[str, Any]) -> Any:
    """Makes a part from its JSON form, by way of a tokenizer that has nothing else."""
    model = {"type": "WordLevel", "vocab": {}, "unk_token": ""}
    shell = tokenizers.Tokenizer.from_str(json.dumps({"version": "1.0", "model": model, part: state}))
    return getattr(shell, part)


def decoder_steps(state: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The decoder's steps in order, nested sequences laid flat; empty where there is no decoder."""
    return list(_flatten(state)) if state is not None else []


def _flatten(state: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if state.get("type") == "Sequence":
        for inner in state["decoders"]:
            yield from _flatten(inner)
    else:
        yield dict(state)


def without_fuse_before_bytes(steps: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """The steps without a ``Fuse`` that comes before ``ByteLevel``; None where there is none.

    ``ByteLevel`` takes a token as plain text when one of its characters is outside the byte alphabet. Behind a
    ``Fuse`` the whole text is one token, so one such character turns all of it into "ĠtheĠtext". Token by token the
    result is the same for every other text.
    """
    types = [step.get("type") for step in steps]
    if "ByteLevel" not in types or "Fuse" not in types[: types.index("ByteLevel")]:
        return None
    cut = types.index("ByteLevel")
    return [step for i, step in enumerate(steps) if i > cut or step.get("type") != "Fuse"]


def without_first_word_mark(state: Any) -> Any:
    """A pre-tokenizer's state in which Metaspace does not mark the first word of the text.

    ``prepend_scheme: first`` puts "▁" before the text's first word only. A stretch of text that is encoded on its
    own, but stands behind something else, must go without.
    """
    if isinstance(state, list):
        return [without_first_word_mark(item) for item in state]
    if not isinstance(state, dict):
        return state
    changed = {key: without_first_word_mark(value) for key, value in state.items()}
    if changed.get("type") == "Metaspace" and changed.get("prepend_scheme") == "first":
        changed["prepend_scheme"] = "never"
    return changed


_PER_TOKEN = frozenset({"Replace", "ByteFallback", "Metaspace", "WordPiece", "BPEDecoder", "Strip"})


def decodes_locally(steps: list[dict[str, Any]]) -> bool:
    """Whether text once decoded never changes when tokens follow, but for a character or byte run still open.

    True for the decoders of language models: steps that look at one token at a time, then ``ByteLevel`` or ``Fuse``,
    then at most the removal of leading characters and the replacement of single ones.
    """
    joined = False
    for step in steps:
        kind = step.get("type")
        if kind in ("ByteLevel", "Fuse"):
            if joined and kind == "ByteLevel":
                return False
            joined = True
        elif (not joined and kind not in _PER_TOKEN) or (joined and not _keeps_prefix(step)):
            return False
    return True


def _keeps_prefix(step: Mapping[str, Any]) -> bool:
    """Whether a step over the whole text maps a longer text to a longer result."""
    if step.get("type") == "Strip":
        return step.get("stop") == 0
    pattern = step.get("pattern")
    return step.get("type") == "Replace" and isinstance(pattern, dict) and len(pattern.get("String", "")) == 1
