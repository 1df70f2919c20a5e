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
from edgelm.text.language_codes import LANGUAGE_NAMES, base_language, codes_of
from edgelm.text.tokenizer import Tokenizer
from edgelm_tools.export import export

NLLB = ["eng_Latn", "por_Latn", "zho_Hans", "zho_Hant", "srp_Cyrl", "arb_Arab"]
M2M = ["__en__", "__pt__", "__zh__"]
MBART25 = ["en_XX", "ro_RO", "zh_CN"]
MBART50 = [*MBART25, "pt_XX"]
# All of the models' own, from transformers' tokenizers of M2M100 and mBART-50.
_M2M100 = """
af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd gl gu ha he hi hr ht hu hy id ig
ilo is it ja jv ka kk km kn ko lb lg ln lo lt lv mg mk ml mn mr ms my ne nl no ns oc or pa pl ps pt ro ru sd si sk sl
so sq sr ss su sv sw ta th tl tn tr uk ur uz vi wo xh yi yo zh zu
"""
_MBART_50 = """
ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV my_MM ne_NP nl_XX ro_RO
ru_RU si_LK tr_TR vi_VN zh_CN af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF
pt_XX sv_SE sw_KE ta_IN te_IN th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI
"""
# Of NLLB's 202, those that have a code of two letters here, and some that have none.
_NLLB_LARGE = """
afr_Latn als_Latn amh_Ethi arb_Arab arz_Arab azj_Latn bel_Cyrl ben_Beng bos_Latn bul_Cyrl cat_Latn ceb_Latn ces_Latn
cym_Latn dan_Latn deu_Latn ell_Grek eng_Latn epo_Latn est_Latn eus_Latn fin_Latn fra_Latn gle_Latn glg_Latn guj_Gujr
heb_Hebr hin_Deva hrv_Latn hun_Latn hye_Armn ilo_Latn ind_Latn isl_Latn ita_Latn jpn_Jpan kan_Knda kat_Geor kaz_Cyrl
khk_Cyrl khm_Khmr kor_Hang lit_Latn lvs_Latn mal_Mlym mar_Deva mkd_Cyrl mlt_Latn mya_Mymr nld_Latn nno_Latn nob_Latn
npi_Deva pan_Guru pes_Arab pol_Latn por_Latn ron_Latn rus_Cyrl sin_Sinh slk_Latn slv_Latn spa_Latn srp_Cyrl swe_Latn
swh_Latn tam_Taml tel_Telu tgl_Latn tha_Thai tur_Latn ukr_Cyrl urd_Arab uzn_Latn vie_Latn yue_Hant zho_Hans zho_Hant
zsm_Latn zul_Latn
"""
M2M100, MBART_50, NLLB_LARGE = _M2M100.split(), _MBART_50.split(), _NLLB_LARGE.split()
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


@pytest.mark.parametrize(
    ("known", "tokens"),
    [(M2M100, [f"__{code}__" for code in M2M100]), ([name[:2] for name in MBART_50], MBART_50)],
    ids=["m2m100", "mbart-50"],
)
def test_every_language_is_found_by_its_code_and_its_models_name_for_it(known: list[str], tokens: list[str]) -> None:
    assert len(tokens) in (100, 52)
    for code, token in zip(known, tokens, strict=True):
        assert language_token(code, tokens) == language_token(token, tokens) == token
        if code in LANGUAGE_NAMES:
            assert language_token(LANGUAGE_NAMES[code], tokens) == token


def test_every_language_of_the_table_is_found_in_nllb() -> None:
    found = {code: language_token(code, NLLB_LARGE) for code in LANGUAGE_NAMES}
    assert len(set(found.values())) == len(LANGUAGE_NAMES)
    assert {code: found[code] for code in ("ar", "nb", "nn", "zh")} == {
        "ar": "arb_Arab",
        "nb": "nob_Latn",
        "nn": "nno_Latn",
        "zh": "zho_Hans",
    }
    for code, token in found.items():
        assert token in (language_token(LANGUAGE_NAMES[code].upper(), NLLB_LARGE), "zho_Hans")
    for token in NLLB_LARGE:
        assert language_token(token, NLLB_LARGE) == token


@pytest.mark.parametrize("name", ["no", "nb", "NO", "nb-NO", "nob", "nob_Latn", "Norwegian", "norwegian bokmål"])
def test_norwegian_has_one_code_or_another(bundle: Bundle, name: str) -> None:
    assert language_token(name, [f"__{code}__" for code in M2M100]) == "__no__"
    assert language_token(name, NLLB_LARGE) == "nob_Latn"
    assert base_language(name) == "nb"
    for piece in (">>no<<", ">>nb<<", ">>nob<<"):
        assert plan(bundle, "marian", [], "en", name, pieces=(piece,)).prompt == f"{piece} "


def test_where_a_model_has_both_codes_of_a_language_the_given_one_is_taken() -> None:
    for code in ("no", "nb"):
        assert language_token(code, ["__nb__", "__no__", "__en__"]) == f"__{code}__"


def test_codes_of_two_letters_and_of_three_are_of_the_same_languages() -> None:
    for code in LANGUAGE_NAMES:
        assert codes_of(code)[0] == code
        three = codes_of(code)[1]
        assert len(three) == 3
        assert base_language(three) == code
        assert codes_of(three)[:2] == (three, code)
    assert codes_of("cmn") == ("cmn", "zh", "zho", "chi")
    assert codes_of("xyz_Latn") == ("xyz",)
    assert len(LANGUAGE_NAMES) > 70
