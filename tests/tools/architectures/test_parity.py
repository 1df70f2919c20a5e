"""The fp32 graph against transformers: float32, eager attention. torch is imported where it is used: without it the
tests fail, they do not skip.

Error: the largest difference of two logits, in standard deviations of the reference's logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.gpt_checkpoints import GPT_VARIANTS, gpt_variant
from support.native_graphs import write_native
from support.tiny_checkpoints import (
    VARIANTS,
    VOCABULARY,
    Variant,
    reference_logits,
    reference_model,
    variant,
    write_checkpoint,
)

from edgelm.runtime.decoder import Decoder
from edgelm.runtime.session import Session, Switch, Tensor
from edgelm_tools.architectures.registry import understand
from edgelm_tools.checkpoint import Checkpoint, open_checkpoint
from edgelm_tools.quantize.schemes import Float32

pytestmark = pytest.mark.reference

TOLERANCE = 1e-4
GREEDY_TOKENS = 32
# The residual stream of these cannot be rotated.
FIXED = ("gemma2", "gemma3_text", "olmo2", "stablelm", "opt.post", "opt.proj", "opt.no_final_norm", "bloom.normed")


@dataclass(frozen=True)
class Case:
    """One variant: transformers' model and its logits over ``ids``, and a session of our graph."""

    name: str
    model: Any
    ids: NDArray[np.int64]
    expected: NDArray[np.float32]
    checkpoint: Checkpoint
    context_length: int
    session: Session

    def decoder(self, prefill_chunk: int = 1 << 20) -> Decoder:
        return Decoder(self.session, context_length=self.context_length, prefill_chunk=prefill_chunk)


def write_and_open(path: Path, checkpoint: Checkpoint, scheme: Float32) -> Session:
    write_native(path, checkpoint, scheme)
    return Session(path, threads=1, spinning=False)


@pytest.fixture(scope="module", params=(*VARIANTS, *GPT_VARIANTS), ids=str)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    with opened(request.param, tmp_path_factory.mktemp("case")) as case:
        yield case


@contextmanager
def opened(variant: Variant, folder: Path) -> Iterator[Case]:
    model = reference_model(variant)
    checkpoint = open_checkpoint(write_checkpoint(folder / "checkpoint", model))
    context_length = understand(checkpoint).facts.context_length
    # The whole context window: well beyond every sliding window.
    ids = np.random.default_rng(1).integers(0, VOCABULARY, context_length)
    session = write_and_open(folder / "decoder.onnx", checkpoint, Float32())
    yield Case(variant.name, model, ids, reference_logits(model, ids), checkpoint, context_length, session)
    checkpoint.close()


def error(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    return float(np.abs(ours - theirs).max() / theirs.std())


def whole(parts: Iterator[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate(list(parts))


def test_logits_are_those_of_transformers(case: Case) -> None:
    assert error(whole(case.decoder().all_logits(case.ids)), case.expected) < TOLERANCE


def test_context_may_be_split_anywhere(case: Case) -> None:
    decoder = case.decoder(prefill_chunk=19)
    for chunk, expected in split(case, [1, 4, 5, 22, 23, 61]):
        assert error(decoder.prefill(chunk), expected[-1]) < TOLERANCE
    decoder.rewind(22)
    for chunk, expected in split(case, [22, 29])[1:]:
        assert error(whole(decoder.all_logits(chunk)), expected) < TOLERANCE


def split(case: Case, places: list[int]) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    return list(zip(np.split(case.ids, places), np.split(case.expected, places), strict=True))


def test_steps_are_the_prefill(case: Case) -> None:
    decoder = case.decoder()
    decoder.prefill(case.ids[:3])
    steps = np.stack([decoder.step(int(token)).copy() for token in case.ids[3:]])
    assert error(steps, case.expected[3:]) < TOLERANCE


def test_greedy_tokens_are_those_of_transformers(case: Case) -> None:
    prompt = case.ids[:20]
    decoder = case.decoder()
    ours = [int(decoder.prefill(prompt).argmax())]
    while len(ours) < GREEDY_TOKENS:
        ours.append(int(decoder.step(ours[-1]).argmax()))
    assert ours == greedy_tokens(case.model, prompt)


def greedy_tokens(model: Any, prompt: NDArray[np.int64]) -> list[int]:
    import torch

    tokens: list[int] = []
    with torch.no_grad():
        output = model(torch.from_numpy(prompt)[None], use_cache=True)
        while len(tokens) < GREEDY_TOKENS:
            tokens.append(int(output.logits[0, -1].argmax()))
            output = model(torch.tensor([tokens[-1:]]), past_key_values=output.past_key_values, use_cache=True)
    return tokens


@pytest.mark.parametrize(
    "short",
    [
        *map(variant, ("llama", "mistral.window", "qwen3.window_bias", "gemma2", "smollm3.window")),
        *map(gpt_variant, ("gpt2", "gpt_neox", "opt", "bloom")),
    ],
    ids=str,
)
def test_long_texts_take_no_other_way(short: Variant, tmp_path: Path) -> None:
    """Longer than the blocks in which attention is computed, and than a growth of the cache."""
    long = Variant(short.name, short.model_type, short.settings | {"max_position_embeddings": 700})
    with opened(long, tmp_path) as case:
        assert error(whole(case.decoder(prefill_chunk=300).all_logits(case.ids)), case.expected) < TOLERANCE
        decoder = case.decoder(prefill_chunk=128)
        decoder.prefill(case.ids[:690])
        steps = np.stack([decoder.step(int(token)).copy() for token in case.ids[690:]])
        assert error(steps, case.expected[690:]) < TOLERANCE


def test_rotation_changes_nothing(case: Case, tmp_path: Path) -> None:
    rotated = Float32(wants_rotation=True)
    if case.name.startswith(FIXED):
        assert understand(case.checkpoint).prepared(rotated, None, tmp_path).name == "int8-block"
        return
    session = write_and_open(tmp_path / "rotated.onnx", case.checkpoint, rotated)
    decoder = Decoder(session, context_length=case.context_length, prefill_chunk=1 << 20)
    assert error(whole(decoder.all_logits(case.ids)), case.expected) < TOLERANCE


def test_rows_of_a_batch_are_those_of_single_texts(case: Case) -> None:
    lengths = [len(case.ids), 13]
    ids = np.zeros((2, lengths[0]), np.int64)
    for row, length in enumerate(lengths):
        ids[row, :length] = case.ids[:length]
    # Rows of different lengths are padded on the right; the last valid token of each is wanted.
    inputs = {
        "input_ids": ids,
        "seqlens_k": np.array(lengths, np.int32) - 1,
        "total_sequence_length": np.array(lengths[0], np.int32),
        "logit_index": np.array([lengths[0] - 1, lengths[0] + lengths[1] - 1], np.int64),
    }
    if "position_ids" in case.session.inputs:
        inputs["position_ids"] = np.tile(np.arange(lengths[0]), (2, 1))
    logits = run(case.session, inputs, batch=2, capacity=lengths[0])
    assert error(logits, case.expected[[lengths[0] - 1, lengths[1] - 1]]) < TOLERANCE


def run(session: Session, inputs: dict[str, NDArray[Any]], *, batch: int, capacity: int) -> NDArray[np.float32]:
    binding = session.binding()
    for name, array in inputs.items():
        binding.input(name, Tensor(array))
    logits = Tensor(np.zeros((len(inputs["logit_index"]), VOCABULARY), np.float32))
    binding.output("logits", logits)
    for name, info in session.inputs.items():
        if name.startswith("past_key_values."):
            cache = Tensor(np.zeros((batch, int(info.shape[1]), capacity, int(info.shape[3])), np.float32))
            binding.input(name, cache)
            binding.output(name.replace("past_key_values", "present"), cache)
    session.run(binding, Switch())
    return logits.array
