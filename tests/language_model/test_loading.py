"""What ``load`` takes and what it refuses."""

from __future__ import annotations

import pytest
from support.bundles import VOCABULARY, TinyDecoder, write_decoder_bundle
from support.scripted_bundle import byte_tokenizer

import edgelm
from edgelm.errors import ConfigError, MemoryLimitError, ModelError, ModelNotFoundError, UnsupportedModelError


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
    folder = write_decoder_bundle(tmp_path / "b", family="encoder", kv=None, graphs={"encoder": "decoder.onnx"})
    with pytest.raises(UnsupportedModelError, match="tiny is of the family 'encoder'; only decoders generate"):
        edgelm.load(folder)


def test_a_tokenizer_with_more_tokens_than_logits_is_refused(tmp_path, load):
    lm = load(write_decoder_bundle(tmp_path / "b", files={"tokenizer.json": byte_tokenizer().to_str().encode()}))
    for prompt in ("abc", [3, 4]):
        with pytest.raises(ModelError, match=r"tiny: the tokenizer has ids up to 258, but the logits are 32 wide"):
            lm.generate(prompt)
    assert lm._pool.demand() == 0, "no decoder is left behind"


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
    with pytest.raises(MemoryLimitError, match=r"needs .*, the limit is .*; ask for fewer tokens"):
        lm.generate("abc", max_new_tokens=61)
    assert stream.drain().usage.completion_tokens == 61
    assert lm.generate("abc", max_new_tokens=61).usage.completion_tokens == 61
