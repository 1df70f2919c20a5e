"""Bergamot's graphs against a plain reading of the same weights in NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.bergamot_reference import BergamotReference
from support.marian_files import CONFIG, marian_file, tiny_tensors, write_bergamot

import edgelm
from edgelm.bundle.manifest import RecurrentState, Source
from edgelm.errors import ModelError, UnsupportedModelError
from edgelm_tools.architectures.bergamot_spec import bergamot_spec
from edgelm_tools.checkpoint.bergamot_checkpoint import BergamotCheckpoint
from edgelm_tools.evaluate_seq2seq import Seq2SeqPair
from edgelm_tools.export import export

SIZES = [
    {"width": 24, "heads": 3, "inner": 40},
    {"width": 16, "heads": 1, "inner": 20, "encoder": 1, "decoder": 3, "seed": 1},
    {"width": 40, "heads": 5, "inner": 33, "encoder": 3, "decoder": 1, "seed": 2},
]
SOURCES = [[2, 5, 3, 0], [7, 0], [9, 8, 7, 6, 5, 4, 3, 2, 9, 0], [0]]


def bundle(folder: Path, scheme: str, **sizes: int) -> Path:
    source = write_bergamot(folder / "checkpoint", **sizes)
    export(source, folder / scheme, name="tiny", origin=Source("test"), scheme=scheme, report=False)
    return folder / scheme


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(("scheme", "tolerance"), [("fp32", 1e-4), ("int8", 3e-3)])
def test_logits(sizes: dict[str, int], scheme: str, tolerance: float, tmp_path: Path) -> None:
    pair = Seq2SeqPair(bundle(tmp_path, scheme, **sizes))
    reference = BergamotReference(BergamotCheckpoint(tmp_path / "checkpoint"))
    for source in SOURCES:
        tokens, expected = reference.greedy(source, 12)
        # What stands at the start is no token, whatever its id.
        for start in (0, 5):
            logits = pair.logits(source, [start, *tokens[:-1]])
            np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance * np.abs(expected).max())
    pair.close()


@pytest.mark.parametrize("scheme", ["fp32", "int8"])
def test_answers_alone_and_together(scheme: str, tmp_path: Path) -> None:
    with edgelm.load(bundle(tmp_path, scheme, **SIZES[0]), prepack=False) as lm:
        reference = BergamotReference(BergamotCheckpoint(tmp_path / "checkpoint"))
        expected = [tuple(reference.greedy(source, 20)[0]) for source in SOURCES]
        together = lm.generate_batch(SOURCES, max_new_tokens=20)
        assert [answer.token_ids for answer in together] == expected
        assert [lm.generate(source, max_new_tokens=20).token_ids for source in SOURCES] == expected


def test_the_manifest(tmp_path: Path) -> None:
    source = write_bergamot(tmp_path / "checkpoint")
    manifest = export(source, tmp_path / "b", name="tiny", origin=Source("test"), report=True)
    assert (manifest.architecture, manifest.family, manifest.tasks) == ("bergamot", "encoder-decoder", ("translation",))
    assert manifest.state == RecurrentState(layers=2, size=24)
    assert manifest.kv is None
    assert (manifest.eos_token_id, manifest.decoder_start_token_id) == ((0,), 0)
    assert manifest.quantization == {"scheme": "int8", "bits": 8, "granularity": "row", "carried": True}
    assert manifest.quality["kl"] < 1e-3


@pytest.mark.parametrize("scheme", ["int8-block", "int4", "dynamic-int8"])
def test_other_schemes_are_made_too(scheme: str, tmp_path: Path) -> None:
    with edgelm.load(bundle(tmp_path, scheme, width=64, heads=2, inner=64), prepack=False) as lm:
        assert lm.generate([2, 5, 0], max_new_tokens=4).token_ids


@pytest.mark.parametrize("name", ["encoder_l2_self_Wk", "decoder_l1_rnn_bf", "decoder_l2_ffn_ffn_ln_bias"])
def test_a_missing_tensor_is_named(name: str, tmp_path: Path) -> None:
    source = write_bergamot(tmp_path / "checkpoint")
    (path,) = source.glob("model*")
    path.write_bytes(marian_file({key: value for key, value in tiny_tensors().items() if key != name}))
    with pytest.raises(ModelError, match=name):
        export(source, tmp_path / "b", name="tiny", origin=Source("test"))


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    source = write_bergamot(tmp_path / "checkpoint")
    (path,) = source.glob("model*")
    tensors = tiny_tensors()
    path.write_bytes(marian_file({**tensors, "encoder_l1_ffn_W1": tensors["encoder_l1_ffn_W2"]}))
    with pytest.raises(ModelError, match=r"encoder_l1_ffn_W1.*\(24, 40\).*\(40, 24\)"):
        export(source, tmp_path / "b", name="tiny", origin=Source("test"))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"dec-cell": "gru"}, UnsupportedModelError, "dec-cell is 'gru'"),
        ({"transformer-ffn-activation": "swish"}, UnsupportedModelError, "swish"),
        ({"tied-embeddings-all": 1}, UnsupportedModelError, "tied-embeddings-all is 1"),
        ({"dim-emb": 25}, ModelError, "25 cannot be shared"),
        ({"enc-depth": 10**6}, ModelError, "enc-depth"),
        ({"transformer-heads": None}, ModelError, "transformer-heads"),
    ],
)
def test_other_networks_are_refused(changes: dict[str, object], error: type[ModelError], message: str) -> None:
    plain = {name: {"true": True, "false": False, '""': ""}.get(str(value), value) for name, value in CONFIG.items()}
    sizes = {"dim-emb": 24, "transformer-heads": 3, "transformer-dim-ffn": 40, "enc-depth": 2, "dec-depth": 2}
    assert bergamot_spec({**plain, **sizes}, 40).head_size == 8
    with pytest.raises(error, match=message):
        bergamot_spec({**plain, **sizes, **changes}, 40)
