"""The fp32 graphs of encoder-decoders against transformers: float32, eager attention.

Error: the largest difference of two logits, in standard deviations of the reference's logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.seq2seq_graphs import Ids, Seq2SeqGraphs, write_seq2seq
from support.tiny_checkpoints import VOCABULARY, Variant, write_checkpoint
from support.tiny_seq2seq import CONTEXT, SEQ2SEQ_VARIANTS, START, seq2seq_logits, seq2seq_model

from edgelm_tools.checkpoint import open_checkpoint
from edgelm_tools.quantize.schemes import Float32

pytestmark = pytest.mark.reference

TOLERANCE = 1e-4
GREEDY_TOKENS = 32


@dataclass(frozen=True)
class Case:
    """One variant: transformers' model and its logits after each token of ``target``, and our graphs."""

    variant: Variant
    model: Any
    source: Ids
    target: Ids
    expected: NDArray[np.float32]
    graphs: Seq2SeqGraphs


@pytest.fixture(scope="module", params=SEQ2SEQ_VARIANTS, ids=str)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return opened(request.param, tmp_path_factory.mktemp("case"), CONTEXT)


def opened(variant: Variant, folder: Path, length: int) -> Case:
    model = seq2seq_model(variant)
    checkpoint = open_checkpoint(write_checkpoint(folder / "checkpoint", model))
    # The whole context: well beyond the last bucket of distances.
    source, target = tokens(1, length), tokens(2, length)
    write_seq2seq(folder, checkpoint, Float32())
    checkpoint.close()
    expected = seq2seq_logits(model, source, target)
    return Case(variant, model, source, target, expected, Seq2SeqGraphs(folder, capacity=length))


def tokens(seed: int, count: int) -> Ids:
    """Ordinary tokens: none that a model takes for padding."""
    return np.random.default_rng(seed).integers(5, VOCABULARY, count)


def error(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    return float(np.abs(ours - theirs).max() / theirs.std())


def test_logits_are_those_of_transformers(case: Case) -> None:
    assert error(case.graphs.all_logits(case.source, case.target), case.expected) < TOLERANCE


def test_steps_are_the_prefill(case: Case) -> None:
    case.graphs.encode([case.source])
    logits = [case.graphs.decode([case.target[:3]])]
    logits += [case.graphs.decode([case.target[place : place + 1]]) for place in range(3, len(case.target))]
    assert error(np.concatenate(logits), case.expected[2:]) < TOLERANCE


def test_a_target_may_be_split_anywhere(case: Case) -> None:
    case.graphs.encode([case.source])
    parts = np.split(case.target, [1, 6, 30, 31, 67])
    logits = np.concatenate([case.graphs.decode([part], np.arange(len(part))) for part in parts])
    assert error(logits, case.expected) < TOLERANCE


def test_rows_of_a_batch_are_those_of_single_texts(case: Case) -> None:
    sources = [case.source[:7], case.source[:70], case.source[:41]]
    targets = [case.target[:9], case.target[:2], case.target[:30]]
    case.graphs.encode(sources, padding=3)
    first, second = case.graphs.decode(targets), case.graphs.decode([case.target[len(t) :][:1] for t in targets])
    for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
        expected = seq2seq_logits(case.model, source, case.target[: len(target) + 1])
        assert error(first[row], expected[-2]) < TOLERANCE
        assert error(second[row], expected[-1]) < TOLERANCE


def test_greedy_tokens_are_those_of_transformers(case: Case) -> None:
    import torch

    case.model.generation_config.update(eos_token_id=None, forced_eos_token_id=None, forced_bos_token_id=None)
    source = torch.from_numpy(case.source)[None]
    theirs = case.model.generate(source, num_beams=1, do_sample=False, max_new_tokens=GREEDY_TOKENS)
    assert theirs[0, 0] == START
    ours = case.graphs.greedy([case.source], START, GREEDY_TOKENS)
    assert ours[0].tolist() == theirs[0, 1:].tolist()
