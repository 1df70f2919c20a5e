"""Processes under limits, measured; and checkpoints of random weights to measure with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.bundles import TinyDecoder, made_here, write_decoder_bundle

from edgelm.bundle.manifest import Source
from edgelm.errors import ConfigError
from edgelm_tools.benchmark_memory import Row, lowest_limit, measure, table
from edgelm_tools.checkpoint import open_checkpoint
from edgelm_tools.export import export
from edgelm_tools.synthetic_checkpoint import SyntheticSizes, write_synthetic_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    sizes = TinyDecoder(layers=4, heads=8, kv_heads=8, head_size=64, context_length=8192)
    return str(made_here(write_decoder_bundle(tmp_path_factory.mktemp("measured") / "b", sizes)))


def test_a_window_is_filled_and_refused_where_it_does_not_fit(folder: str) -> None:
    lowest = lowest_limit(folder, 1024, "f32")
    ran, refused = measure(folder, lowest, 1024, "f32", threads=2), measure(folder, lowest - 1, 1024, "f32")
    assert ran.refusal is None
    assert ran.estimate == lowest
    assert ran.peak is not None
    assert ran.peak > 16_000_000, "so much the window alone takes"
    assert ran.changed.keys() <= {"prefill_chunk"}
    assert refused.refusal is not None
    assert "1024 tokens do not fit" in refused.refusal


def test_what_goes_wrong_is_no_row(folder: str) -> None:
    with pytest.raises(
        RuntimeError, match=r"^the process ended with 1: [^\n]*context_length must be at most 8192[^\n]*$"
    ):
        measure(folder, None, 9000, "f32")
    with pytest.raises(ConfigError, match="context_length"):
        lowest_limit(folder, 9000, None)


def test_the_table() -> None:
    common = {"context": 64, "kv_cache": "f32", "seconds": 0.25}
    rows = [
        Row(limit=None, estimate=11_000_000, peak=10_000_000, changed={}, refusal=None, **common),
        Row(limit=9_000_000, estimate=9_000_000, peak=9_100_000, changed={"x": 1}, refusal=None, **common),
        Row(limit=8_000_000, estimate=None, peak=None, changed={}, refusal="no", **common),
    ]
    assert [row.holds for row in rows] == [True, False, True]
    assert list(table(rows))[2:] == [
        "|  | 64 | f32 | 11 MB | 10 MB | 1.10 |  | ran |",
        "| 9 MB | 64 | f32 | 9 MB | 9 MB | 0.99 | x 1 | ABOVE ITS LIMIT |",
        "| 8 MB | 64 | f32 |  |  |  |  | refused in 0.2 s |",
    ]


def test_a_checkpoint_of_random_weights_can_be_exported(tmp_path: Path) -> None:
    sizes = SyntheticSizes(layers=1, hidden=64, intermediate=96, heads=4, kv_heads=2, vocab_size=900, context_length=64)
    write_synthetic_checkpoint(tmp_path / "c", sizes)
    checkpoint = open_checkpoint(tmp_path / "c")
    assert {name: checkpoint.shape(name) for name in checkpoint.names()} == sizes.shapes()
    vocabulary = json.loads((tmp_path / "c" / "tokenizer.json").read_text())["model"]["vocab"]
    assert sorted(vocabulary.values()) == list(range(900))
    manifest = export(tmp_path / "c", tmp_path / "b", name="random", origin=Source("test"), scheme="fp32", report=False)
    assert (manifest.vocab_size, manifest.context_length) == (900, 64)
    with pytest.raises(FileExistsError):
        write_synthetic_checkpoint(tmp_path / "c", sizes)
