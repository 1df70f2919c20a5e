"""The bundle that tests share must be a real one: ONNX Runtime runs it, its cache works, its tokenizer round-trips."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.bundles import BOS, EOS, GRAPH_NAME, UNK, VOCABULARY, TinyDecoder, tokenizer_json, write_decoder_bundle
from tokenizers import Tokenizer

SIZES = TinyDecoder(layers=2)
Floats = NDArray[np.float32]


class Decoder:
    """Runs the step graph with past and present bound to the same buffers, as the contract has it."""

    def __init__(self, folder: Path, sizes: TinyDecoder) -> None:
        self._session = ort.InferenceSession(str(folder / GRAPH_NAME), providers=["CPUExecutionProvider"])
        shape = (1, sizes.kv_heads, sizes.context_length, sizes.head_size)
        self._cache = {
            f"{layer}.{part}": ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
            for layer in range(sizes.layers)
            for part in ("key", "value")
        }
        self._past = 0

    def run(self, ids: list[int], rows: list[int]) -> Floats:
        total = self._past + len(ids)
        binding = self._session.io_binding()
        binding.bind_cpu_input("input_ids", np.array([ids], np.int64))
        binding.bind_cpu_input("seqlens_k", np.array([total - 1], np.int32))
        binding.bind_cpu_input("total_sequence_length", np.array(total, np.int32))
        binding.bind_cpu_input("logit_index", np.array(rows, np.int64))
        binding.bind_output("logits")
        for name, buffer in self._cache.items():
            binding.bind_ortvalue_input(f"past_key_values.{name}", buffer)
            binding.bind_ortvalue_output(f"present.{name}", buffer)
        self._session.run_with_iobinding(binding)
        self._past = total
        logits: Floats = binding.copy_outputs_to_cpu()[0]
        return logits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder_bundle(tmp_path_factory.mktemp("tiny") / "bundle", SIZES)


@pytest.mark.parametrize("chunks", [[1] * 12, [5, 7], [11, 1], [4, 1, 4, 1, 2]])
def test_all_ways_to_cut_a_prompt_give_the_same_logits(folder: Path, chunks: list[int]) -> None:
    ids = np.random.default_rng(1).integers(0, SIZES.vocab_size, 12).tolist()
    whole = Decoder(folder, SIZES).run(ids, list(range(12)))
    decoder = Decoder(folder, SIZES)
    starts = np.cumsum([0, *chunks])
    parts = [decoder.run(ids[a:b], list(range(b - a))) for a, b in pairwise(starts)]
    assert whole.shape == (12, SIZES.vocab_size)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-4)


def test_logit_index_chooses_rows(folder: Path) -> None:
    every = Decoder(folder, SIZES).run([3, 4, 5], [0, 1, 2])
    chosen = Decoder(folder, SIZES).run([3, 4, 5], [2, 0])
    np.testing.assert_allclose(chosen, every[[2, 0]], atol=1e-5)


def test_the_past_matters(folder: Path) -> None:
    assert np.abs(Decoder(folder, SIZES).run([3, 9], [1]) - Decoder(folder, SIZES).run([4, 9], [1])).max() > 0.1


def test_the_seed_decides_the_weights(tmp_path: Path) -> None:
    def weights(name: str, seed: int) -> bytes:
        return (write_decoder_bundle(tmp_path / name, TinyDecoder(seed=seed)) / "decoder.onnx.data").read_bytes()

    assert weights("a", 1) == weights("b", 1) != weights("c", 2)


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz .?", max_size=40))
def test_text_survives_the_tokenizer(text: str) -> None:
    tokenizer = Tokenizer.from_str(tokenizer_json().decode())
    ids = tokenizer.encode(text).ids
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text


def test_the_tokenizer_has_the_models_vocabulary() -> None:
    tokenizer = Tokenizer.from_str(tokenizer_json().decode())
    assert tokenizer.get_vocab_size() == len(VOCABULARY) == SIZES.vocab_size == 32
    assert tokenizer.encode("<s>Z</s>").ids == [BOS, UNK, EOS]
