"""What ``load`` takes and what it refuses."""

from __future__ import annotations

import re
import subprocess
import sys
import threading

import numpy as np
import onnx
import pytest
import tokenizers
from onnx import helper
from support.bundles import (
    GRAPH_NAME,
    VOCABULARY,
    WEIGHTS_NAME,
    TinyDecoder,
    seal,
    tokenizer_json,
    write_decoder_bundle,
)
from support.encoder_bundle import write_encoder_bundle
from support.pools import demand
from support.scripted_bundle import byte_tokenizer

import edgelm
from edgelm.bundle.manifest import MANIFEST_NAME
from edgelm.errors import (
    ConfigError,
    MemoryLimitError,
    ModelError,
    ModelNotFoundError,
    NumericError,
    TemplateError,
    UnsupportedModelError,
)


def test_settings_of_the_runtime_are_checked(folders):
    for settings in ({"threads": 0}, {"context_length": 0}, {"max_memory": "much"}, {"prefill_chunk": 0}):
        with pytest.raises(ConfigError):
            edgelm.load(folders["tiny"], **settings)
    with pytest.raises(ConfigError, match="context_length must be at most 64 for tiny, not 65"):
        edgelm.load(folders["tiny"], context_length=65)


def test_no_such_model(tmp_path):
    with pytest.raises(ModelNotFoundError, match="there is no folder"):
        edgelm.load(tmp_path / "gone")
    with pytest.raises(ModelNotFoundError, match="there is no model 'no-such-model'"):
        edgelm.load("no-such-model")


def test_only_decoders_generate(tmp_path):
    folder = write_encoder_bundle(tmp_path / "b")
    with pytest.raises(UnsupportedModelError, match="is an encoder, which generates no text; it is for"):
        edgelm.load(folder)


def test_a_tokenizer_with_more_tokens_than_logits_is_refused(tmp_path, load):
    folder = write_decoder_bundle(tmp_path / "b", files={"tokenizer.json": byte_tokenizer().to_str().encode()})
    message = r"^tiny: the tokenizer has ids up to 258, but the model knows 32 tokens$"
    with pytest.raises(ModelError, match=message):
        load(folder)
    lm = load(folder, preload_text=False)
    for prompt in ("abc", [3, 4]):
        with pytest.raises(ModelError, match=message):
            lm.generate(prompt)
    assert demand(lm._generator.pool) == (0, 0), "no decoder is left behind"


@pytest.mark.parametrize("special", [True, False])
def test_special_tokens_that_the_model_does_not_know_are_left_alone(tmp_path, load, special):
    """As the mask of BART's models of summaries is: no text becomes one, as long as it is special."""
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json().decode())
    (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(["<mask>"])
    folder = write_decoder_bundle(tmp_path / "b", files={"tokenizer.json": tokenizer.to_str().encode()})
    lm = load(folder, preload_text=False)
    if special:
        assert lm.generate("mask me <mask>", max_new_tokens=3).token_ids
        return
    with pytest.raises(ModelError, match="the tokenizer has ids up to 32, but the model knows 32 tokens"):
        lm.generate("abc")


def test_special_tokens_that_the_model_does_not_know_are_counted(tmp_path, load, monkeypatch):
    """Memory limits know of as many tokens as the model does."""
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json().decode())
    tokenizer.add_special_tokens([f"<{number}>" for number in range(5)])
    folder = write_decoder_bundle(tmp_path / "b", files={"tokenizer.json": tokenizer.to_str().encode()})
    monkeypatch.setattr("edgelm.text_side.MAX_UNKNOWN_TOKENS", 5)
    assert load(folder).tokenizer.token_count == 37
    monkeypatch.setattr("edgelm.text_side.MAX_UNKNOWN_TOKENS", 4)
    with pytest.raises(ModelError, match="has 37 tokens, of which the model knows 32; at most 4 may be unknown to it"):
        load(folder)


def test_a_special_token_that_the_tokenizer_puts_before_every_text_must_be_known(tmp_path, load):
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json().decode())
    tokenizer.add_special_tokens(["[CLS]"])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing("[CLS] $A", special_tokens=[("[CLS]", 32)])
    folder = write_decoder_bundle(tmp_path / "b", files={"tokenizer.json": tokenizer.to_str().encode()})
    with pytest.raises(ModelError, match="the tokenizer has ids up to 32, but the model knows 32 tokens"):
        load(folder, preload_text=False).generate("abc")


def test_memory_that_runs_out_beside_loading_is_told_by_the_caller_s_thread_alone(tmp_path, load, monkeypatch):
    """A thread that ended with an error would write a traceback of its own."""
    readers = []

    def read(bundle):
        readers.append(threading.current_thread().name)
        raise MemoryError

    monkeypatch.setattr("edgelm.text_side.read_tokenizer", read)
    with pytest.raises(MemoryError):
        load(write_decoder_bundle(tmp_path / "b"))
    assert readers == ["edgelm-text", threading.current_thread().name]


def test_a_tokenizer_with_fewer_tokens_than_logits_is_usual(tmp_path, load):
    lm = load(write_decoder_bundle(tmp_path / "b", TinyDecoder(vocab_size=640)))
    result = lm.generate("abc", max_new_tokens=40, eos_token_id=[])
    assert max(result.token_ids) >= len(VOCABULARY)
    assert result.text == lm.tokenizer.decode(token for token in result.token_ids if token < len(VOCABULARY))


def test_the_memory_limit_counts_all_answers_at_once(load):
    one = load("endless").memory_budget(64).total
    lm = load("endless", max_memory=one + 10)
    stream = lm.stream("abc", max_new_tokens=61)
    next(stream)
    message = r"needs .*, the limit is .*: wait for the other to end, ask for fewer tokens"
    with pytest.raises(MemoryLimitError, match=message):
        lm.generate("abc", max_new_tokens=61)
    assert stream.drain().usage.completion_tokens == 61
    assert lm.generate("abc", max_new_tokens=61).usage.completion_tokens == 61


# Bundles that are not what they should be: see that each is refused, or ends in a typed error, never in garbage


def change_weights(folder, name, change):
    """Changes one tensor of the bundle's data file in place, and seals the bundle again."""
    model = onnx.load(folder / GRAPH_NAME, load_external_data=False)
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    place = {entry.key: entry.value for entry in tensor.external_data}
    weights = np.memmap(
        folder / WEIGHTS_NAME, np.float32, "r+", offset=int(place["offset"]), shape=(int(place["length"]) // 4,)
    )
    change(weights)
    weights.flush()
    return seal(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("sampling", [{}, {"do_sample": True, "seed": 1, "top_k": 5}])
@pytest.mark.parametrize("name", ["head", "embeddings", "layer0_qkv"])
def test_weights_that_are_no_numbers_end_in_an_error_not_in_garbage(tmp_path, load, name, value, sampling):
    lm = load(change_weights(write_decoder_bundle(tmp_path / "b"), name, lambda weights: weights.fill(value)))
    with pytest.raises(NumericError, match=r"^step 1: the logit of token \d+ is (nan|inf); logits must be finite"):
        lm.generate("abc", **sampling)
    with pytest.raises(ArithmeticError):
        list(lm.stream("abc", **sampling))


def test_one_bad_number_is_found_when_its_token_is_read(tmp_path, load):
    folder = write_decoder_bundle(tmp_path / "b", TinyDecoder(hidden=16))

    def spoil(weights):
        weights[16 * 7] = np.nan  # in the row of token 7

    lm = load(change_weights(folder, "embeddings", spoil))
    good = lm.generate([3, 4], max_new_tokens=1).token_ids
    with pytest.raises(NumericError):
        lm.generate([3, 7, 4], max_new_tokens=3)
    assert lm.generate([3, 4], max_new_tokens=1).token_ids == good


def edited_graph(folder, edit):
    model = onnx.load(folder / GRAPH_NAME, load_external_data=False)
    edit(model.graph)
    (folder / GRAPH_NAME).write_bytes(model.SerializeToString())
    return seal(folder)


def rename_input(graph):
    graph.input[4].name = "past.0.key"


def flatten_cache(graph):
    del graph.input[4].type.tensor_type.shape.dim[3]


def foreign_operator(graph):
    graph.node[0].domain = "com.evil"


def big_expand(graph):
    graph.node.append(helper.make_node("Expand", ["embeddings", "row_shape"], ["big"]))


def overlap(graph):
    first, second = (tensor for tensor in graph.initializer if tensor.name in ("rope_cos", "rope_sin"))
    del second.external_data[:]
    for entry in first.external_data:
        value = str(int(entry.value) + 4) if entry.key == "offset" else entry.value
        second.external_data.add(key=entry.key, value=value)


def place_weights(**place):
    def edit(graph):
        (tensor,) = (tensor for tensor in graph.initializer if tensor.name == "head")
        for entry in tensor.external_data:
            entry.value = str(place.get(entry.key, entry.value))

    return edit


FAULTS = {
    "empty folder": (lambda folder: [file.unlink() for file in folder.iterdir()], "edgelm.json is missing"),
    "no JSON": (lambda folder: (folder / MANIFEST_NAME).write_text("{"), "edgelm.json: not valid JSON"),
    "nested": (lambda folder: (folder / MANIFEST_NAME).write_text("[" * 200_000), "edgelm.json: "),
    "duplicate key": (lambda folder: (folder / MANIFEST_NAME).write_text('{"name": 1, "name": 2}'), "edgelm.json: "),
    "unknown version": (lambda folder: seal(folder, format_version=99), "this EdgeLM reads version 1"),
    "weights short": (lambda folder: cut(folder / WEIGHTS_NAME), f"{WEIGHTS_NAME} in .* bytes, not the "),
    "one bit": (lambda folder: flip(folder / WEIGHTS_NAME), f"{WEIGHTS_NAME} in .* SHA-256"),
    "weights gone": (lambda folder: (folder / WEIGHTS_NAME).unlink(), f"{WEIGHTS_NAME} is missing"),
    "linked weights": (lambda folder: link(folder / WEIGHTS_NAME), f"{WEIGHTS_NAME}.* link"),
    "foreign operator": (lambda folder: edited_graph(folder, foreign_operator), "com.evil.Gather is not an operator"),
    "Expand": (lambda folder: edited_graph(folder, big_expand), "Expand is not an operator that EdgeLM runs"),
    "offset": (lambda folder: edited_graph(folder, place_weights(offset=10**12)), "'head' ends at byte"),
    "negative offset": (lambda folder: edited_graph(folder, place_weights(offset=-4)), "'head'"),
    "elsewhere": (lambda folder: edited_graph(folder, place_weights(location="../x")), "'head' lies in '../x'"),
    "overlap": (lambda folder: edited_graph(folder, overlap), "overlap"),
    "vocabulary": (lambda folder: seal(folder, vocab_size=31), "output logits must be"),
    "no cache": (lambda folder: edited_graph(folder, rename_input), "input past_key_values.0.key is missing"),
    "flat cache": (lambda folder: edited_graph(folder, flatten_cache), "input past_key_values.0.key must be"),
    "settings": (lambda folder: rewrite(folder, "generation_config.json", b'{"top_p": 7}'), "generation_config.json: "),
}


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


def link(path):
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def rewrite(folder, name, data):
    (folder / name).write_bytes(data)
    seal(folder)


@pytest.mark.parametrize(("spoil", "message"), FAULTS.values(), ids=FAULTS)
def test_a_faulty_bundle_is_refused_in_one_line(tmp_path, home, capfd, spoil, message):
    folder = write_decoder_bundle(tmp_path / "b")
    spoil(folder)
    with pytest.raises(ModelError, match=message) as caught:
        edgelm.load(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert capfd.readouterr() == ("", "")
    assert not (home / "prepacked").exists()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages.__class__.__mro__ }}", "__class__|unsafe"),
        ("{% for i in range(10**7) %}{{ 'x' * 100 }}{% endfor %}", "template"),
        ("{{ nope(", "template"),
        ("x" * 70_000, "chat_template.jinja"),
    ],
)
def test_a_template_cannot_do_what_it_must_not(tmp_path, load, template, message):
    lm = load(write_decoder_bundle(tmp_path / "b", files={"chat_template.jinja": template.encode()}))
    with pytest.raises((TemplateError, ModelError), match=message):
        lm.chat([{"role": "user", "content": "a"}])
    assert lm.generate("abc", max_new_tokens=2).token_ids


@pytest.mark.parametrize("data", [b"{}", b"not JSON", b'{"model": {"type": "BPE"}}', b"\xff" * 10])
def test_a_broken_tokenizer_is_refused(tmp_path, load, data, capfd):
    folder = write_decoder_bundle(tmp_path / "b", files={"tokenizer.json": data})
    for use in (lambda: load(folder), lambda: load(folder, preload_text=False).generate("abc")):
        with pytest.raises(ModelError, match=r"tokenizer\.json: not a usable tokenizer") as caught:
            use()
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("data", [b"[1, 2]", b'"a"', b"null", b'{"bos_token": 5, "eos_token": {"a": 1}}'])
def test_special_tokens_of_another_form_are_none(tmp_path, load, data, capfd):
    lm = load(write_decoder_bundle(tmp_path / "b", files={"special_tokens.json": data}))
    assert lm.special_tokens == {}
    assert lm.chat([{"role": "user", "content": "a"}], max_new_tokens=2).token_ids
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("model", [None, 5, b"tiny"])
def test_what_names_no_model_is_refused(model):
    for load in (edgelm.load, edgelm.load_encoder):
        with pytest.raises(ConfigError, match=f"model must be a name or a folder, not {type(model).__name__}"):
            load(model)


def test_a_tokenizer_that_is_read_later_gives_the_same(load):
    later = load("letters", preload_text=False)
    assert "tokenizer" not in vars(later)
    assert later.generate("abc", max_new_tokens=3).text == load("letters").generate("abc", max_new_tokens=3).text


def test_a_context_beyond_the_positions_of_the_graph_is_an_error_not_garbage(tmp_path, load, capfd):
    lm = load(write_decoder_bundle(tmp_path / "b", TinyDecoder(context_length=64), context_length=10_000))
    assert lm.generate([5] * 40, max_new_tokens=24, eos_token_id=[]).token_ids
    with pytest.raises(ModelError, match=r"the graph failed: .*shall not be less than total_sequence_length"):
        lm.generate([5] * 65, max_new_tokens=1)
    assert capfd.readouterr() == ("", "")


def test_more_tokens_than_memory_can_hold(tmp_path, load):
    folder = write_decoder_bundle(tmp_path / "b", TinyDecoder(kv_heads=2, head_size=32), context_length=10**8)
    lm = load(folder)
    result = lm.generate("abc", max_new_tokens=20, eos_token_id=[])
    assert result.usage.completion_tokens == 20
    with pytest.raises(MemoryLimitError, match=r"needs \d{6} MB, the limit is 1000 MB: .* KV cache 51200 MB"):
        load(folder, max_memory="1GB").generate("abc", max_new_tokens=10**8)


def test_an_end_token_outside_the_vocabulary_never_comes(tmp_path, load):
    files = {"generation_config.json": b'{"eos_token_id": [2, 100000], "max_new_tokens": 5}'}
    lm = load(write_decoder_bundle(tmp_path / "b", files=files))
    assert lm.generate("abc").usage.completion_tokens <= 5
    assert lm.generate("abc", min_new_tokens=3).usage.completion_tokens >= 3


TOO_SMALL = """
import sys, time
from pathlib import Path
import edgelm
started = time.perf_counter()
try:
    edgelm.load(Path(sys.argv[1]), max_memory="10MB")
except MemoryError as error:
    print(type(error).__name__, error)
print(time.perf_counter() - started < 2, "tokenizers" in sys.modules, "hashlib" in sys.modules)
"""


def test_a_model_that_is_loaded_later_counts_until_it_is_closed(load):
    limited = load("endless", max_memory=load("endless").memory_budget(64).total + 10)
    limited.generate("abc", max_new_tokens=61)
    other = load("tiny")
    with pytest.raises(MemoryLimitError, match="what else the process holds"):
        limited.generate("abc", max_new_tokens=61)
    other.close()
    limited.generate("abc", max_new_tokens=61)


def test_a_limit_that_cannot_hold_the_model_is_refused_before_anything_is_loaded(folders, home):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", TOO_SMALL, folders["tiny"]], capture_output=True, text=True, check=True
    )
    said, facts = done.stdout.splitlines()
    assert re.fullmatch(r"MemoryLimitError needs \d+ MB, the limit is 10 MB: weights .* MB, .*", said)
    assert facts == "True False False", "quickly, without reading the tokenizer, and without hashing the files"
    assert not (home / "prepacked").exists()
