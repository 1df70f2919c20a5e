"""What the quality of encoder-decoders is measured on, and how a recurrent decoder is driven."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.tokenizers import byte_level

from edgelm.text.tokenizer import Tokenizer
from edgelm_tools.evaluate_seq2seq import SEQ2SEQ_TOKENS, Seq2SeqPair, compare_seq2seq, paragraphs
from edgelm_tools.graph import GraphBuilder

WIDTH, VOCABULARY = 2, 5
TABLE = np.random.default_rng(0).normal(size=(WIDTH, VOCABULARY)).astype(np.float32)


def test_paragraphs_are_cut_and_counted() -> None:
    tokenizer = Tokenizer(byte_level())
    parts = list(paragraphs(tokenizer, 50))
    assert sum(map(len, parts)) == SEQ2SEQ_TOKENS
    assert max(map(len, parts)) == 50
    assert len({tuple(part) for part in parts}) == len(parts)


@pytest.fixture
def pair(tmp_path: Path) -> Seq2SeqPair:
    """A decoder whose state is a running sum of half of itself, the token, and the number of tokens of the source."""
    with GraphBuilder(tmp_path / "encoder.onnx", name="encoder") as g:
        g.input("input_ids", np.int64, ("batch", "sequence"))
        mask = g.input("attention_mask", np.int64, ("batch", "sequence"))
        values = g.node("Cast", [mask], name="values", to=1)
        axes = g.constant("axes", [1, 3], np.int64)
        shape = ("batch", 1, "sequence", 1)
        for kind in ("key", "value"):
            output = g.output(f"cross_key_values.0.{kind}", np.float32, shape)
            g.node("Unsqueeze", [values, axes], name=kind, outputs=[output])
        g.save()
    with GraphBuilder(tmp_path / "decoder.onnx", name="decoder") as g:
        key = g.input("cross_key_values.0.key", np.float32, ("batch", 1, "source", 1))
        axes = g.constant("axes", [1, 2, 3], np.int64)
        source = g.node("ReduceSum", [key, axes], name="source", keepdims=0)
        token = g.node("Cast", [g.input("input_ids", np.int64, ("batch", 1))], name="token", to=1)
        place = g.node("Cast", [g.input("position_ids", np.int64, ("batch", 1))], name="place", to=1)
        state = g.input("state.0", np.float32, ("batch", WIDTH))
        halved = g.node("Mul", [state, g.constant("half", 0.5, np.float32)], name="halved")
        grown = g.node("Add", [g.node("Add", [halved, token], name="with_token"), source], name="grown")
        g.node("Add", [grown, place], name="next", outputs=[g.output("next_state.0", np.float32, ("batch", WIDTH))])
        table = g.constant("table", TABLE, np.float32)
        logits = g.output("logits", np.float32, ("batch", VOCABULARY))
        g.node("MatMul", ["next_state.0", table], name="logits", outputs=[logits])
        g.save()
    return Seq2SeqPair(tmp_path)


def test_a_recurrent_decoder_is_run_step_by_step(pair: Seq2SeqPair) -> None:
    target = [3, 1, 4]
    state, expected = 0.0, []
    for place, token in enumerate(target):
        state = state / 2 + token + 7 + place
        expected.append(state * TABLE.sum(axis=0))
    np.testing.assert_allclose(pair.logits([1] * 7, target), expected, rtol=1e-5)


def test_a_model_costs_nothing_beside_itself(pair: Seq2SeqPair) -> None:
    quality = compare_seq2seq(pair, pair, [[1, 2, 3], [4, 0]], start=2)
    assert (quality.tokens, quality.kl, quality.top1) == (5, 0, 1)
    assert quality.perplexity == quality.reference_perplexity
    pair.close()
