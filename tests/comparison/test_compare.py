"""Comparisons on a tiny model: each row is what the model answers by itself, and says how it measures up."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

import edgelm
from edgelm.comparison.csv_table import csv_table
from edgelm.comparison.html_page import comparison_page
from edgelm.comparison.results import Comparison
from edgelm.errors import ConfigError, ContextLengthError, ModelNotFoundError, TemplateError

SETTINGS: dict[str, Any] = {"max_new_tokens": 8, "min_new_tokens": 4}
SAMPLED = {"grid": {"temperature": [0.5, 3.0]}, "seeds": 2, "do_sample": True, **SETTINGS}


def test_every_row_is_the_answer_to_its_cell(lm: edgelm.LanguageModel) -> None:
    found = edgelm.compare(lm, ["hello", "bye"], raw=True, **SAMPLED)
    assert found.axes == ("prompt", "configuration", "seed")
    assert [(row.prompt, row.configuration, row.seed) for row in found.rows] == [
        (prompt, f"temperature={t}", seed) for prompt in ("hello", "bye") for t in (0.5, 3.0) for seed in (1, 2)
    ]
    for row in found.rows:
        asked = {"do_sample": True, "temperature": row.settings["temperature"], "seed": row.seed, **SETTINGS}
        alone = lm.generate(row.prompt, logprobs=True, **asked)
        assert (row.text, row.tokens, row.finish_reason) == (alone.text, len(alone.token_ids), alone.finish_reason)
        assert row.logprob == pytest.approx(sum(token.logprob for token in alone.logprobs or ()), abs=1e-4)
        assert row.mean_logprob == pytest.approx(row.logprob / row.tokens)
        assert row.distinct_1 == len(set(alone.token_ids)) / len(alone.token_ids)


def test_what_prompts_share_is_computed_once(lm: edgelm.LanguageModel) -> None:
    found = edgelm.compare(lm, "{{ text }}" + "b" * 20, inputs=["aaaa", "aacc"], raw=True, **SAMPLED)
    cached = [row.cached_tokens for row in found.rows]
    # All but the last token while the prompt is the same; of another input, what it begins with.
    assert cached[1:4] == [23] * 3
    assert cached[4:] == [2, 23, 23, 23]


def test_greedy_answers_are_made_once(lm: edgelm.LanguageModel) -> None:
    chosen = [{"name": "greedy"}, {"do_sample": True, "temperature": 2.0}]
    found = edgelm.compare(lm, "hello", configs=chosen, seeds=3, **SETTINGS)
    assert [(row.configuration, row.seed) for row in found.rows] == [
        ("greedy", None),
        *(("do_sample=True, temperature=2.0", seed) for seed in (1, 2, 3)),
    ]


def test_a_temperature_of_0_is_greedy(lm: edgelm.LanguageModel) -> None:
    found = edgelm.compare(lm, "hello", grid={"temperature": [0, 2.0]}, do_sample=True, seeds=2, **SETTINGS)
    assert [(row.configuration, row.seed) for row in found.rows] == [
        ("temperature=0", None),
        ("temperature=2.0", 1),
        ("temperature=2.0", 2),
    ]


def test_answers_may_have_a_form(lm: edgelm.LanguageModel) -> None:
    with pytest.raises(ConfigError, match="regex and choices are given"):
        edgelm.compare(lm, "hello", regex="a", choices=["b"])
    pytest.importorskip("llguidance")
    forms = [{"choices": ["a", "b"]}, {"regex": "c{3}"}]
    rows = edgelm.compare(lm, "hello", configs=forms, raw=True, max_new_tokens=4).rows
    assert rows[0].text in ("a", "b")
    assert rows[1].text == "ccc"


def test_seeds_that_nothing_draws_with_are_told(lm: edgelm.LanguageModel) -> None:
    with pytest.warns(UserWarning, match="seeds given, but no configuration samples on tiny: ignored"):
        assert len(edgelm.compare(lm, "hello", seeds=3, **SETTINGS).rows) == 1


def test_beams_have_the_log_probability_of_the_model(lm: edgelm.LanguageModel) -> None:
    searched = {"num_beams": 3, "length_penalty": 0.0}
    chosen = [{"num_beams": 1}, searched, {**searched, "num_return_sequences": 2}]
    found = edgelm.compare(lm, "hello", configs=chosen, raw=True, **SETTINGS)
    assert [(row.configuration.split(",")[0], row.sample) for row in found.rows] == [
        ("num_beams=1", 1),
        ("num_beams=3", 1),
        ("num_beams=3", 1),
        ("num_beams=3", 2),
    ]
    greedy, beams, first, second = found.rows
    assert greedy.logprob is not None
    assert beams.logprob is not None
    assert second.logprob is not None
    assert first.logprob == beams.logprob >= max(greedy.logprob, second.logprob) - 1e-4
    # Under the model's own distribution, token by token.
    answer = lm.generate("hello", **searched, **SETTINGS)
    ids = [*lm.tokenizer.encode("hello"), *answer.token_ids]
    total = 0.0
    for place in range(len(ids) - len(answer.token_ids), len(ids)):
        (step,) = lm.generate(ids[:place], max_new_tokens=1, logprobs=True, top_logprobs=20).logprobs or ()
        total += next((top.logprob for top in step.top_logprobs if top.id == ids[place]), math.nan)
    assert beams.logprob == pytest.approx(total, abs=1e-3)


def test_references_are_compared_with(lm: edgelm.LanguageModel) -> None:
    said = lm.generate("hello", **SETTINGS).text
    inputs = [{"text": "hello", "reference": said}, {"text": "hello", "reference": ["", "zz"]}, "hello"]
    same, other, none = edgelm.compare(lm, "{{ text }}", inputs=inputs, raw=True, **SETTINGS).rows
    assert same.overlap is not None
    assert other.overlap is not None
    assert none.overlap is None
    assert same.overlap.chrf == pytest.approx(1)
    assert other.overlap.rouge_1 == 0


def test_models_are_loaded_one_at_a_time(folder: Path, lm: edgelm.LanguageModel) -> None:
    found = edgelm.compare([folder, lm], "hello", load_settings={"prepack": False, "threads": 1}, **SETTINGS)
    assert [row.model for row in found.rows] == [str(folder), "tiny"]
    assert found.rows[0].text == found.rows[1].text
    assert found.axes == ("model",)
    assert lm.generate("hello", **SETTINGS).text  # what was given open stays open


def test_progress_is_told_of_every_cell(lm: edgelm.LanguageModel) -> None:
    told: list[object] = []

    class Progress:
        def start(self, label: str, total_bytes: int | None) -> None:
            told.append((label, total_bytes))

        def advance(self, n: int) -> None:
            told.append(n)

        def finish(self) -> None:
            told.append("done")

    edgelm.compare(lm, "hello", configs=[{"name": "a"}, {"do_sample": True}], seeds=3, progress=Progress(), **SETTINGS)
    assert told[0] == ("Comparing on tiny", 6)
    assert sum(n for n in told if isinstance(n, int)) == 6
    assert told[-1] == "done"


def test_errors_name_the_cell(lm: edgelm.LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(ContextLengthError, match=r"^model tiny, prompt \{\{ text \}\}, input 2: the prompt has 70 tok"):
        edgelm.compare(lm, "{{ text }}", inputs=["a", "b" * 70], raw=True)
    with pytest.raises(ConfigError, match=r"^model tiny, configuration min_new_tokens=99: min_new_tokens \(99\) is ab"):
        edgelm.compare(lm, "a", grid={"min_new_tokens": [1, 99]})
    with pytest.raises(TemplateError, match=r"^prompt translation, input 1: the template .* needs the variable 'to'"):
        edgelm.compare(tmp_path / "none", {"template": "translation"}, inputs="a")
    with pytest.raises(ModelNotFoundError):
        edgelm.compare("no such model", "a")
    with pytest.raises(ConfigError, match="there is no model"):
        edgelm.compare([], "a")


HOSTILE = '</script><b>"é\n&amp;,;'


@pytest.fixture(scope="module")
def hostile(lm: edgelm.LanguageModel) -> Comparison:
    """A comparison with texts that could break out of a page or a table."""
    prompts = [{"name": HOSTILE, "text": HOSTILE}, "plain"]
    return edgelm.compare(lm, prompts, inputs={"text": "a", "reference": HOSTILE}, raw=True, **SAMPLED)


def test_a_csv_holds_every_row(hostile: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_table(hostile), newline="")))
    assert [row["text"] for row in rows] == [row.text for row in hostile.rows]
    assert [row["prompt"] for row in rows] == [row.prompt for row in hostile.rows]
    assert [float(row["temperature"]) for row in rows] == [0.5, 0.5, 3.0, 3.0] * 2
    assert [float(row["logprob"]) for row in rows] == pytest.approx([row.logprob for row in hostile.rows], abs=1e-3)
    assert "max_new_tokens" not in rows[0]
    assert {"rouge_1", "rouge_2", "rouge_l", "chrf"} <= rows[0].keys()


def test_a_page_shows_texts_before_figures(hostile: Comparison) -> None:
    script = comparison_page(hostile).rpartition("<script>")[2]
    names = re.search(r"const names = (.*);", script)
    assert names is not None
    assert names[1].index("data.axes") < names[1].index('"text"') < names[1].index("data.measures")
    assert script.index('make("td", line, row.text') < script.index("row.shown.forEach")


def test_a_page_holds_every_row_as_data(hostile: Comparison) -> None:
    page = comparison_page(hostile)
    assert page.count("</script>") == 2
    assert "<b>" not in page
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    data = json.loads(found[1])
    assert data["axes"] == ["prompt", "configuration", "seed"]
    assert [row["text"] for row in data["rows"]] == [row.text for row in hostile.rows]
    assert data["asked"][0]["references"] == [HOSTILE]
    assert [len(row["values"]) for row in data["rows"]] == [len(data["measures"])] * 8
    assert not re.search(r'(?:src|href)="', page)


def test_json_has_plain_values(hostile: Comparison) -> None:
    values = json.loads(json.dumps(hostile.as_dict(), allow_nan=False))
    assert values["prompts"][0]["text"] == f"a\n\n{HOSTILE}"
    assert [row["seed"] for row in values["rows"]] == [1, 2] * 4
    assert values["rows"][0]["settings"]["temperature"] == 0.5
