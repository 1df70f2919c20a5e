"""Loading encoders, running many texts, turning texts into vectors; and what is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper
from support.bundles import seal, write_decoder_bundle
from support.encoder_bundle import CLS, GRAPH_NAME, PAD, TinyEncoder, encoder_tokenizer, write_encoder_bundle
from support.foreign_graphs import BERT, encoder, write_folder
from support.tokenizers import SENTENCES

import edgelm
from edgelm.bundle.manifest import Pooling
from edgelm.encoder_model import EncoderModel, load_encoder
from edgelm.errors import (
    ClosedError,
    ConfigError,
    ContextLengthError,
    MemoryLimitError,
    ModelError,
    ModelNotFoundError,
    NumericError,
    PromptError,
    UnsupportedModelError,
)
from edgelm.text.encoding import Encoding, Truncation

Load = Callable[..., EncoderModel]
TEXTS = ["dog", "the quick brown fox", "she sells sea shells", "x", "hello world and the lazy dog", "", "numbers"]


def test_vectors_are_those_of_each_text_alone_in_the_order_given(load: Load) -> None:
    model = load()
    together = model.embed(TEXTS)
    assert together.dtype == np.float32
    assert together.shape == (len(TEXTS), 24)
    for text, vector in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(model.embed(text), vector, rtol=1e-4, atol=1e-5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    lengths=st.lists(st.integers(0, 40), max_size=30),
    batch_tokens=st.integers(1, 300),
    pooling=st.sampled_from(["mean", "cls", "last", "max"]),
)
def test_batches_change_nothing(folders: dict[str, Path], lengths: list[int], batch_tokens: int, pooling: str) -> None:
    with load_encoder(folders["feature-extraction"], prepack=False, threads=1) as model:
        texts = [" ".join(["dog", "fox", "sea"][i % 3] for i in range(length)) for length in lengths]
        few = model.embed(texts, pooling=pooling, batch_tokens=batch_tokens)
        np.testing.assert_allclose(few, model.embed(texts, pooling=pooling), rtol=1e-4, atol=1e-5)


def test_pooling_and_length_are_the_model_s_unless_asked(load: Load, tmp_path: Path) -> None:
    own = load(write_encoder_bundle(tmp_path / "own", TinyEncoder(pooling=Pooling("cls", normalize=True))))
    plain = load()
    vectors = own.embed(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    raw = plain.embed(TEXTS, pooling="cls")
    np.testing.assert_allclose(vectors, raw / np.linalg.norm(raw, axis=1, keepdims=True), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(own.embed(TEXTS, normalize=False, pooling="mean"), plain.embed(TEXTS), rtol=1e-5)


def test_a_prompt_stands_before_each_text(load: Load) -> None:
    model = load()
    np.testing.assert_array_equal(model.embed(["dog"], prompt="the "), model.embed(["the dog"]))


@pytest.mark.parametrize("task", ["text-classification", "token-classification", "question-answering", "fill-mask"])
def test_outputs_come_in_order_and_without_padding(load: Load, task: str) -> None:
    model = load(task)
    encodings = model.encode([*TEXTS, ("the dog", "the fox")])
    together = list(model.run(encodings, batch_tokens=16))
    assert len(together) == len(encodings)
    for encoding, outputs in zip(encodings, together, strict=True):
        (alone,) = model.run([encoding])
        for name, array in outputs.items():
            if task != "text-classification":
                assert len(array) == len(encoding)
            np.testing.assert_allclose(array, alone[name], rtol=1e-4, atol=1e-5)


def test_many_outputs_wait_for_each_other_in_parts(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load("fill-mask")
    encodings = model.encode(TEXTS)
    whole = list(model.run(encodings))
    monkeypatch.setattr("edgelm.batched_encoder._WAITING_BYTES", 3000)
    assert len(list(model._encoder._parts(encodings))) > 2
    for one, other in zip(model.run(encodings), whole, strict=True):
        np.testing.assert_allclose(one["logits"], other["logits"], rtol=1e-4, atol=1e-5)


def test_token_types_tell_the_texts_of_a_pair_apart(load: Load) -> None:
    model = load("text-classification")
    pair = model.encode([("the dog", "the fox")])[0]
    assert set(pair.type_ids) == {0, 1}
    (found,) = model.run([pair])
    by_hand = model._encoder._encoder.run([pair.ids], [[0] * len(pair)])
    assert not np.allclose(found["logits"], by_hand["logits"][0])


def test_no_text_gives_no_vector(load: Load) -> None:
    assert load().embed([]).shape == (0, 24)
    assert list(load().run([])) == []


def test_what_is_too_long_is_refused_or_cut_when_asked(load: Load) -> None:
    model = load()
    long = "dog " * 100
    with pytest.raises(ContextLengthError, match="text 1 has 102 tokens; tiny-encoder takes 64"):
        model.embed(["dog", long])
    cut = model.embed(long, truncation=True)
    np.testing.assert_allclose(cut, model.embed("dog " * 62), rtol=1e-4, atol=1e-5)
    with pytest.raises(ContextLengthError, match="takes 20"):
        load(context_length=20).embed("dog " * 30)
    whole = model.text_encoder.encode_batch([long])
    with pytest.raises(ContextLengthError):
        model.run(whole)


@pytest.mark.parametrize("bad", [["a", "\ud800"], ["a", 3], ["a", None]])
def test_bad_texts_are_named(load: Load, bad: list[str]) -> None:
    with pytest.raises(PromptError, match="text 1: "):
        load().embed(bad)


@pytest.mark.parametrize("bad", [None, 5, {"dog"}, iter(["dog"])], ids=lambda bad: type(bad).__name__)
def test_what_is_no_list_of_texts_is_refused(load: Load, bad: object) -> None:
    with pytest.raises(PromptError, match="texts must be a text or a list of texts, not "):
        load().embed(bad)  # type: ignore[arg-type]
    if not isinstance(bad, Iterable):
        with pytest.raises(PromptError, match="texts must be a list of texts, not "):
            load().encode(bad)  # type: ignore[arg-type]


def test_texts_are_named_by_their_place_among_all(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgelm.encoder_model._TEXTS_AT_A_TIME", 3)
    with pytest.raises(PromptError, match="text 4: "):
        load().embed(["dog", "dog", "dog", "dog", "\ud800"])
    with pytest.raises(ContextLengthError, match="text 3 has 102 tokens"):
        load().embed(["dog", "dog", "dog", "dog " * 100])
    with pytest.raises(PromptError, match="text 4: a prompt stands before a text, not before a tuple"):
        load().embed(["dog", "dog", "dog", "dog", ("a", "b")], prompt="the ")  # type: ignore[list-item]


def test_a_prompt_that_is_no_text_is_refused(load: Load) -> None:
    with pytest.raises(ConfigError, match="prompt must be a text, not int"):
        load().embed(["dog"], prompt=5)  # type: ignore[arg-type]


def test_one_text_is_not_taken_letter_by_letter(load: Load) -> None:
    with pytest.raises(PromptError, match="a list of texts"):
        load().encode("dog")


def test_a_text_without_any_token_is_refused(load: Load, tmp_path: Path) -> None:
    state = json.loads(encoder_tokenizer().to_str()) | {"post_processor": None}
    folder = write_encoder_bundle(tmp_path / "a", files={"tokenizer.json": json.dumps(state).encode()})
    with pytest.raises(PromptError, match="text 1 is empty, and this model puts no token around a text"):
        load(folder).embed(["dog", "  "])


def test_settings_are_checked(load: Load) -> None:
    with pytest.raises(ConfigError, match="pooling must be one of mean, cls, last, max, not 'median'"):
        load().embed(["dog"], pooling="median")
    with pytest.raises(ConfigError, match="pooling must be one of mean, cls, last, max, not ''"):
        load().embed(["dog"], pooling="")
    with pytest.raises(ConfigError, match="batch_tokens must be at least 1, not 0"):
        load().embed(["dog"], batch_tokens=0)
    with pytest.raises(ConfigError, match="context_length must be at most 64 for tiny-encoder, not 65"):
        load(context_length=65)
    with pytest.raises(ConfigError, match="threads"):
        load(threads=0)


def test_a_model_for_something_else_is_refused(load: Load, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="tiny-encoder is for fill-mask: it has no hidden states to pool"):
        load("fill-mask").embed(["dog"])
    with pytest.raises(UnsupportedModelError, match="tiny-encoder is for fill-mask, not for text-classification"):
        load("fill-mask").require_task("text-classification")
    with pytest.raises(UnsupportedModelError, match="'decoder', no encoder; it is for text-generation, chat"):
        load(write_decoder_bundle(tmp_path / "lm"))
    with pytest.raises(UnsupportedModelError, match=r"only decoders|encoder"):
        edgelm.load(write_encoder_bundle(tmp_path / "a"), prepack=False)
    with pytest.raises(ModelNotFoundError, match=r"neither a folder|there is no model"):
        load_encoder("no-such-model")


def test_numbers_that_are_none_are_told(load: Load, tmp_path: Path) -> None:
    def spoil(model: onnx.ModelProto) -> None:
        bias = next(tensor for tensor in model.graph.initializer if tensor.name == "norm_bias")
        bias.CopyFrom(numpy_helper.from_array(np.full(24, np.nan, np.float32), "norm_bias"))

    for task in ("feature-extraction", "text-classification"):
        folder = write_encoder_bundle(tmp_path / task, TinyEncoder(task=task), edit=spoil)
        model = load(folder)
        with pytest.raises(NumericError, match="tiny-encoder gave v"):
            model.embed(["dog"]) if task == "feature-extraction" else list(model.run(model.encode(["dog"])))


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(load: Load, tmp_path: Path) -> None:
    tokenizer = encoder_tokenizer()
    tokenizer.add_tokens(["one too many"])
    folder = write_encoder_bundle(tmp_path / "a", files={"tokenizer.json": tokenizer.to_str().encode()})
    with pytest.raises(ModelError, match="but the model knows"):
        load(folder)


def test_special_tokens_by_their_roles(load: Load, tmp_path: Path) -> None:
    roles = json.dumps({"cls_token": "[CLS]", "pad_token": "[PAD]", "additional_special_tokens": ["a"]}).encode()
    model = load(write_encoder_bundle(tmp_path / "a", files={"special_tokens.json": roles}))
    assert (model.special_token("cls_token"), model.special_token_id("cls_token")) == ("[CLS]", CLS)
    assert model.special_token_id("pad_token") == PAD
    assert model.special_token("mask_token") is None
    assert model.special_token_id("mask_token") is None
    assert load().special_token("cls_token") is None


def test_after_close_it_says_so(load: Load) -> None:
    model = load()
    encodings = model.encode(["dog"])
    left = model.run(encodings)
    model.close()
    model.close()
    for use in (lambda: model.embed(["dog"]), lambda: model.run(encodings), lambda: next(left)):
        with pytest.raises(ClosedError, match="the model is closed"):
            use()


def test_eight_threads_equal_serial(load: Load) -> None:
    model = load(threads=2)
    work = [[text] * n for n, text in enumerate([*SENTENCES[:4], *TEXTS], start=1)]
    serial = [model.embed(texts, truncation=True) for texts in work]
    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(serial, pool.map(lambda texts: model.embed(texts, truncation=True), work), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_closing_while_texts_are_embedded_ends_cleanly(load: Load) -> None:
    model = load()
    errors: list[BaseException] = []

    def embed() -> None:
        try:
            for _ in range(100_000):
                model.embed(TEXTS)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=embed)
    thread.start()
    model.embed(TEXTS)
    model.close()
    thread.join(30)
    assert not thread.is_alive()
    assert [type(error) for error in errors] == [ClosedError]


def test_the_memory_limit(load: Load) -> None:
    with pytest.raises(MemoryLimitError, match=r"needs .* the limit is 10 MB"):
        load(max_memory="10MB")
    free = load()
    batch, one = free.memory_budget(1024, longest=32), free.memory_budget(32, longest=32)
    assert batch.total > one.total
    assert batch.kv_cache == 0
    limited = load(max_memory=(batch.total + one.total) // 2)
    assert limited._encoder._affordable(1024, 32) < 1024
    np.testing.assert_allclose(limited.embed(TEXTS), free.embed(TEXTS), rtol=1e-4, atol=1e-5)


def test_an_encoder_that_is_loaded_later_counts_until_it_is_closed(load: Load) -> None:
    limited = load(max_memory=load().memory_budget(64, longest=64).total)
    later = load()
    with pytest.raises(MemoryLimitError, match="what else the process holds"):
        limited.embed(["dog " * 62])
    later.close()
    assert limited.embed(["dog " * 62]).shape == (1, 24)


@pytest.mark.parametrize("limited", [True, False])
def test_batches_of_several_threads_stay_within_the_limit_together(
    load: Load, monkeypatch: pytest.MonkeyPatch, limited: bool
) -> None:
    texts = ["dog " * 30] * 32
    free = load()
    expected = free.embed(texts)
    model = load(max_memory=free.memory_budget(1024, longest=32).total + 50_000) if limited else free
    order, first_runs, other_runs = [], threading.Event(), threading.Event()
    run = model._encoder._run

    def noted(encodings: Sequence[Encoding], *, last: bool) -> dict[str, NDArray[np.float32]]:
        order.append("begin")
        if first_runs.is_set():
            other_runs.set()
        else:
            first_runs.set()
            other_runs.wait(0.2 if limited else 30)
        made = run(encodings, last=last)
        order.append("end")
        return made

    monkeypatch.setattr(model._encoder, "_run", noted)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(model.embed, texts)
        assert first_runs.wait(30)
        second = pool.submit(lambda: next(model.run(model.encode(texts))))
        np.testing.assert_allclose(first.result(30), expected, rtol=1e-4, atol=1e-5)
        second.result(30)
    assert order[:2] == (["begin", "end"] if limited else ["begin", "begin"])


def test_outputs_that_nobody_reads_on_keep_nobody_waiting(load: Load) -> None:
    limited = load(max_memory=load().memory_budget(64, longest=64, waiting=12_000).total)
    encodings = limited.encode(["dog " * 58] * 2)
    left = limited.run(encodings)
    next(left)
    with ThreadPoolExecutor(1) as pool:
        assert len(pool.submit(lambda: list(limited.run(encodings))).result(30)) == 2
    assert len(list(left)) == 1


def test_the_vectors_themselves_count(load: Load) -> None:
    limited = load(max_memory=load().memory_budget(64, longest=64).total)
    assert limited.embed(["dog " * 62]).shape == (1, 24), "a text that fits does so with its vector"
    assert limited.embed(["dog"] * 20).shape == (20, 24)
    with pytest.raises(MemoryLimitError, match="needs"):
        limited.embed(["dog"] * 40_000)


def test_within_a_limit_every_batch_gives_back_what_it_freed(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """All-MiniLM-L6-v2 within 125 MB peaked at 146 MB after 30 batches of 500 tokens, and at 106 MB with it."""
    calls: list[None] = []
    monkeypatch.setattr("edgelm.batched_encoder.give_back_freed_memory", lambda: calls.append(None))
    for limit, times in (("1GB", 3), (None, 0)):
        model = load(max_memory=limit)
        calls.clear()
        model.embed(["dog", "cat", "dog"], batch_tokens=1)
        assert len(calls) == times


def test_a_prepacked_copy_gives_the_same(load: Load) -> None:
    plain, packed = load(), load(prepack=True)
    np.testing.assert_allclose(plain.embed(TEXTS), packed.embed(TEXTS), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("width", [1, 3])
def test_labels_for_other_logits_than_the_graph_gives_are_refused(load: Load, tmp_path: Path, width: int) -> None:
    graph = encoder(output="logits", shape=("batch", width))
    graph.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "labels"
    files = {"config.json": BERT | {"id2label": {"0": "no", "1": "yes"}}, "model.onnx": graph}
    with pytest.raises(ModelError, match=f"the graph gives {width} logits, but 2 labels are known"):
        load(write_folder(tmp_path / "folder", files), preload_text=False)


def test_a_changed_bundle_is_refused(tmp_path: Path) -> None:
    folder = write_encoder_bundle(tmp_path / "a")
    (folder / GRAPH_NAME).write_bytes((folder / GRAPH_NAME).read_bytes() + b"\0")
    with pytest.raises(ModelError):
        load_encoder(folder)
    with pytest.raises(ModelError):
        load_encoder(seal(folder, graphs={"encoder": "tokenizer.json"}))


def test_truncated_windows_can_be_run(load: Load) -> None:
    model = load()
    windows = model.text_encoder.encode("dog " * 100, truncation=Truncation(64, stride=10)).windows
    assert [outputs["last_hidden_state"].shape for outputs in model.run(windows)] == [(len(w), 24) for w in windows]
