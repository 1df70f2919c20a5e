"""Words that end with a full stop that need not end a sentence, by language (ISO 639-1).

Lower case, without the last full stop. Collected for this project from ordinary usage.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Abbreviations:
    """The abbreviations of one language.

    Attributes:
        before_words: what a name or another word follows: no sentence ends there.
        before_numbers: no sentence ends there if a number follows.
        ordinals: whether a number with a full stop is an ordinal, as in ``3. Oktober``.
    """

    before_words: frozenset[str]
    before_numbers: frozenset[str]
    ordinals: bool = False


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_EVERYWHERE = _words("dr prof st mr mrs ms vs cf ibid op.cit")
_NUMBERED_EVERYWHERE = _words("no nos nr vol fig p pp art cap ca c approx vers")

# Language → (before words, before numbers, ordinals).
_LISTS: dict[str, tuple[str, str, bool]] = {
    "en": (
        "messrs mx rev hon gen col capt cmdr lt sgt maj adm gov sen rep pres supt insp mt ft e.g i.e viz esp incl "
        "a.k.a",
        "sec ch eq ex jan feb mar apr jun jul aug sep sept oct nov dec tel ext para",
        False,
    ),
    "de": (
        "hr fr frl dipl ing dipl.-ing med phil jur z.b d.h u.a u.u o.ä v.a i.d.r m.e bzw ggf evtl bspw sog vgl inkl "
        "exkl zzgl abzgl ggü geb verh str usf insb tel hrsg",
        "abs abb anm aufl bd kap s st ziff §",
        True,
    ),
    "fr": (
        "m mm mme mmes mlle mlles me mgr pr c.-à-d p.ex ex ste av bd env",
        "n° chap tél t",
        False,
    ),
    "es": (
        "sr sra srta sres dra d dña lic ing arq p.ej ej ud uds vd vds ee.uu av avda gral cía ntra",
        "núm n° tel pág págs cap tfno",
        False,
    ),
    "pt": (
        "sr sra srta srs sras dra d exmo exma eng arq p.ex ex av r pe cel ten gen sto sta v.exa",
        "núm n° nº tel pág págs cap",
        False,
    ),
    "it": (
        "sig sigg sig.ra dott dott.ssa prof.ssa ing avv arch geom on rag p.es es ecc.za s.s v.le p.zza",
        "n° tel pag pagg cap",
        False,
    ),
    "nl": (
        "dhr mevr mw drs ir ing mr jhr bijv b.v bv d.w.z m.b.t o.a i.v.m t.o.v z.g zgn resp incl excl blz",
        "nr tel blz hfst",
        False,
    ),
    "pl": ("p dr hab inż mgr prof ks gen np tzn tj m.in ul al pl św tzw wg im", "nr s str r tel poz ust", True),
    "cs": ("p pí sl ing mgr mudr judr phdr rndr doc např tzv tj tzn ul nám sv mj", "č čís str s tel odst", True),
    "sk": ("p sl ing mgr mudr judr doc napr tzv tj t.j ul nám sv", "č str s tel", True),
    "da": ("hr fr fru bl.a f.eks dvs mht ca kgl skt ang iflg inkl", "nr s kap tlf", True),
    "nb": ("hr fr bl.a f.eks dvs mht ca kgl st ang ifølge inkl", "nr s kap tlf", True),
    "sv": ("hr fr bl.a t.ex d.v.s dvs m.a.o s.k p.g.a f.d ang inkl exkl kungl", "nr s kap tel", False),
    "fi": ("hra rva tri prof esim mm ns ks toim synt", "s nro puh", True),
    "hu": ("dr id ifj özv prof pl ill ún vö kb", "sz old tel", True),
    "ro": ("dl d-na dna dra ing prof acad ex de.ex str bd", "nr pag cap tel art", False),
    "ru": ("г гг ул пр просп им проф акад др т.е т.д т.п т.к напр см ср", "стр рис табл гл с п", False),
    "uk": ("м вул просп ім проф акад т.д т.п напр див", "с стор рис табл п", False),
    "bg": ("г гр ул бул проф акад т.е т.н напр вж", "стр фиг гл", False),
    "hr": ("g gđa gdin dr mr prof npr tj tzv ul sv", "br str čl", True),
    "sl": ("g ga gdč dr mag prof npr tj t.i ul sv oz", "št str čl", True),
    "et": ("hr pr prl dr prof nt st s.t v.a tn", "nr lk", True),
    "lv": ("prof dr piem t.i t.s iela", "nr lpp", True),
    "lt": ("p prof dr pvz t.y g pr", "nr psl", True),
    "el": ("κ κα δρ καθ π.χ δηλ λεωφ οδ αγ", "αρ σελ τηλ", False),
    "tr": ("sn dr prof doç av örn vb bkz", "no s", True),
    "ca": ("sr sra srta dra p.ex av pl", "núm pàg tel", False),
}
_SAME_AS = {"no": "nb", "nn": "nb", "bs": "hr", "sr": "hr", "gl": "pt"}

ENGLISH = "en"
LANGUAGES = tuple(sorted({*_LISTS, *_SAME_AS}))


def abbreviations(language: str | None) -> Abbreviations:
    """Those of a language; of one that is not known, and of None, the English ones."""
    code = _SAME_AS.get(language or ENGLISH, language or ENGLISH)
    before_words, before_numbers, ordinals = _LISTS.get(code, _LISTS[ENGLISH])
    return Abbreviations(
        _EVERYWHERE | _words(before_words), _NUMBERED_EVERYWHERE | _words(before_numbers), ordinals=ordinals
    )
