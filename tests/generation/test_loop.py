from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_decoder import BigramDecoder, counting_decoder, random_decoder

from edgelm.config import GenerationConfig
from edgelm.errors import CancelledError, ConfigError, ContextLengthError, NumericError, PromptError
from edgelm.generation.hooks import Hooks
from edgelm.generation.loop import Step, generate_ids
from edgelm.generation.stopping import FinishReason

STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH


def run(decoder, prompt, config=None, **options):
    steps = list(generate_ids(decoder, prompt, config or GenerationConfig(), **options))
    assert all(step.finish_reason is None for step in steps[:-1])
    return [step.token for step in steps], steps[-1].finish_reason


def test_greedy_follows_the_likeliest_to_the_end_token():
    decoder = counting_decoder()
    tokens, reason = run(decoder, [3, 4], GenerationConfig(eos_token_id=(9,)))
    assert (tokens, reason) == ([5, 6, 7, 8, 9], STOP)
    assert decoder.prefills == [[3, 4]]
    assert decoder.steps == [5, 6, 7, 8], "the last token is not stepped"


def test_any_of_several_end_tokens_ends():
    assert run(counting_decoder(), [0], GenerationConfig(eos_token_id=(12, 4))) == ([1, 2, 3, 4], STOP)


def test_an_end_token_in_the_prompt_does_not_end():
    assert run(counting_decoder(), [9], GenerationConfig(eos_token_id=(9,), max_new_tokens=2)) == ([10, 11], LENGTH)


def test_max_new_tokens_ends_with_length():
    decoder = counting_decoder()
    assert run(decoder, [0], GenerationConfig(max_new_tokens=3)) == ([1, 2, 3], LENGTH)
    assert decoder.steps == [1, 2]


def test_an_end_token_at_the_limit_is_a_stop():
    assert run(counting_decoder(), [0], GenerationConfig(max_new_tokens=3, eos_token_id=(3,))) == ([1, 2, 3], STOP)


@given(st.integers(2, 20), st.data(), st.integers(1, 40))
@settings(deadline=None)
def test_the_context_leaves_what_the_prompt_does_not_take(context, data, wanted):
    prompt = data.draw(st.lists(st.integers(0, 15), min_size=1, max_size=context - 1))
    decoder = counting_decoder(context_length=context)
    tokens, reason = run(decoder, prompt, GenerationConfig(max_new_tokens=wanted))
    assert len(tokens) == min(wanted, context - len(prompt))
    assert reason is LENGTH
    assert decoder.length == len(prompt) + len(tokens) - 1


def test_a_smaller_context_limit_counts_and_a_larger_does_not():
    assert run(counting_decoder(context_length=10), [0, 1], context_limit=5)[0] == [2, 3, 4]
    assert len(run(counting_decoder(context_length=10), [0, 1], context_limit=50)[0]) == 8


@pytest.mark.parametrize("length", [8, 9, 100])
def test_a_prompt_that_fills_the_context_is_refused_before_anything_runs(length):
    decoder = counting_decoder(context_length=8)
    with pytest.raises(
        ContextLengthError, match=rf"the prompt has {length} tokens, but the context window is 8 tokens"
    ):
        generate_ids(decoder, [1] * length, GenerationConfig())
    assert decoder.length == 0


def test_a_prompt_over_the_callers_limit_names_that_limit():
    with pytest.raises(ContextLengthError, match="the prompt has 3 tokens, but the context window is 2 tokens"):
        generate_ids(counting_decoder(), [1, 2, 3], GenerationConfig(), context_limit=2)


@pytest.mark.parametrize("prompt", [[], [16], [-1], [0.5]])
def test_bad_prompts_are_refused_before_anything_runs(prompt):
    decoder = counting_decoder()
    with pytest.raises(PromptError):
        generate_ids(decoder, prompt, GenerationConfig())
    assert decoder.prefills == []


@pytest.mark.parametrize("cached", [0, 1, 3])
def test_only_what_is_not_cached_is_prefilled(cached):
    prompt = [7, 2, 5, 3]
    decoder = counting_decoder()
    decoder.cache = prompt[:cached]
    assert run(decoder, prompt, GenerationConfig(max_new_tokens=2), cached=cached)[0] == [4, 5]
    assert decoder.prefills == [prompt[cached:]]
    assert decoder.cache == [7, 2, 5, 3, 4]


@pytest.mark.parametrize(
    ("cached", "held", "message"),
    [
        (4, 4, "cached must be from 0 to 3 for this prompt, not 4"),
        (-1, 0, "cached must be from 0 to 3 for this prompt, not -1"),
        (0, 2, "the decoder holds 2 tokens, but the caller says 0 are cached"),
        (3, 2, "the decoder holds 2 tokens, but the caller says 3 are cached"),
    ],
)
def test_a_cache_that_does_not_match_is_refused(cached, held, message):
    decoder = counting_decoder()
    decoder.cache = [1] * held
    with pytest.raises(PromptError, match=message):
        generate_ids(decoder, [1, 1, 1, 1], GenerationConfig(), cached=cached)


def test_min_new_tokens_holds_the_end_back():
    config = GenerationConfig(eos_token_id=(2,), min_new_tokens=3, max_new_tokens=10)
    tokens, reason = run(counting_decoder(), [1], config)
    assert len(tokens) > 3
    assert 2 not in tokens[:3]
    assert (tokens[-1], reason) == (2, STOP)


def test_the_repetition_penalty_sees_prompt_and_answer():
    table = np.tile(np.array([3.0, 2.9, 2.8, 2.7], np.float32), (4, 1))
    tokens, _ = run(BigramDecoder(table), [0], GenerationConfig(repetition_penalty=2.0, max_new_tokens=4))
    assert tokens == [1, 2, 3, 0]


def test_callers_processors_run_between_penalties_and_warpers():
    seen = []

    def watch(ids, logits):
        seen.append((ids.tolist(), logits.tolist()))
        return logits + np.array([0, 0, 9], np.float32)

    table = np.tile(np.array([8.0, 4.0, 0.0], np.float32), (3, 1))
    config = GenerationConfig(do_sample=True, temperature=2.0, top_k=1, repetition_penalty=2.0, max_new_tokens=2)
    assert run(BigramDecoder(table), [0], config, hooks=Hooks(logits_processor=[watch]))[0] == [2, 2]
    assert seen == [([0], [4.0, 4.0, 0.0]), ([0, 2], [4.0, 4.0, 0.0])]


def test_several_processors_run_in_order():
    config = GenerationConfig(max_new_tokens=1)
    first = [lambda ids, logits: np.zeros_like(logits), lambda ids, logits: logits + np.arange(16, dtype=np.float32)]
    assert run(counting_decoder(), [0], config, hooks=Hooks(logits_processor=first))[0] == [15]
    assert run(counting_decoder(), [0], config, hooks=Hooks(logits_processor=first[::-1]))[0] == [0]


def test_a_processor_may_change_the_logits_in_place():
    def forbid(ids, logits):
        logits[(ids[-1] + 1) % 16] = -np.inf
        return logits

    decoder = counting_decoder()
    table = decoder.table.copy()
    assert run(decoder, [4], GenerationConfig(max_new_tokens=2), hooks=Hooks(logits_processor=[forbid]))[0] == [0, 0]
    np.testing.assert_array_equal(decoder.table, table)


def test_a_processor_that_returns_nothing_is_named():
    def broken(ids, logits):
        logits[0] = 1.0

    with pytest.raises(ConfigError, match="the logits processor broken returned NoneType"):
        run(counting_decoder(), [0], hooks=Hooks(logits_processor=[broken]))


def test_criteria_see_the_newest_token_and_the_logits_before_the_warpers():
    seen = []

    def criterion(ids, logits):
        seen.append((ids.tolist(), float(logits.max())))
        return len(ids) == 4

    config = GenerationConfig(do_sample=True, temperature=0.25, top_k=1)
    assert run(counting_decoder(), [0], config, hooks=Hooks(stopping_criteria=[criterion])) == ([1, 2, 3], STOP)
    assert seen == [([0, 1], 5.0), ([0, 1, 2], 5.0), ([0, 1, 2, 3], 5.0)]


def test_the_history_is_one_buffer():
    views = []
    run(
        counting_decoder(),
        [0],
        GenerationConfig(max_new_tokens=5),
        hooks=Hooks(stopping_criteria=[lambda ids, logits: views.append(ids)]),
    )
    assert all(np.shares_memory(views[0], view) for view in views)
    assert [view.tolist() for view in views] == [list(range(n)) for n in range(2, 7)]


def test_a_huge_max_new_tokens_takes_no_more_memory_than_the_context():
    assert len(run(counting_decoder(context_length=30), [0], GenerationConfig(max_new_tokens=10**12))[0]) == 29


@pytest.mark.parametrize(("bad", "word"), [(np.nan, "nan"), (np.inf, "inf")])
def test_a_graph_that_returns_nonsense_names_the_step(bad, word):
    decoder = counting_decoder()
    decoder.table[3, 6] = bad
    steps = generate_ids(decoder, [0], GenerationConfig())
    assert [next(steps).token for _ in range(3)] == [1, 2, 3]
    with pytest.raises(NumericError, match=f"step 4: the logit of token 6 is {word}"):
        next(steps)


def test_masking_every_token_is_an_error():
    with pytest.raises(NumericError, match="step 1: no token is allowed"):
        run(counting_decoder(), [0], hooks=Hooks(logits_processor=[lambda ids, logits: np.full_like(logits, -np.inf)]))


def test_cancelled_before_the_prefill_runs_nothing():
    decoder = counting_decoder()
    with pytest.raises(CancelledError):
        run(decoder, [0], cancelled=lambda: True)
    assert decoder.length == 0


def test_cancelled_in_the_middle_ends_before_the_next_step():
    decoder = counting_decoder()
    event = threading.Event()
    steps = generate_ids(decoder, [0], GenerationConfig(), cancelled=event.is_set)
    assert [next(steps).token, next(steps).token] == [1, 2]
    event.set()
    with pytest.raises(CancelledError):
        next(steps)
    assert decoder.steps == [1]
    with pytest.raises(StopIteration):
        next(steps)


@pytest.mark.parametrize("taken", [0, 1, 2, 5])
def test_closing_at_any_token_leaves_a_cache_that_can_be_continued(taken):
    decoder = random_decoder()
    whole = run(random_decoder(), [3, 1], GenerationConfig(max_new_tokens=12))[0]
    steps = generate_ids(decoder, [3, 1], GenerationConfig(max_new_tokens=12))
    tokens = [next(steps).token for _ in range(taken)]
    steps.close()
    assert decoder.cache == ([3, 1, *tokens[:-1]] if taken else [])
    prompt = [3, 1, *tokens]
    rest = run(decoder, prompt, GenerationConfig(max_new_tokens=12 - taken), cached=decoder.length)[0]
    assert tokens + rest == whole


def test_nothing_runs_until_the_first_token_is_asked_for():
    decoder = counting_decoder()
    generate_ids(decoder, [0], GenerationConfig())
    assert decoder.prefills == []


def test_a_seed_gives_the_same_answer_and_no_seed_another():
    def answer(seed):
        config = GenerationConfig(do_sample=True, seed=seed, max_new_tokens=40)
        return run(random_decoder(), [3, 1], config)[0]

    assert answer(5) == answer(5)
    assert answer(5) != answer(6)
    assert answer(None) != answer(None)


def test_a_step_is_a_value():
    assert next(generate_ids(counting_decoder(), [0], GenerationConfig())) == Step(1, None)
    assert isinstance(next(generate_ids(counting_decoder(), [0], GenerationConfig())).token, int)


def test_an_answer_ends_when_its_time_is_over(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    config = GenerationConfig(max_time=2.5)
    assert run(counting_decoder(), [0], config) == ([1, 2, 3], LENGTH)
