"""Conversations: what is cached, saved, and dropped when the context window is full."""

from __future__ import annotations

import numpy as np
import pytest
from support.bundles import TinyDecoder, write_decoder_bundle

import edgelm
from edgelm.config import GenerationConfig
from edgelm.errors import CacheFileError, ConfigError, ContextLengthError, MemoryLimitError, UnsupportedModelError

CONTEXT = 64
ENDLESS = {"eos_token_id": []}
SYSTEM = {"role": "system", "content": "you are a bird"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_decoder_bundle(tmp_path_factory.mktemp("m") / "b", TinyDecoder(layers=2, context_length=CONTEXT))


@pytest.fixture
def opened(folder):
    models = []

    def make(**settings):
        models.append(edgelm.load(folder, prepack=False, threads=1, **settings))
        return models[-1]

    yield make
    for lm in models:
        lm.close()


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def talk(turns, *, words="abcdefg"):
    """A conversation of so many answered questions, and one more."""
    said = [message for i in range(turns) for message in (user(f"{words[i % 7]}ello"), assistant(f"{words[i % 7]}i"))]
    return [SYSTEM, *said, user("and now?")]


# Caches


def test_a_second_turn_prefills_only_what_is_new(opened):
    lm, cold = opened(), opened(prefix_caches=0)
    messages = [user("hello")]
    first = lm.chat(messages, max_new_tokens=5, **ENDLESS)
    messages += [assistant(first.text), user("more")]
    ids = lm.encode_chat(messages)
    second = lm.chat(messages, max_new_tokens=8, **ENDLESS)
    same = [*lm.encode_chat(messages[:1]), *first.token_ids[:-1]]
    shared = next((i for i, (a, b) in enumerate(zip(same, ids, strict=False)) if a != b), min(len(same), len(ids)))
    assert second.usage.cached_tokens == shared >= first.usage.prompt_tokens
    assert second.token_ids == cold.chat(messages, max_new_tokens=8, **ENDLESS).token_ids
    assert cold.chat(messages, max_new_tokens=8, **ENDLESS).usage.cached_tokens == 0


def test_two_conversations_in_turn_both_stay_warm(opened):
    lm, cold = opened(), opened(prefix_caches=0)
    system = [4, 5, 6, 7] * 3
    one, other = [*system, *[8, 9] * 23], [*system, *[10, 11] * 23]
    for lengths in ((48, 47), (52, 50), (56, 58)):
        for ids, length in zip((one, other), lengths, strict=True):
            warm = lm.generate(ids[:length], max_new_tokens=3, **ENDLESS)
            assert warm.token_ids == cold.generate(ids[:length], max_new_tokens=3, **ENDLESS).token_ids
            if length > 48:
                assert warm.usage.cached_tokens > 46


@pytest.mark.parametrize("caches", [0, 1, 2, 3])
def test_any_history_of_prompts_gives_the_tokens_of_a_cold_run(opened, caches):
    lm, cold = opened(prefix_caches=caches), opened(prefix_caches=0)
    random = np.random.default_rng(0)
    stems = random.integers(3, 30, (3, 40))
    for _ in range(25):
        stem = stems[random.integers(3)][: random.integers(1, 40)]
        prompt = [*stem.tolist(), *random.integers(3, 30, random.integers(0, 10)).tolist()]
        settings = {"max_new_tokens": int(random.integers(1, 12)), **ENDLESS}
        assert lm.generate(prompt, **settings).token_ids == cold.generate(prompt, **settings).token_ids


@pytest.mark.parametrize("caches", [-1, 1.5, True])
def test_a_number_of_caches_that_is_none(folder, caches):
    with pytest.raises(ConfigError, match="prefix_caches"):
        edgelm.load(folder, prefix_caches=caches)


def test_the_error_is_the_public_one_and_names_what_is_in_the_way(opened, folder):
    lm = opened()
    lm = opened(max_memory=lm.memory_budget(50, sequences=2).total)
    streams = [lm.stream("abc", max_new_tokens=20) for _ in range(2)]
    with pytest.raises(MemoryLimitError, match="3 answers are being made at a time: wait for the other 2 to end") as it:
        lm.stream("abc", max_new_tokens=20)
    assert type(it.value) is MemoryLimitError
    for stream in streams:
        stream.close()


# Files


def test_a_conversation_goes_on_from_a_file(tmp_path, opened):
    lm, path = opened(), tmp_path / "talk.kv"
    first = lm.chat([user("hello")], max_new_tokens=5, **ENDLESS)
    assert lm.save_cache(path) == first.usage.prompt_tokens + 4
    messages = [user("hello"), assistant(first.text), user("more")]
    expected = lm.chat(messages, max_new_tokens=5, **ENDLESS)
    later = opened()
    assert later.load_cache(str(path)) == first.usage.prompt_tokens + 4
    again = later.chat(messages, max_new_tokens=5, **ENDLESS)
    assert (again.token_ids, again.usage) == (expected.token_ids, expected.usage)


@pytest.mark.parametrize("prompt", ["abcdef", [4, 5, 6, 7, 8, 9], [user("abcde")]])
def test_a_prompt_is_saved_before_it_was_ever_answered(tmp_path, opened, prompt):
    lm = opened()
    assert lm.save_cache(tmp_path / "a.kv", prompt) == 6
    later = opened()
    later.load_cache(tmp_path / "a.kv")
    ask = later.chat if isinstance(prompt, list) and isinstance(prompt[0], dict) else later.generate
    assert ask(prompt, max_new_tokens=2).usage.cached_tokens == 5


def test_what_cannot_be_saved_or_loaded(tmp_path, opened):
    lm = opened()
    with pytest.raises(CacheFileError, match="there is no KV cache to save"):
        lm.save_cache(tmp_path / "a.kv")
    with pytest.raises(CacheFileError, match="No such file"):
        lm.load_cache(tmp_path / "a.kv")
    with pytest.raises(ContextLengthError, match="64 tokens"):
        lm.save_cache(tmp_path / "a.kv", "a" * 64)
    lm.save_cache(tmp_path / "a.kv", "abc")
    with pytest.raises(ConfigError, match="prefix_caches is 0"):
        opened(prefix_caches=0).load_cache(tmp_path / "a.kv")
    lm.save_cache(tmp_path / "long.kv", "a" * 40)
    with pytest.raises(CacheFileError, match="holds 40 tokens; the context window is 32"):
        opened(context_length=32).load_cache(tmp_path / "long.kv")


# What outgrows the window


def test_refused_by_default_and_ended_at_the_window(opened):
    lm = opened()
    with pytest.raises(ContextLengthError, match="the prompt has 64 tokens"):
        lm.generate("a" * 64)
    answer = lm.generate("a" * 60, max_new_tokens=50, **ENDLESS)
    assert (answer.finish_reason, answer.usage.completion_tokens) == ("length", 4)
    assert (answer.usage.dropped_tokens, answer.usage.dropped_turns) == (0, 0)


def test_the_oldest_turns_are_dropped_and_told(opened):
    lm = opened()
    messages = talk(9)
    with pytest.raises(ContextLengthError):
        lm.chat(messages)
    answer = lm.chat(messages, overflow="drop-oldest", max_new_tokens=4, **ENDLESS)
    turns = answer.usage.dropped_turns
    shown = [SYSTEM, *messages[1 + 2 * turns :]]
    assert turns > 0
    assert answer.token_ids == lm.chat(shown, max_new_tokens=4, **ENDLESS).token_ids
    assert answer.usage.prompt_tokens == len(lm.encode_chat(shown)) <= CONTEXT - 4
    assert answer.usage.dropped_tokens == len(lm.encode_chat(messages)) - answer.usage.prompt_tokens
    usage = answer.as_dict()["usage"]
    assert (usage["dropped_tokens"], usage["dropped_turns"]) == (answer.usage.dropped_tokens, turns)


def test_most_turns_drop_the_same_ones_so_that_the_cache_serves(opened):
    lm = opened(context_length=60)
    dropped, cold = [], 0
    for turns in range(20):
        usage = lm.chat(talk(turns), overflow="drop-oldest", max_new_tokens=2, **ENDLESS).usage
        dropped.append(usage.dropped_turns)
        cold += usage.cached_tokens < usage.prompt_tokens // 2
    assert dropped == sorted(dropped)
    assert dropped[-1] > 10
    assert len(set(dropped)) < 12, "not at every turn"


def test_a_last_question_that_does_not_fit_is_refused(opened):
    lm = opened()
    messages = [SYSTEM, user("a"), assistant("b"), user("c" * 70)]
    with pytest.raises(ContextLengthError):
        lm.chat(messages, overflow="drop-oldest")


def test_a_plain_prompt_has_no_turns_to_drop(opened):
    lm = opened()
    with pytest.raises(ConfigError, match="a plain prompt has none"):
        lm.generate("abc", overflow="drop-oldest")
    with pytest.raises(ConfigError, match="a plain prompt has none"):
        lm.generate("abc", GenerationConfig(overflow="drop-oldest"))
    with pytest.raises(ConfigError, match="a batch's prompts have none"):
        lm.generate_batch(["abc"], overflow="drop-oldest")


def test_with_a_sink_answers_go_on_past_the_window(opened):
    lm = opened()
    answer = lm.generate("abc", max_new_tokens=200, overflow="sink", **ENDLESS)
    assert (answer.finish_reason, answer.usage.completion_tokens) == ("length", 200)
    assert answer.usage.dropped_tokens == 150, "of 202 that were computed, in blocks of 15"
    within = lm.generate("abc", max_new_tokens=61, **ENDLESS)
    assert answer.token_ids[:61] == within.token_ids, "up to the window nothing differs"
    assert within.usage.dropped_tokens == 0


def test_with_a_sink_a_warm_prompt_gives_the_tokens_of_a_cold_one(opened):
    lm = opened()
    ids = np.random.default_rng(0).integers(3, 30, 150).tolist()
    settings = {"max_new_tokens": 20, "overflow": "sink", **ENDLESS}
    first = lm.generate(ids, **settings)
    for longer in ([*ids, *first.token_ids, 7, 8], [*ids, 9], ids[:100], [*ids[:140], 4]):
        warm = lm.generate(longer, **settings)
        cold = opened().generate(longer, **settings)
        assert warm.token_ids == cold.token_ids
        assert warm.usage.dropped_tokens == cold.usage.dropped_tokens
        if len(longer) > 170:
            assert warm.usage.cached_tokens == 169


def test_what_slid_does_not_pass_for_a_whole_prefix(opened):
    lm = opened()
    prompt = "abcdefghij" * 4
    lm.generate(prompt, max_new_tokens=60, overflow="sink", **ENDLESS)
    again = lm.generate(prompt, max_new_tokens=5, **ENDLESS)
    assert again.usage.cached_tokens <= 4, "the first tokens are where they were"
    assert again.token_ids == opened().generate(prompt, max_new_tokens=5, **ENDLESS).token_ids


def test_a_chat_goes_on_with_a_sink(opened):
    lm = opened()
    messages = talk(9)
    answer = lm.chat(messages, overflow="sink", max_new_tokens=4, **ENDLESS)
    assert answer.usage.prompt_tokens == len(lm.encode_chat(messages)) > CONTEXT
    assert answer.usage.dropped_tokens > 0
    assert answer.usage.dropped_turns == 0


def test_a_slid_cache_is_saved_with_its_gap(tmp_path, opened):
    lm = opened()
    ids = np.random.default_rng(0).integers(3, 30, 150).tolist()
    settings = {"max_new_tokens": 20, "overflow": "sink", **ENDLESS}
    answer = lm.generate(ids, **settings)
    lm.save_cache(tmp_path / "a.kv")
    later = opened()
    assert later.load_cache(tmp_path / "a.kv") == 169
    longer = [*ids, *answer.token_ids, 5]
    expected = lm.generate(longer, **settings)
    again = later.generate(longer, **settings)
    assert (again.token_ids, again.usage) == (expected.token_ids, expected.usage)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"overflow": "slide"}, "overflow must be one of refuse, drop-oldest, sink, not 'slide'"),
        ({"overflow": "sink", "num_beams": 2}, "without num_beams"),
        ({"overflow": "sink", "num_return_sequences": 2, "do_sample": True}, "without num_return_sequences"),
        ({"overflow": "sink", "prompt_lookup_num_tokens": 4}, "without prompt_lookup_num_tokens"),
    ],
)
def test_policies_that_are_none_or_contradict(opened, settings, message):
    with pytest.raises(ConfigError, match=message):
        opened().generate("abc", **settings)


def test_a_batch_has_no_sink(opened):
    with pytest.raises(ConfigError, match="one answer at a time"):
        opened().generate_batch(["abc"], overflow="sink")


def test_learned_positions_have_no_sink(tmp_path):
    folder = write_decoder_bundle(tmp_path / "b", TinyDecoder(learned_positions=True))
    with edgelm.load(folder, prepack=False) as lm, pytest.raises(UnsupportedModelError, match="learned its positions"):
        lm.generate("abc", overflow="sink")
