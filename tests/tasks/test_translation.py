from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.marian_files import write_bergamot

import edgelm
from edgelm.bundle.manifest import Source
from edgelm.errors import ConfigError, PromptError
from edgelm.tasks.pipelines import pipeline
from edgelm.tasks.translation import Segment, Translator, rejoined
from edgelm.text.sentences import split_sentences
from edgelm_tools.export import export


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[edgelm.LanguageModel]:
    folder = tmp_path_factory.mktemp("bergamot")
    source = write_bergamot(folder / "checkpoint")
    export(source, folder / "tiny", name="tiny", origin=Source("test"), scheme="fp32", report=False)
    with edgelm.load(folder / "tiny", prepack=False) as loaded:
        yield loaded


@pytest.fixture
def translator(lm: edgelm.LanguageModel) -> Translator:
    return Translator(lm, max_new_tokens=8)


def answer(lm: edgelm.LanguageModel, sentence: str) -> str:
    return lm.generate(sentence, max_new_tokens=8).text.strip()


def test_sentences_are_translated_one_by_one_and_what_is_between_them_stays(
    lm: edgelm.LanguageModel, translator: Translator
) -> None:
    text = "  The cat sat.  He sat!\n\n\t- the mat\r\n---\n 12.5 % \n"
    made = translator.translate(text)
    parts = [answer(lm, sentence) for sentence in ("The cat sat.", "He sat!", "- the mat")]
    assert made.text == f"  {parts[0]}  {parts[1]}\n\n\t{parts[2]}\r\n---\n 12.5 % \n"
    assert (made.source, made.target, made.sentences) == ("en", "pt", 3)
    assert made.prompt_tokens == sum(len(lm.tokenizer.encode(s)) for s in ("The cat sat.", "He sat!", "- the mat"))


def test_several_texts_are_each_what_they_are_alone(translator: Translator) -> None:
    texts = ["The cat sat. He sat on a mat.", "", "\n \n", "He sat on a mat. The cat sat.", "a"]
    assert translator.translate_batch(texts) == [translator.translate(text) for text in texts]
    assert translator.translate_batch([]) == []


def test_a_sentence_above_the_models_limit_is_cut_between_clauses_and_none_is_lost(
    lm: edgelm.LanguageModel, translator: Translator
) -> None:
    limit = lm.bundle.manifest.source_length
    assert limit is not None
    clause = "the cat sat on a mat with a hat, "
    made = translator.translate(clause * 40 + "the end.")
    assert made.sentences > 1
    segments = translator._segments(clause * 40 + "the end.")
    assert "".join(s.before + s.text + s.after for s in segments) == clause * 40 + "the end."
    assert all(len(lm.tokenizer.encode(s.text)) <= limit for s in segments)
    assert all(s.text.endswith((",", ".")) for s in segments)


@given(st.text(st.sampled_from("aB .!?\n\t\r,;\"'。「」é\u00a0") | st.characters(), max_size=60))
def test_an_untranslated_text_is_put_together_as_it_was(text: str) -> None:
    segments = []
    for piece in split_sentences(text):
        core = piece.strip()
        start = len(piece) - len(piece.lstrip())
        segments.append(Segment(piece[:start], core, piece[start + len(core) :]))
    assert rejoined(segments, [segment.text for segment in segments]) == text


def test_sentences_without_spaces_between_them_get_some() -> None:
    segments = [Segment("", "你好。", ""), Segment("", "再见。", "\n"), Segment("", "好。", "")]
    assert rejoined(segments, ["Hi.", "Bye.", "Fine."]) == "Hi. Bye.\nFine."
    assert rejoined(segments, ["Hi.", "Bye.", "Fine."], spaced=False) == "Hi.Bye.\nFine."


def test_what_ended_at_the_limit_is_told(lm: edgelm.LanguageModel) -> None:
    made = Translator(lm, max_new_tokens=1).translate("The cat sat.")
    assert made.incomplete == 1
    assert made.as_dict()["usage"]["completion_tokens"] == 1


def test_a_short_sentence_may_have_a_long_translation(lm: edgelm.LanguageModel) -> None:
    config = edgelm.GenerationConfig(min_new_tokens=40)
    for settings in ({"min_new_tokens": 40}, {"min_length": 41}, {"generation_config": config}):
        assert Translator(lm, **settings).translate("a").completion_tokens == 40
    most = lm.context_length - 1
    assert Translator(lm, min_new_tokens=most).translate("a").completion_tokens == most
    with pytest.raises(ConfigError, match=rf"min_new_tokens \({most + 1}\) is above max_new_tokens \({most}\)"):
        Translator(lm, min_new_tokens=most + 1).translate("a")
    with pytest.raises(ConfigError, match="generation_config must be a GenerationConfig, not dict"):
        Translator(lm, generation_config={"min_new_tokens": 40}).translate("a")


def test_other_languages_than_the_models_are_refused(lm: edgelm.LanguageModel) -> None:
    Translator(lm, source="en-GB", target="pt-BR")
    with pytest.raises(ConfigError, match="tiny translates from en, not from de"):
        Translator(lm, source="de")
    with pytest.raises(ConfigError, match="tiny translates to pt, not to de"):
        Translator(lm, target="de")


def test_the_pipeline(lm: edgelm.LanguageModel) -> None:
    text = "The cat sat.\nHe sat!"
    expected = Translator(lm, max_new_tokens=8).translate(text).text
    for task in ("translation", "translation_en_to_pt"):
        translate = pipeline(task, lm)
        assert translate(text, max_new_tokens=8) == [{"translation_text": expected}]
        assert translate([text, ""], max_new_tokens=8) == [{"translation_text": expected}, {"translation_text": ""}]
    with pytest.raises(ConfigError, match="not to fr"):
        pipeline("translation_en_to_fr", lm)(text)
    with pytest.raises(PromptError, match="must be a text, not int"):
        pipeline("translation", lm)([3])
    with pytest.raises(PromptError, match="list is empty"):
        pipeline("translation", lm)([])
    for bad in (None, {"a": "b"}, b"x"):
        for task in ("translation", "text2text-generation"):
            with pytest.raises(PromptError, match="must be a text or a list of texts, not"):
                pipeline(task, lm)(bad)
    for settings in ({"source": "en"}, {"progress": None}, {"beams": 2}):
        with pytest.raises(ConfigError, match="translation has no setting"):
            pipeline("translation", lm)("a", **settings)
    for bad_size in (0, True, 1.5):
        with pytest.raises(ConfigError, match="batch_size must be"):
            pipeline("translation", lm)("a", batch_size=bad_size)
    with pytest.raises(ConfigError, match="num_return_sequences must be 1 for a translation, not 2"):
        pipeline("translation", lm)("a", num_beams=2, num_return_sequences=2)


def test_several_answers(lm: edgelm.LanguageModel) -> None:
    settings = {"max_new_tokens": 6, "num_beams": 3, "num_return_sequences": 2}
    answer = pipeline("text2text-generation", lm)
    one = answer("The cat sat.", **settings)
    assert [list(record) for record in one] == [["generated_text"]] * 2
    assert answer(["The cat sat.", "He sat!"], **settings)[0] == one
    assert (
        answer(["The cat sat."], max_new_tokens=6)[0]["generated_text"]
        == answer("The cat sat.", max_new_tokens=6)[0]["generated_text"]
    )


def test_settings_of_the_generation_are_taken(lm: edgelm.LanguageModel) -> None:
    assert Translator(lm, max_new_tokens=8, num_beams=2).translate("The cat sat.").sentences == 1
    with pytest.raises(ConfigError, match="unknown"):
        Translator(lm, beams=2).translate("The cat sat.")
