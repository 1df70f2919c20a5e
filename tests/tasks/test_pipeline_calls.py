"""How pipelines may be called: what transformers' users bring along is taken, or refused with the right form."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.bundles import seal, write_decoder_bundle
from support.encoder_bundle import TinyEncoder, write_encoder_bundle
from support.marian_files import write_bergamot
from support.scripted_bundle import write_scripted_bundle
from support.token_tasks import write_task_bundle

import edgelm
from edgelm.bundle.manifest import Source
from edgelm.errors import ConfigError, PromptError, UnsupportedModelError
from edgelm_tools.export import export

SETTINGS: dict[str, Any] = {"prepack": False, "threads": 1}
# Whatever is asked, the last character starts the answer.
TEMPLATE = b"{% for message in messages %}{{ message.content }}{% endfor %}Q"
ANSWER = "Qrstuvwxyz"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path / "home"))


@pytest.fixture
def lm(tmp_path: Path) -> Iterator[edgelm.LanguageModel]:
    files = {"chat_template.jinja": TEMPLATE}
    folder = write_scripted_bundle(tmp_path / "scripted", ANSWER, context_length=600, files=files)
    with edgelm.load(folder, **SETTINGS) as lm:
        yield lm


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[edgelm.LanguageModel]:
    folder = tmp_path_factory.mktemp("bergamot")
    made = folder / "tiny"
    export(write_bergamot(folder / "checkpoint"), made, name="tiny", origin=Source("test"), scheme="fp32", report=False)
    with edgelm.load(made, **SETTINGS) as lm:
        yield lm


def encoder(folder: Path, task: str) -> Path:
    return write_encoder_bundle(folder, TinyEncoder(task=task))


def test_a_translator_makes_no_summaries(translator: edgelm.LanguageModel) -> None:
    with pytest.raises(UnsupportedModelError, match="tiny is a translator; a summary needs a model that"):
        edgelm.pipeline("summarization", translator)


def test_a_model_of_another_kind_is_refused_when_the_pipeline_opens(lm: edgelm.LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="not for translation, which takes an encoder-decoder"):
        edgelm.pipeline("translation", lm)
    bare = write_decoder_bundle(tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    seal(bare)
    with pytest.raises(UnsupportedModelError, match="only continues texts"):
        edgelm.pipeline("summarization", bare, **SETTINGS)


def test_lengths_of_a_summary_are_its_own(lm: edgelm.LanguageModel) -> None:
    """The prompt around the text has more than 30 tokens, which nobody sees."""
    summarize = edgelm.pipeline("summarization", lm)
    assert summarize("It rains.") == [{"summary_text": "rstuvwxyz"}]
    assert summarize("It rains.", min_length=1, max_length=3) == [{"summary_text": "rst"}]
    assert summarize("It rains.", max_length=3, max_new_tokens=4) == [{"summary_text": "rstu"}]
    for config in (edgelm.GenerationConfig(max_length=3), edgelm.GenerationConfig(max_length=9, max_new_tokens=3)):
        assert summarize("It rains.", generation_config=config) == [{"summary_text": "rst"}]
    with pytest.raises(ConfigError, match=r"min_new_tokens \(5\) is above max_new_tokens \(3\)"):
        summarize("It rains.", min_length=5, max_length=3)
    with pytest.raises(ConfigError, match="num_return_sequences must be 1 for a summary, not 2"):
        summarize("a", generation_config=edgelm.GenerationConfig(num_return_sequences=2, do_sample=True))


def test_batches_answer_as_one_by_one(lm: edgelm.LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["Q", "Qr", "Qrs", "Qrst", "Qrstu"]
    for task in ("text-generation", "text2text-generation"):
        generate = edgelm.pipeline(task, lm)
        one_by_one = generate(texts, max_new_tokens=3)
        sizes: list[int] = []
        batch: Callable[..., Any] = lm.generate_batch

        def counted(prompts: Any, batch: Callable[..., Any] = batch, sizes: list[int] = sizes, **settings: Any) -> Any:
            sizes.append(len(prompts))
            return batch(prompts, **settings)

        with monkeypatch.context() as patch:
            patch.setattr(lm, "generate_batch", counted)
            assert generate(texts, max_new_tokens=3, batch_size=2) == one_by_one
        assert sizes == [2, 2, 1]
        for bad in (0, True, "2"):
            with pytest.raises(ConfigError, match="batch_size must be"):
                generate(texts, batch_size=bad)


@pytest.mark.parametrize(
    ("task", "why"),
    [
        ("text-generation", "refused, never cut"),
        ("text2text-generation", "refused, never cut"),
        ("summarization", "nothing is cut off"),
    ],
)
def test_truncation_is_refused_with_the_reason(lm: edgelm.LanguageModel, task: str, why: str) -> None:
    call = edgelm.pipeline(task, lm)
    with pytest.raises(ConfigError, match=f"{task} has no truncation: .*{why}"):
        call("Q", truncation=True)
    assert call("Q", truncation=False) == call("Q")


def test_generators_are_answered_one_by_one(lm: edgelm.LanguageModel, tmp_path: Path) -> None:
    given: list[str] = []

    def texts() -> Iterator[str]:
        for text in ("Q", "Qr", "Qrs"):
            given.append(text)
            yield text

    generate = edgelm.pipeline("text-generation", lm)
    answers = generate(texts())
    assert given == []
    first = next(answers)
    assert (first, given) == (generate(["Q"])[0], ["Q"])
    assert [first, *answers] == generate(["Q", "Qr", "Qrs"])
    assert list(generate(texts(), batch_size=2)) == generate(["Q", "Qr", "Qrs"])
    with edgelm.pipeline("text-classification", encoder(tmp_path / "c", "text-classification"), **SETTINGS) as call:
        assert list(call(iter(["dog", "fox"]))) == [call(["dog"])[0], call(["fox"])[0]]
    with edgelm.pipeline("fill-mask", write_task_bundle(tmp_path / "m", "fill-mask"), **SETTINGS) as fill:
        assert list(fill(iter(["the [MASK] dog"]), top_k=1)) == [fill("the [MASK] dog", top_k=1)]


def test_a_wrong_call_is_told_the_right_form(tmp_path: Path, lm: edgelm.LanguageModel) -> None:
    vectors = encoder(tmp_path / "v", "feature-extraction")
    with edgelm.pipeline("sentence-similarity", vectors, **SETTINGS) as compare:
        for wrong in (("a", ["b"], "c"), ("a", ["b"])):
            with pytest.raises(PromptError, match=r'sentence-similarity takes \{"source_sentence": "…", "sentences"'):
                compare(*wrong)
    with edgelm.pipeline("text-ranking", vectors, **SETTINGS) as rank:
        for wrong in (("a",), ("a", ["b"], 3)):
            with pytest.raises(PromptError, match='text-ranking takes query="…", passages='):
                rank(*wrong)
        with pytest.raises(ConfigError, match="text-ranking has no setting 'documents'"):
            rank(query="a", documents=["b"])
    with pytest.raises(PromptError, match="text-generation takes a text or a list of texts"):
        edgelm.pipeline("text-generation", lm)()


def test_a_warning_points_at_the_callers_line(lm: edgelm.LanguageModel) -> None:
    generate = edgelm.pipeline("text-generation", lm)
    summarize = edgelm.pipeline("summarization", lm)
    for call in (generate, lm.generate, summarize, lambda text, **settings: lm.generate_batch([text], **settings)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call("It rains. Q", temperature=0.5)  # type: ignore[operator]
        assert {Path(one.filename).name for one in caught} == {Path(__file__).name}
        assert "temperature given, but do_sample is False: ignored" in str(caught[0].message)


def test_what_they_are_is_shown(lm: edgelm.LanguageModel, tmp_path: Path) -> None:
    shown = repr(edgelm.pipeline("summarization", lm))
    assert shown.startswith("<Pipeline summarization with <LanguageModel tiny: ")
    assert "600 tokens of context, for text-generation" in shown
    with edgelm.load_encoder(encoder(tmp_path / "v", "feature-extraction"), **SETTINGS) as model:
        assert repr(model).startswith("<EncoderModel tiny-encoder: ")
