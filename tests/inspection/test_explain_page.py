"""The page of explained tokens holds what it was made of, and nothing that a token could slip in."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgelm
from edgelm.errors import ConfigError
from edgelm.inspection import explain_page as module
from edgelm.inspection.explain.results import Candidate, ExplainedToken, Explanation, Stage
from edgelm.inspection.explain.visible import bytes_spelled, printable, visible
from edgelm.inspection.explain_page import explain_page
from edgelm.inspection.page import page

HOSTILE = ("</script><script>alert(1)</script>", "<!--", "<img src=x onerror=alert(1)>", "&lt;", "\u2028", '"', "\\")


def token_of(text: str) -> ExplainedToken:
    stages = (Stage("raw", "raw", 9, 0, 0.0, 1.0), Stage("top_k", "top_k=1", 1, 8, 0.25, 0.0))
    chosen = Candidate(3, text, (0.75, 1.0), None, "", (0.0, 1.0))
    cut = Candidate(4, text, (0.25, 0.0), 1, f"rank 2 > {text}", None)
    return ExplainedToken(3, text, stages, (chosen, cut), "drawn", 0.5, (0.0, 1.0), 0.2876, 0.0)


def data_of(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_tokens_stay_text() -> None:
    html = explain_page(Explanation("</title><b>", HOSTILE, HOSTILE[2], tuple(map(token_of, HOSTILE)), "stop"))
    assert html.count("<script") == html.count("</script>") == 2
    assert "<img" not in html
    assert "<b>" not in html
    assert "<!--" not in html
    data = data_of(html)
    assert data["prompt"][0] == HOSTILE[0]
    assert [token["flow"] for token in data["tokens"]][:4] == list(HOSTILE[:4])
    assert [token["text"] for token in data["tokens"]] == [visible(text) for text in HOSTILE]
    assert data["tokens"][0]["candidates"][1]["why"] == f"rank 2 > {HOSTILE[0]}"


@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_no_text_gets_out_of_its_place(texts: list[str]) -> None:
    html = explain_page(Explanation("tiny", tuple(texts), "", tuple(map(token_of, texts)), "stop"))
    plain = explain_page(Explanation("tiny", (), "", (token_of("a"),), "stop"))
    outside = re.compile(r'(<script type="application/json" id="data">).*?(</script>)', re.DOTALL)
    assert outside.sub(r"\1\2", html) == outside.sub(r"\1\2", plain)
    assert [token["text"] for token in data_of(html)["tokens"]] == [visible(text) for text in texts]


def test_only_the_pages_own_style_and_script_may_run() -> None:
    html = explain_page(Explanation("tiny", (), "", (token_of("a"),), "stop"))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy
    assert policy[1].startswith("default-src 'none'; ")
    assert "unsafe" not in policy[1]
    for kind, text in (("script", html.rsplit("<script>", 1)[1]), ("style", html.split("<style>", 1)[1])):
        content = text.split(f"</{kind}>", 1)[0]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy[1]
    assert not re.search(r"https?:|src=[\"']|href=|@import|url\(| style=| on\w+=", html)
    assert "innerHTML" not in html


def test_a_page_holds_what_was_told(shared: edgelm.LanguageModel) -> None:
    found = shared.explain("ab c", max_new_tokens=4, do_sample=True, temperature=1.5, top_k=5, seed=1)
    data = data_of(explain_page(found))
    assert data["title"] == "How tiny chose its tokens"
    assert [token["id"] for token in data["tokens"]] == list(found.token_ids)
    for token, told in zip(found.tokens, data["tokens"], strict=True):
        assert told["uniform"] == token.uniform
        assert [stage["label"] for stage in told["stages"]] == ["raw", "temperature=1.5", "top_k=5"]
        assert [one["why"] for one in told["candidates"]] == [one.reason for one in token.candidates]
    given_text = data_of(explain_page(shared.explain_given("ab c")))
    assert given_text["title"] == "How likely tiny finds it"
    assert given_text["finishReason"] is None


def test_what_is_infinite_can_be_written() -> None:
    token = ExplainedToken(3, "a", token_of("a").stages, (), "likeliest", None, None, math.inf, 0.0)
    data = data_of(explain_page(Explanation("tiny", (), "", (token,), "stop")))
    assert (data["tokens"][0]["surprise"], data["perplexity"]) == ([None, 0.0], None)
    with pytest.raises(ValueError, match="JSON"):
        page(title="", style="", body="", script="", data={"value": math.nan})


def test_a_page_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CANDIDATES", 3)
    with pytest.raises(ConfigError, match="a page holds at most 3 candidates, not 4"):
        explain_page(Explanation("tiny", (), "", (token_of("a"), token_of("b")), "stop"))


def test_what_cannot_be_seen_is_shown() -> None:
    assert visible(" a\n\tb") == "␣a↵⇥b"
    assert visible("\x1b[2J\u202e\u200b\r") == "\\x1b[2J\\u202e\\u200b\\r"
    assert visible("") == "∅"
    assert visible("é漢🦙") == "é漢🦙"
    assert printable(" a\n\x07") == " a\n\\x07"


@given(st.text())
def test_nothing_that_is_shown_moves_the_cursor(text: str) -> None:
    assert visible(text).isprintable()


def test_parts_of_characters_are_bytes() -> None:
    assert bytes_spelled("æ¼") == "\\xe6\\xbc"
    assert bytes_spelled("Ġæ") == " \\xe6"
    assert bytes_spelled("<0xE6>") == "<0xE6>"
    assert bytes_spelled("漢") == "漢"
