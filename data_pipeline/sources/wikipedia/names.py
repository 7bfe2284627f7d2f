"""Localized MediaWiki names (namespaces, redirects, disambiguation) in the paper's 20 languages.

Namespaces, redirects: MediaWiki's localization (languages/messages/Messages*.php), with older names
that it still accepts. Disambiguation: the templates by which each Wikipedia marks such pages, and
the words in brackets in their titles. Names are in lower case with spaces for underscores. No name
has different meanings in different languages, so that the sets are used for all languages.
"""

from __future__ import annotations

import re

from data_pipeline.text.decoding import name_set, word_set

FILE_NAMESPACES = word_set(
    """
    file image файл картинка fitxer imatge soubor fil billede datei bild archivo imagen fichier
    datoteka slika fájl kép immagine bestand afbeelding plik grafika ficheiro imagem arquivo
    fișier fişier imagine изображение датотека слика зображення
    """
)

CATEGORY_NAMESPACES = word_set(
    """
    category категория categoria kategorie kategori categoría catégorie categorie kategorija
    kategória kategoria категорија категорія
    """
)

_REDIRECT_WORDS = (
    "redirect|пренасочване|виж|redirecció|redireccio|přesměruj|omdirigering|weiterleitung"
    "|redirección|redireccion|redirection|preusmjeri|átirányítás|rinvia|rinvio|doorverwijzing"
    "|patrz|przekieruj|tam|redirecionamento|redirecteaza|перенаправление|перенапр|preusmeritev"
    "|преусмери|preusmeri|перенаправлення"
)
_REDIRECT = re.compile(rf"\s*#(?:{_REDIRECT_WORDS})\s{{0,9}}:?\s{{0,9}}\[\[", re.IGNORECASE)

DISAMBIGUATION_TEMPLATES = name_set(
    """
    disambiguation, disambig, disamb, dab, disambiguation page, disambig page,
    disambiguation cleanup, disambig-cleanup, disambig cleanup, geodis, geodab, hndis,
    hndis-cleanup, hndab, numberdis, human name disambiguation, place name disambiguation,
    airport disambiguation, airport disambig, biology disambiguation, call sign disambiguation,
    callsigndis, caselaw disambiguation, chinese title disambiguation, church disambiguation,
    county disambiguation, genus disambiguation, hospital disambiguation, hospitaldis,
    letter disambiguation, letter-number combination disambiguation, letter-numbercombdisambig,
    mathematical disambiguation, mathdab, military unit disambiguation, mil-unit-dis,
    molecular formula disambiguation, molformdisambig, music disambiguation,
    opus number disambiguation, phonetics disambiguation, road disambiguation, roaddis,
    school disambiguation, schooldis, species latin name disambiguation,
    species latin name abbreviation disambiguation, station disambiguation,
    synagogue disambiguation, taxonomy disambiguation, taxonomic authority disambiguation,
    technical reasons disambiguation, title and name disambiguation, пояснителна страница,
    desambiguació, desambigua, desambiguacio, disambigua, desambig,
    rozcestník, rozcestnik, flertydig, flertydigt navn, flertydig stednavn, begriffsklärung,
    begriffsklaerung, bkl, desambiguación, desambiguacion, des, desamb, homonymie, homonyme,
    homonymes, paronymie, patronyme, patronymie, toponyme, toponymie, razdvojba,
    razdvojbena stranica, egyért, egyértelműsítő lap, egyértelműsítő, dp,
    doorverwijspagina, ujednoznacznienie, strona ujednoznaczniająca, desambiguação, desambiguacao,
    dezambiguizare, dez, неоднозначность, многозначность, однофамильцы, список однофамильцев,
    полные тёзки, тёзки-однофамильцы, список населённых пунктов, razločitev, razlocitev,
    вишезначна одредница, višeznačna odrednica, вишезначна, višeznačna, чвор, čvor, förgrening,
    förgreningssida, gren, grensida, namnförgrening, ortnamnsförgrening, trebokstavsförgrening,
    robotskapad förgrening, багатозначність, неоднозначність, багатозначні терміни, disambigg
    """
)

_DISAMBIGUATION_PATTERN = re.compile(
    # Families of templates with variable endings: "rozcestník - příjmení", "homonymie de
    # personnes", "personnes homonymes", "desambiguación de personas".
    r"rozcestník\b.{1,40}|homonymie de .{1,40}|(?!voir |autres )\w[\w -]{1,40} homonymes"
    r"|desambiguación de .{1,40}|неоднозначность .{1,40}"
)

_TITLE_WORDS = (
    "disambiguation|пояснение|desambiguació|rozcestník|flertydig|begriffsklärung|desambiguación"
    "|homonymie|razdvojba|egyértelműsítő lap|disambigua|doorverwijspagina|ujednoznacznienie"
    "|desambiguação|dezambiguizare|значения|razločitev|вишезначна одредница|višeznačna odrednica"
    "|olika betydelser|значення"
)
_DISAMBIGUATION_TITLE = re.compile(rf"\((?:{_TITLE_WORDS})\)\s*$", re.IGNORECASE)
_TEMPLATE_NAME = re.compile(r"\{\{\s{0,9}([^{}|<>\[\]\n]{1,80})(?=[|}\n<])")

WIKIPEDIA_CODES = word_set(
    """
    aa ab ace ady af ak als alt am ami an ang ann anp ar arc ary arz as ast atj av avk awa ay az
    azb ba ban bar bat-smg bbc bcl bdr be be-tarask be-x-old bew bg bh bi bjn blk bm bn bo bpy br
    bs btm bug bxr ca cbk-zam cdo ce ceb ch cho chr chy ckb co cr crh cs csb cu cv cy cz da dag de
    dga din diq dk dsb dtp dty dv dz ee el eml en eo es et eu ext fa fat ff fi fiu-vro fj fo fon
    fr frp frr fur fy ga gag gan gcr gd gl glk gn gom gor got gpe gsw gu guc gur guw gv ha hak haw
    he hi hif ho hr hsb ht hu hy hyw hz ia iba id ie ig igl ii ik ilo inh io is it iu ja jam jbo
    jp jv ka kaa kab kbd kbp kcg kg kge ki kj kk kl km kn knc ko koi kr krc ks ksh ku kus kv kw ky
    la lad lb lbe lez lfn lg li lij lld lmo ln lo lrc lt ltg lv lzh mad mai map-bms mdf mg mh mhr
    mi min mk ml mn mni mnw mo mos mr mrj ms mt mus mwl my myv mzn na nah nan nap nb nds nds-nl ne
    new ng nia nl nn no nostalgia nov nqo nr nrm nso nv ny oc olo om or os pa pag pam pap pcd pcm
    pdc pfl pi pih pl pms pnb pnt ps pt pwn qu rm rmy rn ro roa-rup roa-tara rsk ru rue rup rw sa
    sah sat sc scn sco sd se sg sgs sh shi shn shy si simple sk skr sl sm smn sn so sq sr srn ss
    st stq su sv sw syl szl szy ta tay tcy tdd te tet tg th ti tig tk tl tly tn to tpi tr trv ts
    tt tum tw ty tyv udm ug uk ur uz ve vec vep vi vls vo vro wa war wo wuu xal xh xmf yi yo yue
    za zea zgh zh zh-cfr zh-classical zh-cn zh-min-nan zh-tw zh-yue zu
    """
)
"""Prefixes of interlanguage links."""

PROJECT_PREFIXES = word_set(
    """
    w wikipedia wikt wiktionary b wikibooks q wikiquote s wikisource n wikinews v wikiversity voy
    wikivoyage d wikidata c commons species wikispecies m meta mw mediawikiwiki f foundation
    metawikipedia wmf doi arxiv imdbtitle rfc
    """
)
"""Prefixes of interwiki links to other projects."""


def is_redirect(wikitext: str) -> bool:
    """Whether a page is a redirect, by its wikitext; old dumps have no other mark."""
    return _REDIRECT.match(wikitext) is not None


def is_disambiguation(title: str | None, wikitext: str) -> bool:
    """Whether a page is a disambiguation page: by its templates, its magic word or the words in
    brackets in its title. Hatnotes of an article that point to such a page ("for other uses,
    see ...") do not count.
    """
    if title is not None and _DISAMBIGUATION_TITLE.search(title):
        return True
    if "__DISAMBIG__" in wikitext:
        return True
    names = (
        match[1].strip().replace("_", " ").lower() for match in _TEMPLATE_NAME.finditer(wikitext)
    )
    return any(
        name in DISAMBIGUATION_TEMPLATES or _DISAMBIGUATION_PATTERN.fullmatch(name)
        for name in names
    )
