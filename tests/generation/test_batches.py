"""Laws of batches and beams: a row's answer is that of its prompt alone, and one beam is greedy decoding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_batch_decoder import SingleRow, TableDecoder, random_table, table_decoder

from edgelm.config import GenerationConfig
from edgelm.errors import CancelledError, ConfigError, ContextLengthError, NumericError, PromptError
from edgelm.generation.batch_loop import generate_batch_ids
from edgelm.generation.beam_search import beam_search
from edgelm.generation.hooks import Hooks
from edgelm.generation.loop import Step, generate_ids
from edgelm.generation.requests import Request
from edgelm.generation.stopping import FinishReason

VOCABULARY = 7
tokens = st.integers(0, VOCABULARY - 1)
prompt_lists = st.lists(st.lists(tokens, min_size=1, max_size=5), min_size=1, max_size=5)
lengths = st.integers(1, 9)
end_tokens = st.lists(tokens, max_size=2)


def requests(prompts):
    return [Request(prompt=prompt) for prompt in prompts]


def batch(table, prompts, config, context=64, **settings):
    """(decoder, steps by row)."""
    decoder = TableDecoder(table, context)
    rows: dict[int, list[Step]] = {}
    for row, step in generate_batch_ids(decoder, requests(prompts), config, **settings):
        rows.setdefault(row, []).append(step)
    return decoder, [rows[row] for row in sorted(rows)]


def alone(table, prompt, config, context=64):
    return list(generate_ids(SingleRow(TableDecoder(table, context)), prompt, config))


@given(
    prompt_lists,
    st.fixed_dictionaries(
        {"max_new_tokens": lengths, "eos_token_id": end_tokens},
        optional={
            "repetition_penalty": st.just(1.5),
            "no_repeat_ngram_size": st.just(2),
            "encoder_no_repeat_ngram_size": st.just(2),
            "sampling": st.fixed_dictionaries({"seed": st.integers(0, 99), "top_k": st.integers(0, 4)}),
        },
    ),
    st.integers(0, 10**6),
)
@settings(deadline=None)
def test_each_row_is_what_its_prompt_gives_alone(prompts, values, seed):
    sampling = values.pop("sampling", None)
    config = GenerationConfig(**values, **({"do_sample": True, **sampling} if sampling else {}))
    table = random_table(VOCABULARY, seed, 1.0)
    _, rows = batch(table, prompts, config, context=12)
    assert rows == [alone(table, prompt, config, context=12) for prompt in prompts]


@given(prompt_lists, st.integers(1, 9), end_tokens, st.integers(0, 10**6))
@settings(deadline=None)
def test_finished_rows_leave(prompts, longest, ends, seed):
    config = GenerationConfig(max_new_tokens=longest, eos_token_id=ends)
    decoder, rows = batch(random_table(VOCABULARY, seed, 1.0), prompts, config)
    made = [len(steps) for steps in rows]
    # At a row's last token its decoder is not asked again.
    assert decoder.steps == [sum(count > step for count in made) for step in range(1, max(made))]


@given(prompt_lists, lengths, end_tokens, st.integers(0, 10**6), st.sampled_from([-1.0, 0.0, 1.0, 2.0]))
@settings(deadline=None)
def test_one_beam_is_greedy(prompts, longest, ends, seed, penalty):
    config = GenerationConfig(max_new_tokens=longest, eos_token_id=ends, length_penalty=penalty, early_stopping=True)
    table = random_table(VOCABULARY, seed, 1.0)
    found = beam_search(TableDecoder(table), requests(prompts), config)
    for (answer,), prompt in zip(found, prompts, strict=True):
        steps = alone(table, prompt, config)
        assert answer.tokens == tuple(step.token for step in steps)
        assert answer.finish_reason == steps[-1].finish_reason


@given(prompt_lists, st.integers(2, 4), lengths, end_tokens, st.integers(0, 10**6))
@settings(deadline=None)
def test_sources_do_not_influence_each_other(prompts, beams, longest, ends, seed):
    config = GenerationConfig(num_beams=beams, num_return_sequences=beams, max_new_tokens=longest, eos_token_id=ends)
    table = random_table(VOCABULARY, seed, 1.0)
    together = beam_search(TableDecoder(table), requests(prompts), config)
    assert together == [beam_search(TableDecoder(table), requests([prompt]), config)[0] for prompt in prompts]


@given(prompt_lists, st.integers(2, 4), lengths, st.integers(0, 10**6))
@settings(deadline=None)
def test_a_score_is_that_of_the_answer_and_the_best_comes_first(prompts, beams, longest, seed):
    config = GenerationConfig(
        num_beams=beams, num_return_sequences=beams, max_new_tokens=longest, eos_token_id=0, length_penalty=0.7
    )
    table = random_table(VOCABULARY, seed, 1.0)
    for prompt, answers in zip(prompts, beam_search(TableDecoder(table), requests(prompts), config), strict=True):
        assert len(answers) == len({answer.tokens for answer in answers}) == beams
        assert [answer.score for answer in answers] == sorted((answer.score for answer in answers), reverse=True)
        for answer in answers:
            logits = TableDecoder(table).prefill([prompt])[0]
            decoder, total = TableDecoder(table), 0.0
            logits = decoder.prefill([prompt])[0]
            for token in answer.tokens:
                total += float(logits[token]) - float(np.log(np.exp(logits.astype(np.float64)).sum()))
                logits = decoder.step(np.array([token]))[0]
            assert answer.score == pytest.approx(total / len(answer.tokens) ** 0.7, rel=1e-4, abs=1e-4)


def test_a_wider_beam_finds_what_a_greedy_step_hides():
    table = np.full((29, 4, 4, 4), -20.0, np.float32)
    table[:, :, 0, 1], table[:, :, 0, 2] = 0.1, 0.0  # 1 looks better,
    table[:, :, 1, :] = 0.0  # but nothing follows it for sure;
    table[:, :, 2, 3] = 5.0
    config = GenerationConfig(max_new_tokens=2, num_beams=2)
    assert alone(table, [0], config)[0].token == 1
    assert beam_search(TableDecoder(table), requests([[0]]), config)[0][0].tokens == (2, 3)


def test_the_rows_of_a_prompt_are_computed_once():
    decoder = table_decoder()
    beam_search(decoder, requests([[1, 2], [3]]), GenerationConfig(num_beams=3, max_new_tokens=2))
    assert decoder.selections[0] == [0, 0, 0, 1, 1, 1]


def test_several_samples_of_a_prompt():
    config = GenerationConfig(do_sample=True, seed=5, num_return_sequences=3, max_new_tokens=8)
    table = random_table(VOCABULARY, 1, 0.5)
    decoder, rows = batch(table, [[1], [2, 3]], config)
    assert decoder.selections[0] == [0, 0, 0, 1, 1, 1]
    single = config.updated(num_return_sequences=1)
    expected = [alone(table, prompt, single.updated(seed=seed)) for prompt in ([1], [2, 3]) for seed in (5, 6, 7)]
    assert rows == expected
    assert len({tuple(step.token for step in row) for row in rows[:3]}) > 1


def test_a_row_can_be_ended_from_outside():
    seen = []

    def over(row, token):
        seen.append((row, token))
        return row == 1 and len(seen) > 3

    table = random_table(VOCABULARY, 3)
    _, rows = batch(table, [[1], [2]], GenerationConfig(max_new_tokens=5), over=over)
    assert [len(row) for row in rows] == [5, 2]
    assert rows[1][-1].finish_reason is FinishReason.STOP
    assert [token for row, token in seen if row == 0] == [step.token for step in rows[0]]


# What is refused


def searches(prompts, config, context=64, **settings):
    decoder = table_decoder(VOCABULARY, context)
    yield decoder, lambda: beam_search(decoder, requests(prompts), config, **settings)
    decoder = table_decoder(VOCABULARY, context)
    yield decoder, lambda: list(generate_batch_ids(decoder, requests(prompts), config, **settings))


@pytest.mark.parametrize(
    ("prompt", "settings", "error", "message"),
    [
        ([], {}, PromptError, "the prompt is empty"),
        ([1, 7], {}, PromptError, "position 1 is 7; token ids are from 0 to 6"),
        ([1] * 8, {}, ContextLengthError, "the prompt has 8 tokens, but the context window is 8"),
        ([1] * 4, {"max_length": 4}, ConfigError, r"max_length \(4\) leaves no room"),
        ([1], {"forced_bos_token_id": 7}, ConfigError, "forced_bos_token_id is 7"),
    ],
)
def test_everything_is_checked_before_anything_runs(prompt, settings, error, message):
    for decoder, search in searches([[1, 2], prompt], GenerationConfig(**settings), context=8):
        with pytest.raises(error, match=message):
            search()
        assert decoder.rows == []


def test_a_source_is_checked_too():
    with pytest.raises(PromptError, match="position 0 is 99"):
        beam_search(table_decoder(), [Request(prompt=[1], source=[99])], GenerationConfig())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_end_in_an_error(value):
    table = random_table(VOCABULARY, 0)
    table[3, :, :, 2] = value  # at the third token
    message = r"step 2: the logit of token 2 is (nan|inf)"
    with pytest.raises(NumericError, match=message):
        beam_search(TableDecoder(table), requests([[1, 2]]), GenerationConfig(num_beams=3))
    with pytest.raises(NumericError, match=message):
        batch(table, [[1, 2]], GenerationConfig())


def test_no_token_allowed_in_any_beam():
    config = GenerationConfig(num_beams=2, no_repeat_ngram_size=1, max_new_tokens=20)
    with pytest.raises(NumericError, match=r"step 7: no token is allowed in any beam"):
        beam_search(table_decoder(VOCABULARY), requests([[1]]), config)


@pytest.mark.parametrize("penalty", [-1000.0, -30.0, 1000.0])
def test_any_length_penalty_leaves_an_answer(penalty):
    config = GenerationConfig(num_beams=3, num_return_sequences=3, max_new_tokens=9, length_penalty=penalty)
    (answers,) = beam_search(table_decoder(VOCABULARY), requests([[1]]), config)
    assert [len(answer.tokens) for answer in answers] == [9, 9, 9]
    assert all(np.isfinite(answer.score) for answer in answers)


def only_after_one_token(end):
    """Lets no token but ``end`` follow the first of the answer to a prompt of one token."""

    def process(ids, logits):
        if len(ids) < 2:
            return logits
        assert end not in ids[1:], "a sequence that has ended goes on"
        return np.where(np.arange(logits.size) == end, logits, np.float32(-np.inf))

    return process


def test_a_sequence_that_has_ended_does_not_go_on():
    config = GenerationConfig(num_beams=2, num_return_sequences=2, max_new_tokens=6, eos_token_id=0, min_new_tokens=1)
    table = random_table(VOCABULARY, 4, 1.0)
    (answers,) = beam_search(TableDecoder(table), requests([[1]]), config, processors=[only_after_one_token(0)])
    assert [(len(answer.tokens), answer.tokens[-1]) for answer in answers] == [(2, 0), (2, 0)]


def test_a_search_without_a_token_left_ends_with_what_it_has():
    def process(ids, logits):
        allowed = (0, 2) if len(ids) < 2 else ()
        return np.where(np.isin(np.arange(logits.size), allowed), logits, np.float32(-np.inf))

    config = GenerationConfig(num_beams=2, num_return_sequences=2, max_new_tokens=6, eos_token_id=0)
    (answers,) = beam_search(table_decoder(VOCABULARY), requests([[1]]), config, processors=[process])
    assert [answer.tokens for answer in answers] == [(0,), ()]


def test_cancelling_ends_it_before_the_next_run():
    calls = []

    def cancelled():
        calls.append(1)
        return len(calls) > 3

    config = GenerationConfig(max_new_tokens=10)
    for decoder, search in searches([[1], [2]], config, cancelled=cancelled):
        calls.clear()
        with pytest.raises(CancelledError):
            search()
        assert len(decoder.steps) == 2


def test_there_are_as_many_answers_as_asked_for_also_where_one_is_possible() -> None:
    config = GenerationConfig(num_beams=3, num_return_sequences=3, max_new_tokens=1, forced_eos_token_id=0)
    table = random_table(VOCABULARY, 0, 1.0)
    (answers,) = beam_search(TableDecoder(table), requests([[1]]), config)
    assert len(answers) == 3
    assert answers[0].tokens == (0,)
    assert answers[0].score > answers[1].score


def test_criteria_and_time_end_the_rows_they_are_about(monkeypatch):
    table = random_table(VOCABULARY, 3, 1.0)
    config = GenerationConfig(max_new_tokens=6, logprobs=True)
    lengths_at_end = {0: 4, 1: 3}
    hooks = Hooks(stopping_criteria=(lambda ids, logits: len(ids) - 2 == lengths_at_end[int(ids[0])],))
    _, rows = batch(table, [[0, 5], [1, 5]], config, hooks=hooks)
    assert [len(steps) for steps in rows] == [4, 3]
    assert {steps[-1].finish_reason for steps in rows} == {FinishReason.STOP}
    for prompt, steps in zip(([0, 5], [1, 5]), rows, strict=True):
        single = alone(table, prompt, config)
        assert [step.logprobs for step in steps] == [step.logprobs for step in single[: len(steps)]]
    clock = iter(range(100))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    _, rows = batch(table, [[0], [1]], config.updated(max_time=3.5))
    assert [len(steps) for steps in rows] == [3, 2]  # the clock goes on between the rows
    assert {steps[-1].finish_reason for steps in rows} == {FinishReason.LENGTH}
