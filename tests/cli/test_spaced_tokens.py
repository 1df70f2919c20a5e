"""Tokens named by their text: what stands behind a space is another one, and that is said."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from tokenizers import Tokenizer as Rust
from tokenizers import decoders, models, pre_tokenizers

from edgelm.cli.spaced_tokens import tell_spaced_tokens
from edgelm.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def lm() -> Any:
    """Of a model, its tokenizer: it has tokens for ``Tokyo`` and `` Tokyo``, and none for `` To``."""
    words = ["Ġ", "T", "o", "k", "y", "To", "ky", "Toky", "Tokyo", "ĠTokyo", "<s>"]
    merges = [("T", "o"), ("k", "y"), ("To", "ky"), ("Toky", "o"), ("Ġ", "Tokyo")]
    own = Rust(models.BPE(vocab={word: place for place, word in enumerate(words)}, merges=merges))
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = decoders.ByteLevel()
    return SimpleNamespace(tokenizer=Tokenizer.from_bytes(own.to_str().encode(), what="test"))


@pytest.mark.parametrize(
    ("biases", "told"),
    [
        ({"Tokyo": -1.0}, True),
        ({" Tokyo": -1.0}, False),
        ({"Tokyo": -1.0, " Tokyo": -1.0}, False),
        ({"8": -1.0}, False),
        ({"To": -1.0}, False),
    ],
    ids=str,
)
def test_the_other_token_is_named(
    lm: Any, biases: dict[str, float], told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    tell_spaced_tokens(cast("Any", lm), {"logit_bias": biases})
    assert ("' Tokyo', as it stands behind a space, is another token" in capsys.readouterr().err) == told
