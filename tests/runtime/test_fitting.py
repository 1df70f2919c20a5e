"""Settings that fit into a limit: never above it, no step that is not needed, and refusals that say what would help."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.bundles import decoder_manifest

from edgelm.bundle.manifest import EmbeddingFile, FileEntry, Footprint, KVGeometry, Manifest
from edgelm.config import RuntimeConfig
from edgelm.errors import ConfigError, MemoryLimitError
from edgelm.runtime.fitting import LEAST_TOKENS, USUAL_TOKENS, Fitting, Limit, fit, fit_window, need_of
from edgelm.runtime.memory import MB

SCALES = "kv_scales.f32"
COSTS = ("prefill_chunk", "kv_cache")


def model(*, family: str = "decoder", scales: bool = True, context_length: int = 8192, **changes: object) -> Manifest:
    """A model of the size of SmolLM2-135M."""
    kv = None if family == "encoder" else KVGeometry(30, 3, 64, scales=SCALES if scales else None)
    roles = {"decoder": ("decoder",), "encoder": ("encoder",), "encoder-decoder": ("encoder", "decoder")}[family]
    sizes = {f"{role}.onnx": 130_000 for role in roles} | {
        f"{role}.onnx.data": 138 * MB // len(roles) for role in roles
    }
    return replace(
        decoder_manifest(),
        family=family,
        graphs={role: f"{role}.onnx" for role in roles},
        files={name: FileEntry(size, "0" * 64) for name, size in sizes.items()},
        tasks=("feature-extraction",) if family == "encoder" else ("text-generation",),
        vocab_size=49_152,
        context_length=context_length,
        kv=kv,
        embedding=None if family == "encoder" else EmbeddingFile("embedding.int8", 49_152, 576),
        quantization={"scheme": "int8"},
        footprint=Footprint(
            hidden_size=576,
            intermediate_size=1536,
            heads=9,
            head_size=64,
            attention="blocks" if family == "decoder" else "scores",
            gated=True,
            tokenizer="BPE",
        ),
        **changes,
    )


MODELS = st.builds(model, family=st.sampled_from(["decoder", "encoder", "encoder-decoder"]), scales=st.booleans())
LIMITS = st.integers(150 * MB, 900 * MB)
TOKENS = st.integers(1, 8192)
RUNTIMES = st.builds(
    RuntimeConfig,
    prefill_chunk=st.sampled_from([1, 16, 100, 128, 1000]),
    kv_cache=st.just("f32"),
    preload_text=st.booleans(),
    fixed=st.sets(st.sampled_from(COSTS)).map(frozenset),
)


def fitted(manifest: Manifest, runtime: RuntimeConfig, tokens: int, limit: Limit) -> Fitting | None:
    try:
        return fit(manifest, runtime, tokens, limit=limit)
    except MemoryLimitError:
        return None


def cost(fitting: Fitting) -> tuple[bool, int]:
    """Of its steps, the one that costs most first."""
    runtime = fitting.runtime
    return (runtime.kv_cache == "int8", -runtime.prefill_chunk)


@given(MODELS, RUNTIMES, TOKENS, LIMITS, st.integers(0, 100 * MB))
def test_what_fits_is_within_the_limit(manifest, runtime, tokens, limit, held):
    found = fitted(manifest, runtime, tokens, Limit(limit, held=held))
    if found is None:
        assert need_of(manifest, runtime, tokens).total + held > limit
    else:
        assert found.need == need_of(manifest, found.runtime, tokens)
        assert found.need.total + held <= limit


@given(MODELS, RUNTIMES, TOKENS, LIMITS)
def test_no_step_is_taken_that_is_not_needed(manifest, runtime, tokens, limit):
    found = fitted(manifest, runtime, tokens, Limit(limit))
    assume(found is not None)
    for step in found.steps:
        without = replace(found.runtime, **{step.setting: step.usual})
        assert need_of(manifest, without, tokens).total > limit


@given(MODELS, RUNTIMES, TOKENS, LIMITS, st.integers(0, 300 * MB))
def test_a_higher_limit_never_costs_more(manifest, runtime, tokens, limit, more):
    tight, wide = (fitted(manifest, runtime, tokens, Limit(size)) for size in (limit, limit + more))
    if tight is not None:
        assert wide is not None
        assert cost(wide) <= cost(tight)


@given(MODELS, RUNTIMES, TOKENS, LIMITS)
def test_what_the_caller_fixed_stays(manifest, runtime, tokens, limit):
    found = fitted(manifest, runtime, tokens, Limit(limit))
    assume(found is not None)
    assert not runtime.fixed & set(found.changed)
    assert found.changed == {
        name: getattr(found.runtime, name) for name in COSTS if getattr(found.runtime, name) != getattr(runtime, name)
    }


@given(MODELS, st.sampled_from([None, "auto", 300, 4096]), LIMITS, st.integers(0, 300 * MB))
def test_windows_grow_with_the_limit_and_fit(manifest, window, limit, more):
    runtime = RuntimeConfig(context_length=window)
    try:
        tight = fit_window(manifest, runtime, limit=Limit(limit))
    except MemoryLimitError:
        return
    wide = fit_window(manifest, runtime, limit=Limit(limit + more))
    assert LEAST_TOKENS <= tight.context_length <= wide.context_length <= manifest.context_length
    assert wide.changed.get("kv_cache", "f32") <= tight.changed.get("kv_cache", "int8" if window is None else "f32")
    assert tight.need.total <= limit
    if window is not None:
        assert need_of(manifest, tight.runtime, tight.context_length).total <= limit


def test_without_a_limit_nothing_changes():
    runtime = RuntimeConfig(context_length="auto")
    found = fit_window(model(), runtime, limit=Limit())
    assert (found.runtime, found.steps, found.context_length) == (runtime, (), 8192)


def words(manifest: Manifest, limit: int, **settings: object) -> list[str]:
    return [str(step) for step in fit_window(manifest, RuntimeConfig(**settings), limit=Limit(limit * MB)).steps]


def test_the_steps_come_in_order_and_say_what_they_are():
    plain, shorter = (-(-need_of(model(), RuntimeConfig(prefill_chunk=chunk), 1024).total // MB) for chunk in (128, 64))
    at = {"context_length": 1024}
    assert words(model(), plain, **at) == []
    assert words(model(), shorter, **at) == ["prompts read 64 tokens at a time, not 128"]
    assert words(model(), 266, **at) == ["KV cache in int8, not f32"]
    assert words(model(), 261, context_length="auto", kv_cache="f32", fixed=frozenset({"kv_cache"}))[-1] == (
        "context window of 640 tokens, not 8192"
    )


def test_a_window_that_nobody_asked_for_may_be_larger_than_memory():
    found = fit_window(model(scales=False), RuntimeConfig(), limit=Limit(400 * MB))
    assert (found.context_length, found.steps) == (8192, ())
    assert found.need == need_of(model(scales=False), found.runtime, USUAL_TOKENS)
    assert words(model(), 400) == ["KV cache in int8, not f32"], "which lets all of it be used"
    assert words(model(scales=False), 256)[-1] == "prompts read 32 tokens at a time, not 128"


def test_a_limit_of_windows_bounds_those_that_are_left_open():
    for window, expected in ((None, 2048), ("auto", 2048), (4096, 4096)):
        runtime = RuntimeConfig(context_length=window, context_limit=2048)
        assert fit_window(model(), runtime, limit=Limit()).context_length == expected


def test_a_window_above_the_model_s_is_refused():
    with pytest.raises(ConfigError, match=r"^context_length must be at most 8192 for tiny, not 8193$"):
        fit_window(model(), RuntimeConfig(context_length=8193), limit=Limit())


def refusal(manifest: Manifest, limit: Limit, **settings: object) -> str:
    with pytest.raises(MemoryLimitError) as refused:
        fit_window(manifest, RuntimeConfig(**settings), limit=limit)
    return str(refused.value)


def test_a_refusal_names_need_limit_and_what_would_help():
    told = refusal(model(), Limit(270 * MB), context_length=4096)
    found = re.fullmatch(
        r"needs (\d+) MB, the limit is 270 MB: weights 138 MB, .*; 4096 tokens do not fit even with "
        r"prompts read 32 tokens at a time, not 128, KV cache in int8, not f32; what would: a context window of up to "
        r"(\d+) tokens \(context_length, --ctx-size; auto chooses\); or a limit of (\d+) MB",
        told,
    )
    assert found is not None, told
    assert found[1] == found[3]
    assert fit_window(model(), RuntimeConfig(context_length=int(found[2])), limit=Limit(270 * MB)).steps
    assert fit_window(model(), RuntimeConfig(context_length=4096), limit=Limit(int(found[3]) * MB)).steps


def test_a_refusal_tells_of_an_int8_cache_that_would_fit():
    missing = refusal(model(scales=False), Limit(300 * MB), context_length=4096)
    assert "an int8 KV cache (kv_cache, --kv-cache), but its bundle holds no scales for that" in missing
    fixed = RuntimeConfig.given(context_length=4096, kv_cache="f32")
    with pytest.raises(MemoryLimitError, match=r"an int8 KV cache \(kv_cache, --kv-cache\); or a limit of \d+ MB$"):
        fit_window(model(), fixed, limit=Limit(300 * MB))
    assert "int8" not in refusal(model(family="encoder-decoder"), Limit(200 * MB), context_length=4096)


def test_what_no_window_fits_is_for_a_smaller_model():
    for window in (None, "auto", 4096):
        told = refusal(model(), Limit(100 * MB), context_length=window)
        assert told.endswith("; or a smaller model"), told
    wide = refusal(replace(model(), quantization={"scheme": "fp32"}), Limit(100 * MB))
    assert wide.endswith("; or a smaller model, or int8 weights (--scheme int8)"), wide
    machine = refusal(model(), Limit(100 * MB, "the memory available on this machine"))
    assert ", the memory available on this machine is 100 MB: " in machine
    assert re.search(r"; what would: \d+ MB of memory; or a smaller", machine)


def test_what_the_process_holds_and_a_second_model_count():
    limit = Limit(290 * MB, held=20 * MB)
    assert "what else the process holds 20 MB" in refusal(model(scales=False), limit, context_length=1024)
    alone = fit(model(), RuntimeConfig(), 1024, limit=Limit(400 * MB))
    two = fit(model(), RuntimeConfig(), 1024, limit=Limit(382 * MB), beside=lambda tokens: 100 * MB + tokens)
    assert (alone.need.draft, two.need.draft) == (0, 100 * MB + 1024)
    assert two.steps


def test_text_that_is_read_late_counts():
    early, late = (
        need_of(model(), RuntimeConfig(preload_text=preload, kv_cache="int8", prefill_chunk=1), 10)
        for preload in (True, False)
    )
    assert late.total > early.total
