from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import tokenizers
from support.marian_files import write_bergamot

from edgelm.bundle.bundle import Bundle, open_bundle
from edgelm.bundle.manifest import Source
from edgelm.errors import ConfigError
from edgelm.tasks.languages import LanguagePlan, language_plan, language_token
from edgelm.text.language_codes import LANGUAGE_NAMES, base_language, three_letters
from edgelm.text.tokenizer import Tokenizer
from edgelm_tools.export import export

NLLB = ["eng_Latn", "por_Latn", "zho_Hans", "zho_Hant", "srp_Cyrl", "arb_Arab"]
M2M = ["__en__", "__pt__", "__zh__"]
MBART25 = ["en_XX", "ro_RO", "zh_CN"]
MBART50 = [*MBART25, "pt_XX"]
END = 0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bergamot")
    export(write_bergamot(folder / "c"), folder / "b", name="x", origin=Source("test"), scheme="fp32", report=False)
    return open_bundle(folder / "b")


def plan(
    bundle: Bundle,
    architecture: str,
    special: list[str],
    source: str | None,
    target: str | None,
    *,
    pieces: tuple[str, ...] = (),
    uri: str = "local:x",
    config: dict[str, Any] | None = None,
) -> LanguagePlan:
    """The plan for a bundle that says it is of another architecture, with another tokenizer."""
    (bundle.folder / "config.json").write_text(json.dumps(config or {}))
    manifest = dataclasses.replace(bundle.manifest, architecture=architecture, source=Source(uri))
    words = {word: index for index, word in enumerate(["</s>", "<unk>", *pieces])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    backend.add_special_tokens(["</s>", *special])
    return language_plan(dataclasses.replace(bundle, manifest=manifest), Tokenizer(backend), source, target)


def test_nllb(bundle: Bundle) -> None:
    for source, target in (("en", "pt"), ("eng_Latn", "por_Latn"), ("en-GB", "pt-BR")):
        made = plan(bundle, "m2m_100", NLLB, source, target)
        assert made.around == ((2,), (END,))
        assert made.settings == {"forced_bos_token_id": 3}
    assert plan(bundle, "m2m_100", NLLB, "zho_Hant", "sr").around == ((5,), (END,))


def test_m2m(bundle: Bundle) -> None:
    made = plan(bundle, "m2m_100", M2M, "en", "zh-CN")
    assert (made.around, made.settings) == (((2,), (END,)), {"forced_bos_token_id": 4})


def test_mbart(bundle: Bundle) -> None:
    made = plan(bundle, "mbart", MBART25, "en", "ro")
    assert (made.around, made.settings) == (((), (END, 2)), {"decoder_start_token_id": 3})
    made = plan(bundle, "mbart", MBART50, "en", "pt")
    assert (made.around, made.settings) == (((2,), (END,)), {"forced_bos_token_id": 5})


def test_t5(bundle: Bundle) -> None:
    assert plan(bundle, "t5", [], "en", "de").prompt == "translate English to German: "
    assert plan(bundle, "t5", [], None, "fr").prompt == "translate English to French: "
    config = {"task_specific_params": {"translation_en_to_de": {"prefix": "to German: "}}}
    assert plan(bundle, "t5", [], "en", "de", config=config).prompt == "to German: "
    with pytest.raises(ConfigError, match="must be told"):
        plan(bundle, "t5", [], "en", None)
    with pytest.raises(ConfigError, match="does not know the language 'xx'"):
        plan(bundle, "t5", [], "en", "xx")


def test_marian(bundle: Bundle) -> None:
    several = plan(bundle, "marian", [], "en", "pt", pieces=(">>por<<", ">>fr<<"))
    assert (several.prompt, several.around) == (">>por<< ", None)
    one = plan(bundle, "marian", [], None, None, uri="hf:Helsinki-NLP/opus-mt-en-de")
    assert (one.source, one.target, one.prompt) == ("en", "de", "")
    with pytest.raises(ConfigError, match="translates to de, not to fr"):
        plan(bundle, "marian", [], "en", "fr", uri="hf:Helsinki-NLP/opus-mt-en-de")


@pytest.mark.parametrize(("source", "target"), [(None, "pt"), ("en", None)])
def test_models_of_many_languages_must_be_told(bundle: Bundle, source: str | None, target: str | None) -> None:
    with pytest.raises(ConfigError, match="say which to translate"):
        plan(bundle, "m2m_100", NLLB, source, target)


def test_unknown_languages_are_refused_with_near_ones() -> None:
    with pytest.raises(ConfigError, match=r"'poq_Latn'; near are: .*por_Latn"):
        language_token("poq_Latn", NLLB)


def test_codes_of_two_letters_and_of_three_are_of_the_same_languages() -> None:
    for code in LANGUAGE_NAMES:
        three = three_letters(code)
        assert three is not None
        assert base_language(three) == code
    assert len(LANGUAGE_NAMES) > 70
