"""The face with batches, beams and encoder-decoders, on real graphs: limits, refusals, the end."""

from __future__ import annotations

import json
import os
import threading
import time

import numpy as np
import pytest
from support.bundles import TinyDecoder, tokenizer_json, write_decoder_bundle, write_manifest
from support.pools import demand
from support.recurrent_graph import CONTEXT, END, START, RecurrentWeights, recurrent_manifest, write_recurrent_graphs

from edgelm.errors import (
    ClosedError,
    ConfigError,
    ContextLengthError,
    MemoryLimitError,
    PromptError,
    TemplateError,
    UnsupportedModelError,
)

WEIGHTS = RecurrentWeights.random(5)
PROMPTS = ["abc", "the quick brown fox", "x", "lazy dogs. "]


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    """An encoder-decoder with a state."""
    return recurrent_bundle(tmp_path_factory.mktemp("translator"))


def recurrent_bundle(folder, generation=None, **changes):
    write_recurrent_graphs(folder, WEIGHTS)
    (folder / "tokenizer.json").write_bytes(tokenizer_json())
    (folder / "generation_config.json").write_text(json.dumps(generation or {}))
    return write_manifest(folder, recurrent_manifest(), **changes)


def greedy(source, count, start=START):
    tokens = [start]
    while len(tokens) <= count and tokens[-1] != END:
        tokens.append(int(WEIGHTS.logits(source, tokens).argmax()))
    return tuple(tokens[1:])


# Batches


@pytest.mark.parametrize(
    "call",
    [
        {},
        {"do_sample": True, "seed": 3, "temperature": 2.0},
        {"num_beams": 3},
        {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
    ],
    ids=str,
)
def test_a_batch_gives_what_each_prompt_gives_alone(load, call):
    lm = load("tiny")
    alone = [lm.generate(prompt, max_new_tokens=9, **call) for prompt in PROMPTS]
    together = lm.generate_batch(PROMPTS, max_new_tokens=9, **call)
    assert [answer.token_ids for answer in together] == [answer.token_ids for answer in alone]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert [answer.finish_reason for answer in together] == [answer.finish_reason for answer in alone]
    assert {type(answer.finish_reason) for answer in [*together, *alone]} == {str}
    assert [answer.usage.prompt_tokens for answer in together] == [len(lm.tokenizer.encode(p)) for p in PROMPTS]


def test_a_stop_string_ends_a_row_and_no_other(load):
    lm = load("letters")
    answers = lm.generate_batch(["abc", "mno", "xyz"], stop_strings=["ghi", "."])
    assert [(a.text, a.finish_reason) for a in answers] == [("def", "stop"), ("pqrstuvwxyz", "stop"), ("", "stop")]
    beams = lm.generate_batch(["abc"], stop_strings=["ghi"], num_beams=2, max_new_tokens=10)
    assert [answer.text for answer in beams] == ["def"]


def test_more_prompts_than_run_at_a_time_come_back_in_order(load):
    lm = load("letters")
    prompts = [letter * (1 + n % 5) for n, letter in enumerate("abcdefghijklmnopqrstuvwxy" * 3)]
    answers = lm.generate_batch(prompts, max_new_tokens=1)
    assert [answer.text for answer in answers] == [chr(ord(prompt[-1]) + 1) for prompt in prompts]
    assert lm.generate_batch([]) == []
    assert demand(lm._generator.pool)[0] == 0


def test_several_answers_are_given_by_batches_only(load):
    lm = load("tiny")
    settings = {"num_return_sequences": 2, "num_beams": 2, "max_new_tokens": 3}
    assert len(lm.generate_batch(["abc", "de"], **settings)) == 4
    for use in (lm.generate, lm.stream):
        with pytest.raises(ConfigError, match="num_return_sequences is 2; generate_batch gives several"):
            use("abc", **settings)


def test_a_bad_prompt_is_refused_before_any_runs(load):
    lm = load("endless")
    with pytest.raises(ContextLengthError, match="the prompt has 64 tokens"):
        lm.generate_batch(["abc", [5] * 64])
    with pytest.raises(PromptError, match="position 0 is 999"):
        lm.generate_batch([[999], "abc"])
    assert demand(lm._generator.pool) == (0, 0)


def test_beam_settings_without_beams_warn_and_are_ignored(load):
    with pytest.warns(UserWarning, match=r"^length_penalty given, but num_beams is 1: ignored$") as caught:
        load("tiny").generate_batch(["abc"], max_new_tokens=2, length_penalty=2.0)
    assert caught[0].filename == __file__


def test_beams_come_at_the_end_of_a_stream(load):
    lm = load("tiny")
    chunks = list(lm.stream("abc", num_beams=3, max_new_tokens=6))
    assert "".join(chunk.text for chunk in chunks) == lm.generate("abc", num_beams=3, max_new_tokens=6).text
    assert chunks[-1].finish_reason is not None


def test_a_batch_is_halved_until_it_fits(tmp_path, load):
    sizes = TinyDecoder(layers=2, heads=4, kv_heads=4, head_size=64, context_length=2048)
    folder = write_decoder_bundle(tmp_path / "b", sizes)
    settings = {"max_new_tokens": 1500, "eos_token_id": [28, *range(3, 20)]}
    prompts = [[20 + n] * 4 for n in range(6)]
    lm = load(folder)
    two = lm.memory_budget(2 * 1504).total
    expected = [answer.token_ids for answer in lm.generate_batch(prompts, **settings)]
    limited = load(folder, max_memory=two + 200_000)
    seen = []
    lend, enter = limited._generator.pool.lend_rows, seen.append
    limited._generator.pool.lend_rows = lambda decoder, needs: enter(needs.rows) or lend(decoder, needs)
    assert [answer.token_ids for answer in limited.generate_batch(prompts, **settings)] == expected
    assert seen == [6, 3, 3]
    with pytest.raises(MemoryLimitError, match="ask for fewer tokens"):
        limited.generate_batch(prompts[:1], num_beams=20, **settings)
    assert demand(limited._generator.pool) == (0, 0)


def test_a_cache_that_is_only_kept_gives_way(tmp_path, load):
    sizes = TinyDecoder(layers=2, heads=4, kv_heads=4, head_size=64, context_length=2048)
    folder = write_decoder_bundle(tmp_path / "b", sizes)
    settings = {"max_new_tokens": 1500, "eos_token_id": range(3, 20)}
    lm = load(folder, max_memory=load(folder).memory_budget(1504).total + 200_000)
    lm.generate([20, 21, 22, 23], **settings)
    assert demand(lm._generator.pool) == (1, 1504)
    assert lm.generate_batch([[24, 25, 26, 27]], **settings)[0].token_ids
    assert demand(lm._generator.pool) == (0, 0)


def test_no_memory_for_a_cache_leaves_no_loan_behind(load, monkeypatch):
    def refuse(decoder, tokens):
        raise MemoryLimitError("not enough memory for a KV cache")

    lm = load("endless")
    monkeypatch.setattr("edgelm.runtime.decoder.Decoder.reserve", refuse)
    try:
        lm.generate("abc")
    except MemoryLimitError:
        assert not lm._generator.pool._lent, "the loan has ended, though its error is still at hand"
    monkeypatch.undo()
    assert lm.generate("abc", max_new_tokens=3).text == "def"


# Encoder-decoders


def test_an_encoder_decoder_answers_its_source(translator, load):
    lm = load(translator)
    for prompt in PROMPTS:
        source = lm.tokenizer.encode(prompt)
        answer = lm.generate(prompt, max_new_tokens=12)
        assert answer.token_ids == greedy(source, 12)
        assert answer.usage.prompt_tokens == len(source)
        assert "".join(chunk.text for chunk in lm.stream(prompt, max_new_tokens=12)) == answer.text
    batch = lm.generate_batch(PROMPTS, max_new_tokens=12)
    assert [answer.token_ids for answer in batch] == [greedy(lm.tokenizer.encode(p), 12) for p in PROMPTS]


def test_the_length_of_an_answer_counts_its_start(translator, load):
    lm = load(translator)
    settings = {"eos_token_id": []}
    assert len(lm.generate("abc", max_length=6, **settings).token_ids) == 5
    assert len(lm.generate("abc", max_new_tokens=10**6, **settings).token_ids) == CONTEXT - 1
    assert len(load(translator, context_length=7).generate("abc", **settings).token_ids) == 6


def test_beams_are_those_of_the_model_in_numpy(translator, load):
    """With as many beams as tokens, two steps are exhaustive."""
    lm = load(translator)
    source = lm.tokenizer.encode("the lazy dog")

    def log_probabilities(tokens):
        logits = WEIGHTS.logits(source, tokens).astype(np.float64)
        return logits - np.log(np.exp(logits).sum())

    first = log_probabilities([START])
    both = np.array([first[token] + log_probabilities([START, token]) for token in range(32)])
    best = np.unravel_index(both.argmax(), both.shape)
    answer = lm.generate("the lazy dog", num_beams=32, max_new_tokens=2, eos_token_id=[])
    assert answer.token_ids == tuple(int(token) for token in best)


def test_the_start_can_be_another(tmp_path, load):
    lm = load(recurrent_bundle(tmp_path / "b", {"decoder_start_token_id": 7, "max_length": 4}))
    source = lm.tokenizer.encode("abc")
    assert lm.generate("abc").token_ids == greedy(source, 3, start=7)
    assert lm.generate("abc", decoder_start_token_id=9).token_ids == greedy(source, 3, start=9)
    with pytest.raises(ConfigError, match="decoder_start_token_id must be from 0 to 31, not 32"):
        lm.generate("abc", decoder_start_token_id=32)


def test_a_source_that_is_too_long_is_refused_with_both_counts(tmp_path, load):
    lm = load(recurrent_bundle(tmp_path / "b", source_length=5))
    assert lm.generate("abcde", max_new_tokens=2).token_ids
    with pytest.raises(ContextLengthError, match="the source has 6 tokens, but the encoder takes 5"):
        lm.generate("abcdef")


def test_what_an_encoder_decoder_does_not_do(translator, load):
    lm = load(translator)
    with pytest.raises(UnsupportedModelError, match="recurrent reads a source"):
        lm.new_decoder()
    with pytest.raises(TemplateError, match="recurrent has no chat template"):
        lm.chat([{"role": "user", "content": "a"}])


def test_streams_of_sources_are_given_back(translator, load):
    lm = load(translator)
    for _ in range(3):
        stream = lm.stream("abc", max_new_tokens=9, eos_token_id=[])
        next(stream)
        assert demand(lm._generator.pool) == (1, 10)
        del stream
        assert demand(lm._generator.pool) == (0, 0)


def test_a_closed_translator_says_so(translator, load):
    lm = load(translator)
    stream = lm.stream("abc", eos_token_id=[])
    next(stream)
    lm.close()
    for use in (lambda: lm.generate("abc"), lambda: lm.generate_batch(["abc"], num_beams=2), lambda: next(stream)):
        with pytest.raises(ClosedError):
            use()


def test_closing_ends_a_batch_in_another_thread(tmp_path, load):
    sizes = TinyDecoder(layers=4, hidden=128, heads=8, kv_heads=8, head_size=32, ffn=512, context_length=8192)
    lm = load(write_decoder_bundle(tmp_path / "slow", sizes))
    ended = []

    def answer():
        try:
            lm.generate_batch([[5] * 4] * 8, max_new_tokens=8000, eos_token_id=[])
        except BaseException as error:
            ended.append((type(error), time.perf_counter()))

    thread = threading.Thread(target=answer)
    thread.start()
    time.sleep(0.5)
    closed = time.perf_counter()
    lm.close()
    thread.join(20)
    assert ended[0][0] is ClosedError
    assert ended[0][1] - closed < 1.5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_cannot_use_the_parents_translator(translator, load):
    lm = load(translator)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            lm.generate_batch(["abc"])
        except ClosedError:
            os.write(write, b"closed")
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    assert os.read(read, 100) == b"closed"
    os.close(read)
    assert lm.generate("abc", max_new_tokens=2).token_ids


def test_sources_count_in_the_memory_limit(translator, load):
    lm = load(translator, max_memory="10GB")
    stream = lm.stream("abcdef", max_new_tokens=3, num_beams=2)
    needs = lm._generator.pool.needs()
    stream.close()
    assert (needs.rows, needs.tokens, needs.cross_tokens, needs.source_tokens) == (2, 8, 12, 6)
