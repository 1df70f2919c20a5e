"""A caller's own functions, log probabilities and the limit of time, as Python's users meet them."""

from __future__ import annotations

import numpy as np
import pytest

from edgelm.errors import ConfigError, PromptError


def test_one_function_or_several(load) -> None:
    lm = load("tiny")
    plain = lm.generate("abc", max_new_tokens=6).token_ids
    banned = plain[0]

    def ban(ids, logits):
        logits = logits.copy()
        logits[banned] = -np.inf
        return logits

    for given in (ban, [ban], (function for function in [ban])):
        answer = lm.generate("abc", max_new_tokens=6, logits_processor=given)
        assert banned not in answer.token_ids
    answers = lm.generate_batch(["abc", "xyz"], max_new_tokens=6, logits_processor=ban)
    assert all(banned not in answer.token_ids for answer in answers)
    beams = lm.generate("abc", max_new_tokens=6, num_beams=2, logits_processor=ban)
    assert banned not in beams.token_ids
    assert lm.generate("abc", max_new_tokens=6, logits_processor=None).token_ids == plain


def test_a_criterion_ends_the_answer(load) -> None:
    lm = load("endless")
    end = {"stopping_criteria": lambda ids, logits: ids[-1] == ord("e") - ord("a") or len(ids) > 8}
    answer = lm.generate("ab", max_new_tokens=50, **end)
    assert answer.finish_reason == "stop"
    assert answer.usage.completion_tokens < 50
    (batched,) = lm.generate_batch(["ab"], max_new_tokens=50, **end)
    assert batched.token_ids == answer.token_ids


@pytest.mark.parametrize("name", ["logits_processor", "stopping_criteria"])
def test_what_cannot_be_called_is_refused_by_name(load, name) -> None:
    for value in (5, "ab", [print, None]):
        with pytest.raises(ConfigError, match=rf"^{name} must be functions of \(ids, logits\), not "):
            load("tiny").generate("abc", **{name: value})


def test_criteria_are_not_for_beams(load) -> None:
    lm = load("tiny")
    for run in (lambda **settings: lm.generate("abc", **settings), lambda **s: lm.generate_batch(["abc"], **s)):
        with pytest.raises(ConfigError, match="token by token, not for num_beams=2"):
            run(num_beams=2, stopping_criteria=lambda ids, logits: False)


def test_log_probabilities_come_with_the_answer(load) -> None:
    lm = load("tiny")
    answer = lm.generate("abc", max_new_tokens=5, top_logprobs=3)
    assert lm.generate("abc", max_new_tokens=5).logprobs is None
    assert [token.id for token in answer.logprobs] == list(answer.token_ids)
    for token in answer.logprobs:
        assert token.token == lm.tokenizer.decode([token.id], skip_special_tokens=False)
        assert token.top_logprobs[0].id == token.id  # greedy
        assert token.top_logprobs[0].logprob == token.logprob <= 0
    content = answer.as_dict()["logprobs"]["content"]
    assert content[0].keys() == {"id", "token", "logprob", "top_logprobs"}
    assert len(content[0]["top_logprobs"]) == 3
    (batched,) = lm.generate_batch(["abc"], max_new_tokens=5, top_logprobs=3)
    np.testing.assert_allclose([t.logprob for t in batched.logprobs], [t.logprob for t in answer.logprobs], atol=1e-4)
    with lm.stream("abc", max_new_tokens=5, logprobs=True) as stream:
        assert [token.top_logprobs for token in stream.drain().logprobs] == [()] * 5


def test_an_answer_ends_when_its_time_is_over(load) -> None:
    answer = load("endless").generate("ab", max_new_tokens=10_000, max_time=0.05)
    assert answer.finish_reason == "length"
    assert 0 < answer.usage.completion_tokens < 10_000


def test_a_token_may_be_biased_by_its_text(load) -> None:
    lm = load("tiny")
    first = lm.generate("abc", max_new_tokens=1).token_ids[0]
    text = lm.tokenizer.decode([first], skip_special_tokens=False)
    ids = lm.tokenizer.encode_continuation(text)
    assert ids == [first]
    for token in (text, str(first), first):
        assert lm.generate("abc", max_new_tokens=1, logit_bias={token: float("-inf")}).token_ids != (first,)
    both = lm.generate("abc", max_new_tokens=4, logit_bias={"q": 100, "xyz": 1.0}, sequence_bias={(5,): -1.0})
    assert set(both.token_ids) == set(lm.tokenizer.encode_continuation("q"))
    with pytest.raises(ConfigError, match="logit_bias: '' has no token"):
        lm.generate("abc", logit_bias={"": 1.0})
    with pytest.raises(ConfigError, match=r"^logit_bias must be a finite number, not nan"):
        lm.generate("abc", logit_bias={"q": float("nan")})


def test_guidance_leads_away_from_a_negative_prompt(load) -> None:
    lm = load("tiny")
    plain = lm.generate("abc", max_new_tokens=8)
    assert lm.generate("abc", max_new_tokens=8, guidance_scale=1.0, negative_prompt=None).token_ids == plain.token_ids
    # Led away from the very same prompt, an answer is what it is without: their difference is nothing.
    same = lm.generate("abc", max_new_tokens=8, guidance_scale=3.0, negative_prompt="abc")
    assert same.token_ids == plain.token_ids
    guided = [lm.generate("abc", max_new_tokens=8, guidance_scale=4.0, negative_prompt="xyz") for _ in range(2)]
    assert guided[0].token_ids == guided[1].token_ids != plain.token_ids
    zero = lm.generate("abc", max_new_tokens=8, guidance_scale=0.0, negative_prompt="xyz")
    assert zero.token_ids == lm.generate("xyz", max_new_tokens=8).token_ids


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"negative_prompt": "x"}, "a negative_prompt has no weight at guidance_scale 1"),
        ({"guidance_scale": 2, "num_beams": 2}, "guidance_scale is for one answer made token by token"),
        ({"guidance_scale": 2, "prompt_lookup_num_tokens": 3}, "token by token, without prompt_lookup_num_tokens"),
        ({"guidance_scale": 2, "overflow": "sink"}, "ask for one of them"),
        ({"guidance_scale": -1}, "guidance_scale must be at least 0"),
        ({"guidance_scale": 2, "negative_prompt": "x" * 60, "max_new_tokens": 30}, "the negative prompt has 60 tokens"),
        ({"guidance_scale": 2, "negative_prompt": 5}, "must be a text or a list of token ids"),
    ],
    ids=str,
)
def test_guidance_that_cannot_be_is_refused_and_lends_nothing(load, settings, message) -> None:
    lm = load("tiny")
    before = lm.generate("abc", max_new_tokens=3).token_ids
    with pytest.raises((ConfigError, PromptError), match=message):
        lm.generate("abc", **{"max_new_tokens": 3, **settings})
    assert lm.generate("abc", max_new_tokens=3).token_ids == before


def test_guidance_is_not_for_batches(load) -> None:
    with pytest.raises(ConfigError, match="guidance_scale is for one answer at a time, not for batches"):
        load("tiny").generate_batch(["abc"], guidance_scale=2.0)
