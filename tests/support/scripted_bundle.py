"""A real bundle whose greedy answer is known: every token has one that follows it, whatever stands before.

The decoder of ``support.bundles`` with its layers' outputs set to zero, so that a logit depends on the last token
alone. Its tokenizer has a token for every byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from support.bundles import (
    BOS,
    EOS,
    GRAPH_NAME,
    SPECIAL_TOKENS,
    WEIGHTS_NAME,
    TinyDecoder,
    decoder_model,
    move_weights,
    seal,
    write_decoder_bundle,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

VOCAB_SIZE = len(SPECIAL_TOKENS) + 256
_SIZES = TinyDecoder(vocab_size=VOCAB_SIZE, hidden=VOCAB_SIZE)


def byte_tokenizer() -> Tokenizer:
    """One token a byte; the special tokens first, with the ids of ``support.bundles``."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*SPECIAL_TOKENS, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def write_scripted_bundle(
    folder: Path,
    text: str,
    *,
    loop: bool = False,
    context_length: int = _SIZES.context_length,
    files: Mapping[str, bytes] | None = None,
    **changes: Any,
) -> Path:
    """A bundle that says ``text``, no byte of which may occur twice, after BOS or any part of it, then EOS.

    ``loop``: it then begins again in place of EOS. ``files`` and ``changes`` as in ``write_decoder_bundle``.
    """
    ids = byte_tokenizer().encode(text).ids
    if len(set(ids)) != len(ids):
        raise ValueError(f"a byte of {text!r} occurs twice")
    files = {"tokenizer.json": byte_tokenizer().to_str().encode(), **(files or {})}
    sizes = replace(_SIZES, context_length=context_length)
    write_decoder_bundle(folder, sizes, files=files)
    model = decoder_model(sizes)
    _follow(model, [BOS, *ids, ids[0] if loop else EOS])
    move_weights(model, folder / WEIGHTS_NAME)
    (folder / GRAPH_NAME).write_bytes(model.SerializeToString())
    return seal(folder, **changes)


def _follow(model: onnx.ModelProto, script: Sequence[int]) -> None:
    table = np.zeros((VOCAB_SIZE, VOCAB_SIZE), np.float32)
    for token, following in pairwise(script):
        table[token, following] = 1.0
    new = {"embeddings": np.eye(VOCAB_SIZE, dtype=np.float32), "head": table}
    for tensor in model.graph.initializer:
        if tensor.name.endswith(("_o", "_down")):
            new[tensor.name] = np.zeros(tuple(tensor.dims), np.float32)
        if tensor.name in new:
            tensor.CopyFrom(numpy_helper.from_array(new[tensor.name], tensor.name))
