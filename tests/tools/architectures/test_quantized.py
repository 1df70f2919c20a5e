"""Quantized graphs of tiny models stay near their fp32 graphs, and whole bundles open."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from support.gpt_checkpoints import GPT_VARIANTS, gpt_variant
from support.native_graphs import write_native
from support.tiny_checkpoints import CONTEXT, VARIANTS, VOCABULARY, reference_model, variant, write_checkpoint

from edgelm.bundle.bundle import open_bundle
from edgelm.bundle.manifest import Source
from edgelm.runtime.decoder import Decoder
from edgelm.runtime.session import Session
from edgelm.text.tokenizer import Tokenizer
from edgelm_tools.architectures.registry import understand
from edgelm_tools.checkpoint import Checkpoint, open_checkpoint
from edgelm_tools.evaluate import compare, evaluation_text, open_decoder
from edgelm_tools.export import SCHEMES, export, write_graph
from edgelm_tools.quality import Quality
from edgelm_tools.quantize.schemes import Blockwise, DynamicInt8, Float32, Rowwise, Scheme

pytestmark = pytest.mark.reference

# One of each model type, the odder where there is a choice.
NAMES = (
    "llama.biases",
    "mistral.window",
    "qwen2.tied_window",
    "qwen3",
    "phi3.partial",
    "gemma",
    "gemma2",
    "gemma3_text",
    "granite",
    "olmo2.biases",
    "smollm3",
    "stablelm.parallel",
    "gpt2.untied",
    "gpt_neox.wide",
    "opt",
    "opt.projected_post",
    "bloom.five_heads",
)
# Those whose residual stream cannot be rotated.
FIXED = ("gemma2", "gemma3_text", "olmo2.biases", "stablelm.parallel", "opt.projected_post")
# The most that each scheme may cost these models, whose weights are noise, in nats of KL divergence (uncalibrated).
# Logits of other positions would cost about 3.
BOUNDS = {"int8": 0.12, "int8-block": 0.03, "int4": 1.0, "dynamic-int8": 0.12}
QUANTIZED: dict[str, Scheme] = {
    "int8": Rowwise(),
    "int8-block": Blockwise("int8-block", bits=8, block_size=32),
    "int4": Blockwise("int4", bits=4, block_size=32),
    "dynamic-int8": DynamicInt8(),
}


@dataclass(frozen=True)
class Case:
    name: str
    folder: Path
    checkpoint: Checkpoint
    ids: list[int]

    def quality(self, graph: Path, *windows: list[int]) -> Quality:
        with open_decoder(graph, CONTEXT) as ours, open_decoder(self.folder / "fp32.onnx", CONTEXT) as fp32:
            return compare(ours, fp32, windows or [self.ids])


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    folder = tmp_path_factory.mktemp("quantized")
    chosen = next(v for v in (*VARIANTS, *GPT_VARIANTS) if v.name == request.param)
    checkpoint = open_checkpoint(write_checkpoint(folder / "checkpoint", reference_model(chosen)))
    write_native(folder / "fp32.onnx", checkpoint, Float32())
    ids = np.random.default_rng(2).integers(0, VOCABULARY, CONTEXT).tolist()
    yield Case(request.param, folder, checkpoint, ids)
    checkpoint.close()


@pytest.mark.parametrize("scheme", QUANTIZED.values(), ids=QUANTIZED.keys())
def test_quantized_graphs_stay_near_fp32(case: Case, scheme: Scheme, tmp_path: Path) -> None:
    used = write_native(tmp_path / "decoder.onnx", case.checkpoint, scheme)
    assert used.name == ("int8-block" if scheme.name == "int8" and case.name in FIXED else scheme.name)
    assert used.wants_rotation == (scheme.name in ("int8", "int4") and case.name not in FIXED)
    assert case.quality(tmp_path / "decoder.onnx").kl < BOUNDS[used.name]


def test_windows_are_texts_of_their_own(case: Case, tmp_path: Path) -> None:
    write_native(tmp_path / "decoder.onnx", case.checkpoint, QUANTIZED["dynamic-int8"])
    first, second = case.ids[:10], case.ids[10:30]
    apart = [case.quality(tmp_path / "decoder.onnx", window) for window in (first, second)]
    both = case.quality(tmp_path / "decoder.onnx", first, second)
    assert both.tokens == 30
    assert both.kl == pytest.approx((10 * apart[0].kl + 20 * apart[1].kl) / 30, rel=1e-4)


@pytest.mark.parametrize("scheme", sorted(set(SCHEMES) - {"int8", "int4"}))
def test_bundles_open(case: Case, scheme: str, tmp_path: Path) -> None:
    export_and_open(case, scheme, tmp_path / "bundle")


def export_and_open(case: Case, scheme: str, target: Path) -> None:
    origin = Source("test:tiny", license="none")
    made = export(case.folder / "checkpoint", target, name="tiny", origin=origin, scheme=scheme, report=False)
    bundle = open_bundle(target)
    assert bundle.manifest == made
    facts = understand(case.checkpoint).facts
    assert made.architecture == facts.architecture == case.name.split(".")[0]
    assert made.context_length == facts.context_length == CONTEXT
    assert made.eos_token_id == (2,)
    assert made.kv is not None
    assert replace(made.kv, scales=None) == facts.kv, "what else there is of scales was measured"


def test_a_calibrated_bundle_opens_and_is_measured(tmp_path: Path) -> None:
    model = reference_model(variant("llama.tied"))
    write_checkpoint(tmp_path / "checkpoint", model)
    origin = Source("test:tiny", license="none")
    manifest = export(tmp_path / "checkpoint", tmp_path / "bundle", name="tiny", origin=origin, scheme="int8")
    bundle = open_bundle(tmp_path / "bundle")
    assert manifest.eos_token_id == (2, 5)
    assert manifest.quantization["scheme"] == "int8"
    assert 0 < manifest.quality["kl"] < BOUNDS["int8"]
    report = json.loads(bundle.read_text("report.json", 1 << 20))
    assert report.items() >= manifest.quality.items()


@pytest.mark.parametrize(
    ("name", "scheme"),
    [*((name, "int8") for name in ("gpt2", "gpt_neox", "gpt_neox.sequential", "opt", "bloom")), ("gpt2", "int4")],
)
def test_calibration_makes_up_for_rounding(name: str, scheme: str, tmp_path: Path) -> None:
    """Also where LayerNorm has become an RMS norm; measured on another text than the calibration's."""
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "checkpoint", reference_model(gpt_variant(name))))
    model = understand(checkpoint)
    ids = Tokenizer.from_file(tmp_path / "checkpoint" / "tokenizer.json").encode(evaluation_text())[: 8 * CONTEXT]
    windows = [ids[start : start + CONTEXT] for start in range(0, len(ids), CONTEXT)]
    schemes = {
        "fp32": Float32(),
        "plain": model.prepared(QUANTIZED[scheme], None, tmp_path),
        "calibrated": model.prepared(QUANTIZED[scheme], checkpoint.text_assets(), tmp_path),
    }
    for kind, used in schemes.items():
        (tmp_path / kind).mkdir()
        write_graph(tmp_path / kind / "decoder.onnx", model, "decoder", used)
    checkpoint.close()
    kl = {}
    for kind in ("plain", "calibrated"):
        graphs = tmp_path / kind / "decoder.onnx", tmp_path / "fp32" / "decoder.onnx"
        with open_decoder(graphs[0], CONTEXT) as ours, open_decoder(graphs[1], CONTEXT) as fp32:
            kl[kind] = compare(ours, fp32, windows).kl
    assert 0 < kl["calibrated"] < 0.9 * kl["plain"], kl


def test_int8_steps_and_prefill_agree_within_their_rounding(tmp_path: Path) -> None:
    model = reference_model(variant("qwen3"))
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "checkpoint", model))
    write_native(tmp_path / "decoder.onnx", checkpoint, DynamicInt8())
    session = Session(tmp_path / "decoder.onnx", threads=1, spinning=False)
    ids = np.random.default_rng(3).integers(0, VOCABULARY, 40)
    prefilled, stepped = (Decoder(session, context_length=CONTEXT, prefill_chunk=1 << 20) for _ in range(2))
    for token in ids:
        steps = stepped.step(int(token))
    whole = prefilled.prefill(ids)
    assert np.corrcoef(steps, whole)[0, 1] > 0.95
    checkpoint.close()
