"""Codes of languages: of two letters (ISO 639-1), of three (ISO 639-3, as NLLB has them), and their English names."""

from __future__ import annotations

import re

# Two letters, three letters, name.
_TABLE = """
af afr Afrikaans; am amh Amharic; ar arb Arabic; az azj Azerbaijani; be bel Belarusian; bg bul Bulgarian;
bn ben Bengali; bs bos Bosnian; ca cat Catalan; cs ces Czech; cy cym Welsh; da dan Danish; de deu German;
el ell Greek; en eng English; eo epo Esperanto; es spa Spanish; et est Estonian; eu eus Basque; fa pes Persian;
fi fin Finnish; fr fra French; ga gle Irish; gl glg Galician; gu guj Gujarati; he heb Hebrew; hi hin Hindi;
hr hrv Croatian; hu hun Hungarian; hy hye Armenian; id ind Indonesian; is isl Icelandic; it ita Italian;
ja jpn Japanese; ka kat Georgian; kk kaz Kazakh; km khm Khmer; kn kan Kannada; ko kor Korean; lt lit Lithuanian;
lv lvs Latvian; mk mkd Macedonian; ml mal Malayalam; mn khk Mongolian; mr mar Marathi; ms zsm Malay; mt mlt Maltese;
my mya Burmese; nb nob Norwegian; ne npi Nepali; nl nld Dutch; nn nno Nynorsk; pa pan Punjabi; pl pol Polish;
pt por Portuguese; ro ron Romanian; ru rus Russian; si sin Sinhala; sk slk Slovak; sl slv Slovenian; sq als Albanian;
sr srp Serbian; sv swe Swedish; sw swh Swahili; ta tam Tamil; te tel Telugu; th tha Thai; tl tgl Tagalog;
tr tur Turkish; uk ukr Ukrainian; ur urd Urdu; uz uzn Uzbek; vi vie Vietnamese; zh zho Chinese; zu zul Zulu
"""
_ROWS = [row.split() for row in _TABLE.split(";")]
_THREE_OF = {two: three for two, three, _ in _ROWS}
_TWO_OF = {three: two for two, three in _THREE_OF.items()}
LANGUAGE_NAMES = {two: name for two, _, name in _ROWS}
_SAME_AS = {"no": "nb", "iw": "he", "in": "id", "ger": "de", "fre": "fr", "dut": "nl", "chi": "zh", "cmn": "zh"}
_CODE_OF_NAME = {name.casefold(): two for two, name in LANGUAGE_NAMES.items()}
_CODE_OF_NAME |= {"norwegian bokmål": "nb", "norwegian nynorsk": "nn"}


def base_language(code: str | None) -> str | None:
    """The language of a code or name without script and region: ``pt`` of ``pt-BR``, ``por_Latn``, ``Portuguese``."""
    if code is None:
        return None
    base = own_code(code)
    base = _TWO_OF.get(base, base)
    return _SAME_AS.get(base, base)


def own_code(code: str) -> str:
    """A code without its script and region, of as many letters as it has; a name's is of two."""
    named = _CODE_OF_NAME.get(code.strip().casefold())
    return named or re.split(r"[-_]", code.strip().strip("_").lower(), maxsplit=1)[0]


def codes_of(code: str) -> tuple[str, ...]:
    """All codes of the same language, the one that was given first: models have one or the other."""
    base = base_language(code)
    others = (other for other, same in _SAME_AS.items() if same == base)
    codes = (own_code(code), base, _THREE_OF.get(base or ""), *others)
    return tuple(dict.fromkeys(code for code in codes if code))
