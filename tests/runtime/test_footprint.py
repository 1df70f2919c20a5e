"""What a model takes, by its manifest: laws that hold for every family, also for manifests that tell little."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bundles import decoder_manifest

from edgelm.bundle.manifest import EmbeddingFile, FileEntry, Footprint, KVGeometry, Manifest, RecurrentState
from edgelm.bundle.manifest_parts import ATTENTION_KINDS, TOKENIZER_KINDS
from edgelm.bundle.tokenizer_kind import tokenizer_kind
from edgelm.config import RuntimeConfig
from edgelm.runtime.fitting import need_of
from edgelm.runtime.memory import MB, Needs, budget, budget_of, encoder_budget

SIZES = Footprint(hidden_size=512, intermediate_size=2048, heads=8, head_size=64, attention="blocks", tokenizer="BPE")
FOOTPRINTS = st.builds(
    Footprint,
    hidden_size=st.integers(1, 4096),
    intermediate_size=st.integers(1, 16384),
    heads=st.integers(1, 64),
    head_size=st.integers(1, 256),
    attention=st.sampled_from(ATTENTION_KINDS),
    gated=st.booleans(),
    tied=st.booleans(),
    tokenizer=st.none() | st.sampled_from(TOKENIZER_KINDS),
)


def model(family: str = "decoder", *, footprint: Footprint | None = SIZES, **changes) -> Manifest:
    roles = {"decoder": ("decoder",), "encoder": ("encoder",), "encoder-decoder": ("encoder", "decoder")}[family]
    sizes = {f"{role}.onnx": 20_000 for role in roles} | {f"{role}.onnx.data": 30 * MB for role in roles}
    changes = {"kv": None if family == "encoder" else KVGeometry(4, 8, 64), **changes}
    return replace(
        decoder_manifest(),
        family=family,
        graphs={role: f"{role}.onnx" for role in roles},
        files={name: FileEntry(size, "0" * 64) for name, size in sizes.items()},
        vocab_size=30_000,
        tasks=("feature-extraction",) if family == "encoder" else ("text-generation",),
        quantization={"scheme": "int8"},
        footprint=footprint,
        **changes,
    )


MANIFESTS = st.one_of(
    st.builds(model, st.sampled_from(["decoder", "encoder-decoder"]), footprint=st.none() | FOOTPRINTS),
    st.builds(
        lambda state, footprint: model("encoder-decoder", kv=None, state=state, footprint=footprint),
        st.builds(RecurrentState, st.integers(1, 6), st.integers(1, 1024)),
        st.none() | FOOTPRINTS,
    ),
    st.builds(
        lambda footprint: model(footprint=footprint, layout="optimum"),
        st.none() | FOOTPRINTS,
    ),
)
COUNTS = st.integers(0, 5000)


@given(MANIFESTS, st.integers(1, 20_000), st.integers(0, 20_000), st.integers(1, 1024), st.integers(1, 8))
def test_more_tokens_never_take_less(manifest, tokens, more, chunk, sequences):
    few = budget(manifest, tokens=tokens, prefill_chunk=chunk, sequences=sequences)
    many = budget(manifest, tokens=tokens + more, prefill_chunk=chunk, sequences=sequences)
    assert few.total <= many.total
    assert few.total <= budget(manifest, tokens=tokens, prefill_chunk=chunk, sequences=sequences + 1).total
    assert few.total <= budget(manifest, tokens=tokens, prefill_chunk=chunk + 1, sequences=sequences).total


@given(MANIFESTS, st.integers(1, 20_000))
def test_an_int8_cache_takes_a_quarter_of_its_bytes_and_changes_nothing_else(manifest, tokens):
    whole, quarter = (budget(manifest, tokens=tokens, prefill_chunk=128, kv_cache=kind) for kind in ("f32", "int8"))
    smaller = whole.kv_cache
    if manifest.kv is not None and manifest.layout == "edgelm":
        smaller = whole.kv_cache // 4
    assert quarter.kv_cache == smaller
    assert replace(quarter, kv_cache=0, loading=0) == replace(whole, kv_cache=0, loading=0)


NEEDS = st.builds(
    Needs,
    tokens=COUNTS,
    sequences=st.integers(0, 4),
    rows=st.integers(0, 32),
    longest=COUNTS,
    cross_tokens=COUNTS,
    source_tokens=COUNTS,
    longest_source=COUNTS,
)


@given(MANIFESTS, NEEDS, NEEDS)
def test_a_further_generation_never_takes_less(manifest, one, other):
    alone = budget_of(manifest, one, prefill_chunk=128).total
    assert alone <= budget_of(manifest, one + other, prefill_chunk=128).total


@given(st.none() | FOOTPRINTS, st.integers(1, 4096), st.integers(0, 4096), st.integers(1, 512), st.integers(0, 512))
def test_larger_batches_and_longer_texts_never_take_less(footprint, batch, more, longest, longer):
    manifest = model("encoder", footprint=footprint)
    few = encoder_budget(manifest, batch_tokens=batch, longest=longest).total
    assert few <= encoder_budget(manifest, batch_tokens=batch + more, longest=longest + longer).total
    assert encoder_budget(manifest, batch_tokens=batch, longest=longest, waiting=5 * MB).total <= few + 5 * MB


@pytest.mark.parametrize(("family", "graphs"), [("decoder", 1), ("encoder-decoder", 2), ("encoder", 1)])
def test_many_threads_take_memory_in_each_graph(family, graphs):
    """A decoder budgeted at 123 MB peaked at 110 MB with up to 16 threads, and at 173 MB with 1,024."""
    manifest = model(family)

    def need(threads):
        return need_of(manifest, RuntimeConfig(threads=threads), 100)

    assert need(16) == need(1)
    assert need(1024).graph - need(16).graph == graphs * 1008 * 64_000
    assert need(1024).total - need(16).total == graphs * 1008 * 64_000


def test_threads_that_nobody_chose_are_as_many_as_pay_here(monkeypatch):
    monkeypatch.setattr("edgelm.runtime.footprint.available_cores", lambda: 100)
    assert budget(model(), tokens=9, prefill_chunk=9) == budget(model(), tokens=9, prefill_chunk=9, threads=100)


def values(manifest, **needs):
    return budget_of(manifest, Needs(**{"tokens": 2000, "longest": 2000, "rows": 1, **needs}), prefill_chunk=100)


def test_alibi_holds_scores_and_a_bias():
    plain, biased = (
        values(model(footprint=replace(SIZES, attention=kind)), sequences=1).activations
        for kind in ("blocks", "biased scores")
    )
    scores = 2 * 8 * 100 * 2000 * 4
    feed_forward = int(4.5 * 2048) * 100 * 4
    assert biased - plain == scores - feed_forward, "of bias and feed-forward layers the larger counts"


def test_disentangled_scores_of_an_encoder_take_seven_matrices():
    def activations(kind):
        made = model("encoder", footprint=replace(SIZES, attention=kind))
        return encoder_budget(made, batch_tokens=900, longest=300, waiting=0).activations

    rest = activations("scores") - int(1.7 * 8 * 900 * 300) * 4
    assert activations("disentangled scores") - rest == 7 * 8 * 900 * 300 * 4


def test_a_relative_bias_of_a_source_is_quadratic():
    def activations(kind, length):
        needs = {"source_tokens": length, "longest_source": length}
        return values(model("encoder-decoder", footprint=replace(SIZES, attention=kind)), **needs).activations

    one, two = (activations("biased scores", n) - activations("scores", n) for n in (500, 1000))
    rest = 8 * 2000 * 4  # the decoder's own bias, of its one new token
    assert one == 4 * 12 * 500**2 + rest
    assert two == 4 * 12 * 1000**2 + rest


def test_a_tied_table_in_the_graph_is_there_twice():
    table = int(1.125 * 30_000 * 512)
    tied, untied = (budget(model(footprint=replace(SIZES, tied=tied)), tokens=9, prefill_chunk=9) for tied in (1, 0))
    assert tied.weights - untied.weights == table
    beside = model(footprint=replace(SIZES, tied=True), embedding=EmbeddingFile("embedding.int8", 30_000, 512))
    assert budget(beside, tokens=9, prefill_chunk=9).weights == untied.weights
    assert untied.loading > budget(beside, tokens=9, prefill_chunk=9).loading > 0


@pytest.mark.parametrize("layout", ["edgelm", "optimum"])
@pytest.mark.parametrize("name", ["decoder.weights", "onnx__MatMul_123", "model.onnx_data_1", "embedding.int8"])
def test_weights_count_whatever_their_file_is_called(layout, name):
    usual = model(layout=layout)
    files = {name if old == "decoder.onnx.data" else old: entry for old, entry in usual.files.items()}
    assert budget(replace(usual, files=files), tokens=9, prefill_chunk=9) == budget(usual, tokens=9, prefill_chunk=9)


@pytest.mark.parametrize(
    "name", ["embedding.int8", "kv_scales.f32", "tokenizer.json", "chat_template.jinja", "NOTE.md"]
)
def test_files_that_are_known_to_hold_no_weights_do_not_count(name):
    known = model(
        kv=KVGeometry(4, 8, 64, scales="kv_scales.f32"), embedding=EmbeddingFile("embedding.int8", 30_000, 512)
    )
    more = replace(known, files=known.files | {name: FileEntry(20 * MB, "0" * 64)})
    assert budget(more, tokens=9, prefill_chunk=9) == budget(known, tokens=9, prefill_chunk=9)


def test_an_old_encoder_is_as_wide_with_weights_in_any_file():
    usual = model("encoder", footprint=None)
    files = {"onnx__MatMul_1" if name.endswith(".data") else name: entry for name, entry in usual.files.items()}
    one, other = (encoder_budget(made, batch_tokens=64, longest=64) for made in (usual, replace(usual, files=files)))
    assert one == other


def test_blocks_have_their_scales_thrice_and_a_head_in_small_pieces():
    rows = model(footprint=replace(SIZES, tied=True), embedding=EmbeddingFile("embedding.int8", 30_000, 512))
    blocks = replace(rows, embedding=EmbeddingFile("embedding.int8", 30_000, 512, block_size=32))
    head = int(1.125 * 30_000 * 512)
    for scheme, layer_bytes in (("int8-block", 1.125), ("int4", 0.625)):
        of_rows, of_blocks = (
            budget(replace(made, quantization={"scheme": scheme}), tokens=1, prefill_chunk=1) for made in (rows, blocks)
        )
        weights = (of_rows.weights - head) / layer_bytes + 30_000 * 512
        assert of_blocks.weights - of_rows.weights == pytest.approx(weights / 4, abs=2)
        assert of_blocks.loading < of_rows.loading


def test_no_layer_is_larger_than_all_weights_are():
    wide = budget(model(footprint=None, kv=KVGeometry(4, 32, 128)), tokens=0, prefill_chunk=1)
    assert 0 < wide.loading <= 2.7 * wide.weights


def test_loading_counts_only_where_it_is_more_than_running():
    manifest = model()
    short, long = (budget(manifest, tokens=tokens, prefill_chunk=128) for tokens in (8, 20_000))
    assert short.loading > 0
    assert long.loading == 0
    assert short.loading + short.kv_cache + short.activations == pytest.approx(2.7 * 1.125 * 30_000 * 512, abs=9)


@pytest.mark.parametrize(("kind", "each"), [("BPE", 350), ("Unigram", 1400), ("WordPiece", 400), (None, 350)])
def test_tokenizers_by_their_kind(kind, each):
    manifest = model(footprint=replace(SIZES, tokenizer=kind))
    assert budget(manifest, tokens=1, prefill_chunk=1).text == each * 30_000


def test_of_an_unknown_tokenizer_the_largest_usual_one_is_assumed():
    assert encoder_budget(model("encoder", footprint=None), batch_tokens=1, longest=1).text == 1400 * 30_000


def test_graphs_of_others_copy_their_cache_and_give_all_logits():
    ours, theirs = (budget(model(layout=layout), tokens=1000, prefill_chunk=100) for layout in ("edgelm", "optimum"))
    assert theirs.kv_cache == 5.5 * ours.kv_cache
    assert theirs.activations - ours.activations == 4 * (2 * 100 * 30_000 + 3 * 8 * 100 * 1000)


@pytest.mark.parametrize("graphs", [{"decoder_with_past": "later.onnx"}, {"decoder": "decoder_model_merged.onnx"}])
def test_graphs_in_two_parts_take_a_prompt_in_one_run(graphs):
    plain = model(layout="optimum")
    parted = replace(plain, graphs=plain.graphs | graphs)
    parted = replace(parted, files=plain.files | {name: FileEntry(20_000, "") for name in graphs.values()})
    for tokens in (50, 1000):
        assert budget(parted, tokens=tokens, prefill_chunk=100).activations == (
            budget(plain, tokens=tokens, prefill_chunk=tokens).activations
        )


def test_a_step_of_more_rows_than_a_chunk_has_tokens():
    few, many = (values(model(), sequences=1, rows=rows).activations for rows in (100, 300))
    widths = 4 * 512 + 10 * 512 + int(4.5 * 2048)
    assert many - few == 4 * 200 * (widths + 4 * 30_000)


def test_an_old_encoder_is_taken_to_be_as_wide_as_its_weights_allow():
    known, old = (encoder_budget(model("encoder", footprint=f), batch_tokens=512, longest=512) for f in (SIZES, None))
    assert old.activations > known.activations


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
def test_the_kind_of_a_tokenizer_is_found_without_parsing_it(kind):
    head = b'{"normalizer": {"type": "Precompiled", "precompiled_charsmap": "' + b"A" * 400_000 + b'"}, '
    assert tokenizer_kind(head + b'"model": {"type": "%s", "vocab": {' % kind.encode()) == kind
    assert tokenizer_kind(b'{"pre_tokenizer": {"type": "ByteLevel"}, "model": {"vocab": {}}}') is None
