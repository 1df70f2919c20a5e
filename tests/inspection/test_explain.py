"""``explain``: the tokens are those of ``generate``, and what is told of them is what was done."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.bundles import EOS, WEIGHTS_NAME, write_decoder_bundle
from support.marian_files import write_bergamot
from support.processors import built_in
from support.word_constraint import OneOf

import edgelm
from edgelm.bundle.manifest import Source
from edgelm.config import GenerationConfig
from edgelm.errors import ConfigError, ContextLengthError, NumericError, PromptError, UnsupportedModelError
from edgelm.generation.constraint import ConstraintProcessor
from edgelm.generation.default_processors import default_warpers
from edgelm.generation.sampling import next_uniform
from edgelm.inspection.explain.reasons import stage_name
from edgelm.inspection.explain.results import ExplainedToken, bits
from edgelm_tools.export import export

SAMPLED: dict[str, Any] = {
    "max_new_tokens": 6,
    "do_sample": True,
    "temperature": 1.5,
    "top_k": 20,
    "top_p": 0.9,
    "min_p": 0.05,
    "repetition_penalty": 1.1,
    "seed": 7,
}
EVERYTHING: dict[str, Any] = {
    "do_sample": True,
    "seed": 1,
    "max_new_tokens": 4,
    "sequence_bias": {(5, 6): 1.0},
    "logit_bias": {9: -math.inf},
    "encoder_repetition_penalty": 1.1,
    "repetition_penalty": 1.2,
    "frequency_penalty": 0.3,
    "no_repeat_ngram_size": 2,
    "encoder_no_repeat_ngram_size": 3,
    "bad_words_ids": [[8]],
    "min_new_tokens": 2,
    "exponential_decay_length_penalty": (0, 1.1),
    "suppress_tokens": [10],
    "begin_suppress_tokens": [11],
    "top_n_sigma": 3.0,
    "temperature": 1.5,
    "top_k": 15,
    "top_p": 0.95,
    "min_p": 0.01,
    "typical_p": 0.9,
    "epsilon_cutoff": 0.01,
    "eta_cutoff": 0.01,
    "eos_token_id": [EOS],
}


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    weights = np.exp(logits.astype(np.float64) - float(logits.max()))
    return weights / weights.sum()


def candidate(token: ExplainedToken, token_id: int) -> Any:
    return next(one for one in token.candidates if one.id == token_id)


@st.composite
def some_settings(draw: st.DrawFn) -> dict[str, Any]:
    optional = {
        "temperature": st.floats(0.1, 3.0),
        "top_k": st.integers(0, 40),
        "top_p": st.floats(0.05, 1.0),
        "min_p": st.floats(0.0, 0.5),
        "typical_p": st.floats(0.1, 1.0),
        "epsilon_cutoff": st.floats(0.0, 0.2),
        "eta_cutoff": st.floats(0.0, 0.2),
        "top_n_sigma": st.floats(0.0, 3.0),
    }
    chosen = {"max_new_tokens": draw(st.integers(1, 8)), "repetition_penalty": draw(st.floats(0.5, 2.0))}
    chosen["no_repeat_ngram_size"] = draw(st.integers(0, 3))
    chosen["prompt_lookup_num_tokens"] = draw(st.sampled_from([None, 3]))
    if draw(st.booleans()):
        chosen |= {"do_sample": True, "seed": draw(st.integers(0, 99))}
        chosen |= draw(st.fixed_dictionaries({}, optional=optional))
    return chosen


@given(some_settings(), st.integers(1, 12))
@settings(max_examples=40)
def test_the_tokens_are_those_of_generate(shared: edgelm.LanguageModel, chosen: dict[str, Any], top: int) -> None:
    answer = shared.generate("ab cab", **chosen)
    found = shared.explain("ab cab", top=top, **chosen)
    assert found.token_ids == answer.token_ids
    assert (found.text, found.finish_reason) == (answer.text, answer.finish_reason)
    for token in found.tokens:
        check_law(token, top)


def check_law(token: ExplainedToken, top: int) -> None:
    own = candidate(token, token.id)
    assert own.removed_by is None
    assert math.isclose(own.probabilities[0], math.exp(-token.raw_surprise), rel_tol=1e-9)
    assert math.isclose(own.probabilities[-1], math.exp(-token.surprise), rel_tol=1e-9)
    assert len({one.id for one in token.candidates}) == len(token.candidates)
    assert len(token.candidates) <= (top + 1) * len(token.stages) + 1
    for one in token.candidates:
        out = len(token.stages) if one.removed_by is None else one.removed_by
        assert len(one.probabilities) == len(token.stages)
        assert not any(one.probabilities[out:])
        assert bool(one.reason) == (one.removed_by is not None)
    kept = [stage.allowed for stage in token.stages]
    removed = [stage.removed for stage in token.stages]
    assert [before - after for before, after in pairwise(kept)] == removed[1:]
    assert all(0 <= stage.entropy <= math.log(stage.allowed) + 1e-9 for stage in token.stages)
    if token.choice == "drawn":
        assert token.uniform is not None
        assert token.interval is not None
        assert token.interval[0] - 1e-9 <= token.uniform <= token.interval[1] + 1e-9
        assert own.interval == token.interval
    else:
        assert own.probabilities[-1] == max(one.probabilities[-1] for one in token.candidates)


def test_each_stage_is_what_its_rule_makes_of_the_one_before(lm: edgelm.LanguageModel) -> None:
    prompt = lm.tokenizer.encode("ab c")
    token = lm.explain(prompt, top=100, **SAMPLED).tokens[0]
    logits = lm.new_decoder().prefill(prompt).copy()
    config = GenerationConfig(**SAMPLED)
    rules = [*built_in(config, prompt=prompt, vocab_size=logits.size), *default_warpers(config)]
    ids = np.array(prompt)
    expected = [logits]
    for rule in rules:
        expected.append(rule(ids, expected[-1]))
    names = ["raw", "repetition_penalty", "temperature", "top_k", "top_p", "min_p"]
    assert [stage.name for stage in token.stages] == names
    assert [stage.label for stage in token.stages][1:4] == ["repetition_penalty=1.1", "temperature=1.5", "top_k=20"]
    for place, values in enumerate(expected):
        wanted = softmax(values)
        assert {one.id: one.probabilities[place] for one in token.candidates} == pytest.approx(
            {one.id: wanted[one.id] for one in token.candidates}, abs=1e-6
        )
        assert token.stages[place].allowed == np.count_nonzero(values > -np.inf)


def test_the_draw_is_the_seeds(lm: edgelm.LanguageModel) -> None:
    found = lm.explain("ab", **SAMPLED)
    random = np.random.PCG64(7)
    assert [token.uniform for token in found.tokens] == [next_uniform(random) for _ in found.tokens]


def test_reasons_tell_the_numbers(lm: edgelm.LanguageModel) -> None:
    hot = {"do_sample": True, "seed": 0, "max_new_tokens": 1, "temperature": 2.0}
    for cut, words in (
        ({"top_k": 3}, "rank 4 > top_k=3"),
        ({"top_p": 0.5}, "likelier tokens have 0."),
        ({"min_p": 0.6}, "% < min_p·best = "),
        ({"typical_p": 0.5}, "nats from the entropy, nearer ones have 0."),
        ({"epsilon_cutoff": 0.04}, "% < epsilon_cutoff = 4.00 %"),
        ({"eta_cutoff": 0.5}, "% < min(ε, √ε·e^-entropy) = "),
        ({"top_n_sigma": 1.0}, "< largest - 1σ = "),
    ):
        (token,) = lm.explain("ab c", top=1, **hot, **cut).tokens
        (name,) = cut
        place = [stage.name for stage in token.stages].index(name)
        assert token.stages[place].removed > 0
        first = next(one for one in token.candidates if one.removed_by == place)
        assert words in first.reason


def test_bans_tell_why(lm: edgelm.LanguageModel) -> None:
    plain = lm.generate("ab c", max_new_tokens=1).token_ids[0]
    for ban, words in (
        ({"bad_words_ids": [[plain]]}, "would complete one of the bad words"),
        ({"suppress_tokens": [plain]}, "is suppressed"),
        ({"logit_bias": {plain: -math.inf}}, "its bias is -inf"),
        ({"forced_eos_token_id": [EOS]}, "another token is forced here"),
        ({"min_new_tokens": 1, "eos_token_id": [plain]}, "the answer has 0 of at least 1 tokens"),
        ({"min_length": 9, "eos_token_id": [plain]}, "the sequence has 4 of at least 9 tokens"),
        ({"logits_processor": ban_all_but_the_end}, "ruled out by ban_all_but_the_end"),
    ):
        (token,) = lm.explain("ab c", max_new_tokens=1, **ban).tokens
        assert candidate(token, plain).reason == words
        assert token.id != plain


def test_the_form_of_an_answer_is_a_stage(lm: edgelm.LanguageModel) -> None:
    words = (lm.tokenizer.encode("no"), lm.tokenizer.encode("not"))
    rule = ConstraintProcessor(OneOf(words, lm.bundle.manifest.vocab_size))
    held = {"logits_processor": rule, "max_new_tokens": 2, "eos_token_id": []}
    found = lm.explain("ab", **held)
    assert found.token_ids == lm.generate("ab", **held).token_ids
    for token, allowed in zip(found.tokens, ("n", "o"), strict=True):
        assert token.token == allowed
        assert [stage.name for stage in token.stages][-1] == "form"
        assert {one.reason for one in token.candidates} == {"", "has no place in the form of the answer"}


def test_guidance_is_a_stage(lm: edgelm.LanguageModel) -> None:
    guided = {"guidance_scale": 3.0, "negative_prompt": "c", "max_new_tokens": 3}
    found = lm.explain("ab c", **guided)
    assert found.token_ids == lm.generate("ab c", **guided).token_ids
    assert [[stage.name for stage in token.stages] for token in found.tokens] == [["raw", "guidance_scale"]] * 3


def ban_all_but_the_end(ids: NDArray[np.int64], logits: NDArray[np.float32]) -> NDArray[np.float32]:
    kept = np.full_like(logits, -np.inf)
    kept[EOS] = 0
    return kept


def test_what_changes_nothing_is_no_stage(lm: edgelm.LanguageModel) -> None:
    found = lm.explain("ab", max_new_tokens=3, bad_words_ids=[[4, 5, 6, 7]], min_new_tokens=1)
    assert [[stage.name for stage in token.stages] for token in found.tokens][1:] == [["raw"], ["raw"]]
    assert [token.choice for token in found.tokens] == ["likeliest"] * 3


def test_stages_are_called_as_the_settings_are(lm: edgelm.LanguageModel) -> None:
    config = GenerationConfig(**EVERYTHING)
    rules = [*built_in(config), *default_warpers(config)]
    rules += built_in(GenerationConfig(min_length=9, eos_token_id=2, presence_penalty=1, forced_bos_token_id=3))
    rules += built_in(GenerationConfig(forced_eos_token_id=3))
    names = [stage_name(rule)[0] for rule in rules]
    assert set(names) <= set(GenerationConfig.field_names())
    assert len(names) == len(set(names))
    # Everything at a time: what follows keeps to what was ruled out.
    for token in lm.explain("ab c", **EVERYTHING).tokens:
        check_law(token, 10)


def test_a_conversation(lm: edgelm.LanguageModel) -> None:
    messages = [{"role": "user", "content": "ab"}]
    found = lm.explain(messages, **SAMPLED)
    assert found.token_ids == lm.chat(messages, **SAMPLED).token_ids
    assert found.prompt == ("a", "b", ".")


def test_an_encoder_decoder(tmp_path: Path) -> None:
    checkpoint = write_bergamot(tmp_path / "checkpoint", width=24, heads=3, inner=40, encoder=2, decoder=2)
    export(checkpoint, tmp_path / "b", name="tiny", origin=Source("test"), scheme="fp32", report=False)
    with edgelm.load(tmp_path / "b", prepack=False, threads=1) as lm:
        source = [2, 5, 3, 7, 0]
        found = lm.explain(source, **SAMPLED)
        assert found.token_ids == lm.generate(source, **SAMPLED).token_ids
        assert len(found.prompt) == len(source)
        with pytest.raises(UnsupportedModelError, match="reads a source"):
            lm.explain_given(source)


def test_a_text_that_is_given(lm: edgelm.LanguageModel) -> None:
    ids = lm.tokenizer.encode("ab cab")
    found = lm.explain_given("ab cab", top=3)
    rows = np.concatenate(list(lm.new_decoder().all_logits(ids)))
    expected = [-math.log(softmax(row)[token]) for row, token in zip(rows, ids[1:], strict=False)]
    assert [token.raw_surprise for token in found.tokens] == pytest.approx(expected, abs=1e-5)
    assert found.perplexity == pytest.approx(math.exp(sum(expected) / len(expected)), rel=1e-5)
    assert (found.prompt, found.text, found.finish_reason) == (("a",), "ab cab", None)
    assert found.token_ids == tuple(ids[1:])
    assert {token.choice for token in found.tokens} == {"given"}
    assert all(3 <= len(token.candidates) <= 4 for token in found.tokens)
    assert lm.explain_given(ids, top=3) == found


def test_tokens_come_as_they_are_chosen(lm: edgelm.LanguageModel) -> None:
    seen: list[ExplainedToken] = []
    found = lm.explain("ab", max_new_tokens=3, on_token=seen.append)
    assert tuple(seen) == found.tokens
    assert lm.explain_given("ab", on_token=seen.append).tokens == (seen[-1],)


def test_plain_values(lm: edgelm.LanguageModel) -> None:
    values = json.loads(json.dumps(lm.explain("ab", **SAMPLED).as_dict(), allow_nan=False))
    token = values["tokens"][0]
    nats, in_bits = token["surprise"]["raw"]["nats"], token["surprise"]["raw"]["bits"]
    assert in_bits == pytest.approx(nats / math.log(2), rel=1e-4) == pytest.approx(bits(nats), rel=1e-4)
    assert token["draw"]["from"] <= token["draw"]["uniform"] < token["draw"]["to"]
    assert {one.get("removed_by") for one in token["candidates"]} <= {None, "top_k", "top_p", "min_p"}
    forced = lm.explain("ab", max_new_tokens=1, logits_processor=ban_all_but_the_end, suppress_tokens=[EOS])
    assert json.dumps(forced.as_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"num_beams": 2}, "explained are answers made token by token, not those of num_beams=2"),
        ({"top": 0}, "top must be"),
        ({"top": 1001}, "top must be"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_what_is_refused(lm: edgelm.LanguageModel, chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        lm.explain("ab", **chosen)


def test_texts_that_cannot_be_scored(lm: edgelm.LanguageModel) -> None:
    with pytest.raises(PromptError, match="the text has one token"):
        lm.explain_given("a")
    with pytest.raises(ContextLengthError, match="the text has 65 tokens, but the context window is 64 tokens"):
        lm.explain_given("a" * 65)
    assert len(lm.explain_given("a" * 64, top=1).tokens) == 63
    with pytest.raises(PromptError):
        lm.explain_given([1, 10**6])


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    def spoil(model: Any) -> None:
        weights = tmp_path / "decoder" / WEIGHTS_NAME
        weights.write_bytes(np.full(weights.stat().st_size // 4, np.nan, np.float32).tobytes())

    folder = write_decoder_bundle(tmp_path / "decoder", edit=spoil)
    with (
        edgelm.load(folder, prepack=False) as lm,
        pytest.raises(NumericError, match="step 1: the largest logit is nan"),
    ):
        lm.explain("ab")
