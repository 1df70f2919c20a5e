"""A real bundle that gives known answers by how the prompt ends: one answer for each last byte.

As ``support.scripted_bundle``, but its answers are made of pieces, each a token of its own, so that they may say
anything, calls of tools for example. A piece must not occur in two places.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from onnx import numpy_helper
from support.bundles import (
    EOS,
    GRAPH_NAME,
    WEIGHTS_NAME,
    TinyDecoder,
    decoder_model,
    move_weights,
    seal,
    write_decoder_bundle,
)
from support.scripted_bundle import VOCAB_SIZE, byte_tokenizer
from tokenizers import AddedToken


def write_reply_bundle(
    folder: Path,
    replies: Mapping[str, Sequence[str]],
    *,
    template: str,
    special: Collection[str] = (),
    context_length: int = 4096,
    **changes: Any,
) -> Path:
    """A bundle that gives an answer of pieces after a prompt that ends with a byte of ``replies``, then EOS.

    Those pieces that are in ``special`` are special tokens; ``changes`` are fields of the manifest.
    """
    pieces = [piece for reply in replies.values() for piece in reply]
    if len(set(pieces)) != len(pieces):
        raise ValueError("a piece occurs twice")
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken(piece, special=piece in special, normalized=False) for piece in pieces])
    width = VOCAB_SIZE + len(pieces)
    sizes = TinyDecoder(vocab_size=width, hidden=width, context_length=context_length)
    files = {"tokenizer.json": tokenizer.to_str().encode(), "chat_template.jinja": template.encode()}
    write_decoder_bundle(folder, sizes, files=files)
    table = np.zeros((width, width), np.float32)
    for end, reply in replies.items():
        (start,) = tokenizer.encode(end).ids
        for token, following in pairwise([start, *(tokenizer.token_to_id(piece) for piece in reply), EOS]):
            table[token, following] = 1.0
    model = decoder_model(sizes)
    new = {"embeddings": np.eye(width, dtype=np.float32), "head": table}
    for tensor in model.graph.initializer:
        if tensor.name.endswith(("_o", "_down")):
            new[tensor.name] = np.zeros(tuple(tensor.dims), np.float32)
        if tensor.name in new:
            tensor.CopyFrom(numpy_helper.from_array(new[tensor.name], tensor.name))
    move_weights(model, folder / WEIGHTS_NAME)
    (folder / GRAPH_NAME).write_bytes(model.SerializeToString())
    return seal(folder, **changes)
