"""Wikitext to text: one row per rule and edge case; nothing raises, nothing takes long."""

import random
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_pipeline.sources.wikipedia.names import is_disambiguation, is_redirect
from data_pipeline.sources.wikipedia.wikitext import MAX_DEPTH, WikitextError, to_text
from tests.support.nasty_wikipedia import MARKUP, nasty_wikitext

LINKS = [
    ("a [[b]] c", "a b c"),
    ("[[b|shown]]s", "showns"),
    ("[[b (x)|]]", "b (x)"),
    ("[[#Part]]", "Part"),
    ("[[a|b|c]]", "b|c"),
    ("[[:Category:Rivers]] and [[:de:Berlin|there]]", "Rivers and there"),
    ("[[wikt:word]] [[s:de:Werk]]", "word Werk"),
    ("x[[File:a.jpg|thumb|A [[b|caption]] {{convert|1|m}}]]y", "xy"),
    ("[[Datei:a.jpg|mini]][[Fichier:a|vignette]][[Файл:a|мини]][[Слика:a]]x", "x"),
    ("x [[Kategorie:A]][[Категория:A|B]][[Catégorie:A]][[ category : A]]", "x"),
    ("x\n[[de:Berlin]]\n[[be-x-old:Берлін]]", "x"),
    (
        "Re:Zero is [[Re:Zero]], [[2001: A Space Odyssey]]",
        "Re:Zero is Re:Zero, 2001: A Space Odyssey",
    ),
    ("[http://a.b/c the site] and [http://a.b]", "the site and"),
    ("[[http://a.b the site]]", "the site"),
    ("see https://a.b/c?d=e here, ftp://x", "see here,"),
    ("[//a.b c] [mailto:a@b mail] [not a link]", "c mail [not a link]"),
]
TEMPLATES = [
    (
        "1{{sfrac|1|4}} days, 3{{frac|1|2}}, 5{{1/2}}, a {{frac|1|2}}",
        "1 1/4 days, 3 1/2, 5 1/2, a 1/2",
    ),
    ("{{convert|4|ft|8+1/2|in|mm}}, {{convert|3//4|in}}", "4 ft 8 1/2 in, 3/4 in"),
    ("{{convert|5|+/-|1|in}}", "5 +/- 1 in"),
    (
        "named {{transl|ar|DIN|ʿAbd-Allāh}}, {{transliteration|ja|hepburn|Tōkyō}}",
        "named ʿAbd-Allāh, Tōkyō",
    ),
    ("({{IPA|fr|paʁi|lang}}), ({{IPA|[ə]}})", "(paʁi), ([ə])"),
    ("{{M|1,12|e=11|ul=m}}, {{M|5,2|0,1|ul=kg}}", "1,12×10^11 m, 5,2±0,1 kg"),
    ("{{val|1.00794|(7)}}, {{val|1.5|0.2|e=3|u=m}}", "1.00794(7), (1.5±0.2)×10^3 m"),
    ("{{val|300|u=km|up=s}}, {{val|5|p=~|s=%}}", "300 km/s, ~5%"),
    ("{{chem|Ca|2+}}, {{chem|SO|4|2-}}", "Ca^2+, SO4^2-"),
    ("{{siglo|V|a|s}}, en 52 {{av JC}}", "siglo V a. C., en 52 av. J.-C."),
    ("({{circa|460|370 BC}}), {{circa}} 1900", "(c. 460 – c. 370 BC), c. 1900"),
    ("{{fl.|1350|1380}}, {{floruit|1350}}", "fl. 1350–1380, fl. 1350"),
    ("{{As of|2021|March}}, {{As of|2009|alt=In 2009}}", "As of March 2021, In 2009"),
    ("{{as of|2009|since=y|lc=y}}", "since 2009"),
    ("le {{date|5|mai|1995|en musique}}, {{fecha|2|3|1950}}", "le 5 mai 1995, 1950-03-02"),
    ("{{OldStyleDate|February 2|1905|January 20}}", "February 2 [O.S. January 20] 1905"),
    ("Text.\n{{q|Due focolai|Autore}}\nPoi.", "Text.\nDue focolai\nPoi."),
    ("A\n{{columns-list|colwidth=20em|\n* a\n* b}}\nB", "A\n\n- a\n- b\n\nB"),
    ("{{cassetto|titolo=x|testo=Il testo.}}", "Il testo."),
    ("{{term|entropy}}\n{{defn|A measure.}}", "entropy\nA measure."),
    ("{{Infobox x\n| a = 1\n| b = {{c|d}}\n|}}\nText", "Text"),
    ("{{lang|de|Haus}} {{lang-fr|maison}} {{langue|en|house}}", "Haus maison house"),
    ("{{Lang|de|text=Haus}}", "Haus"),
    ("{{enS|house}}", "house"),
    ("about {{convert|5|km|mi|abbr=on}} away", "about 5 km away"),
    (
        "{{convert|5|to|10|km}}, {{cvt|6|ft|2|in|m}}, {{convert|1,200|m}}",
        "5 to 10 km, 6 ft 2 in, 1,200 m",
    ),
    ("{{unité|5|km}} {{formatnum:1234.5}} {{val|1.5|e=3|u=km}}", "5 km 1234.5 1.5×10^3 km"),
    ("{{nowrap|a {{lang|de|b}}}} {{small|c}}", "a b c"),
    ("{{frac|1|2}} {{frac|3|1|2}}", "1/2 3 1/2"),
    ("{{circa|1900}} {{US$|5}} 3{{e|8}}", "c. 1900 US$5 3×10^8"),
    ("a{{spaced ndash}}b{{'}}s{{nbsp}}c", "a – b's c"),
    (
        "{{XIXe siècle}} {{s|XIX|e}} {{date|2|janvier|1950}}",
        "XIXe siècle XIXe siècle 2 janvier 1950",
    ),
    ("{{birth date|1950|1|2}}", "1950-01-02"),
    ("{{ubl|a|b}}", "- a\n- b"),
    ("{{hlist|a|b}}", "a, b"),
    ("{{quote|text=Said.|author=X}} {{Zitat|Gesagt.}}", "Said. Gesagt."),
    ("{{nihongo|Tokyo|東京|Tōkyō}}", "Tokyo (東京, Tōkyō)"),
    ("{{chem|H|2|O}}", "H2O"),
    ("a {{plainlist|\n* one\n* two\n}}\nb", "a\n- one\n- two\n\nb"),
    ("{{convert|123|mi|0}}, {{convert|5|ft|6|in|m|2}}", "123 mi, 5 ft 6 in"),
    (
        "{{unité|12|km|2}}, {{unité|5|m||s|-1}}, {{nombre|12000|habitants}}",
        "12 km^2, 5 m·s^-1, 12000 habitants",
    ),
    ("{{s|1 км}} {{num|5}} {{iw|Бар|||en|Bar}} {{comment|дом|система}}", "1 км 5 Бар дом"),
    ("le XIX{{e}} s. et le 1{{er}}, {{1er|janvier}}", "le XIXe s. et le 1er, 1er janvier"),
    ("a {{citation|un mot}}{{refnec|dit}}{{citation|title=T|quote=Q}}", "a « un mot »dit"),
    ('{{"|Gut so|ref=<ref>x</ref>}} {{Zitat-en|Hello|Hallo}} {{§|1|bgb}}', "„Gut so“ Hello § 1"),
    ("({{ang.}} Foo, {{ang.|Bar}}, {{p.|12}})", "(ang. Foo, ang. Bar, p. 12)"),
    ("{{USS|Enterprise|CVN-65|6}}, {{ship|HMS|Victory|1765|6}}", "USS Enterprise, HMS Victory"),
    (
        "a {{sclass|Nimitz|aircraft carrier}} {{reign|1900|1910}}",
        "a Nimitz-class aircraft carrier r. 1900–1910",
    ),
    ("{{gaps|1|234|567}} {{angbr|a}} 1{{exp|er}} 10{{exp|3}}", "1234567 ⟨a⟩ 1er 10^3"),
    ("ein {{Höhe|340|DE-NN}} hoher Berg um {{heure|12|30}}", "ein 340 m hoher Berg um 12 h 30"),
    ("{{јез|en|bar}} {{јез-енг|baz}}", "bar baz"),
    (
        "{{Bio|Nome=Ada|Cognome=Rossi|Sesso=F|LuogoNascita=Roma|GiornoMeseNascita=1º maggio"
        "|AnnoNascita=1900|LuogoMorte=Pisa|AnnoMorte=1950|Attività=attrice|Attività2=cantante"
        "|Nazionalità=italiana}}",
        "Ada Rossi (Roma, 1º maggio 1900 – Pisa, 1950) è stata un'attrice e cantante italiana.",
    ),
    (
        "{{Bio\n|Nome = Ugo\n|Cognome = Bo\n|Sesso = M\n|AnnoNascita = 1990\n"
        "|Attività = scrittore\n|Nazionalità = svizzero\n"
        "|PostNazionalità = , noto per un libro\n}}",
        "Ugo Bo (1990) è uno scrittore svizzero, noto per un libro.",
    ),
    ("{{Bio|Nome=Eva|Sesso=F|FineIncipit=fu una donna}}", "Eva fu una donna."),
    ("Donau&shy;dampf\u00adschiff", "Donaudampfschiff"),
    ("{{unknown|text}}x{{#if:a|b}}", "x"),
    ("{{{parameter|default}}} {{{{{a}}}}}x", "default x"),
    ("{{main|Other}}\nText", "Text"),
]
TAGS = [
    ("a<ref>x [[y]]</ref>b<ref name=q />c<ref name='q'>{{cite}}</ref>", "abc"),
    ("a<REF>x</Ref>b", "ab"),
    ("a<ref>never closed b", "anever closed b"),
    ("a<!-- x -->b<!-- [[", "ab"),
    ("<math>x^{{2}}_{|y|}</math>", "$x^{ {2}}_{|y| }$"),
    ("<nowiki>[[a]] ''b''</nowiki>", "[[a]] ''b''"),
    (
        "x <syntaxhighlight lang=c>\nint a[[2]];\n  b; // ''\n</syntaxhighlight> y",
        "x\n\nint a[[2]];\n  b; // ''\n\n y",
    ),
    ("<pre>a  b &lt;c&gt;</pre>", "a  b <c>"),
    ("<b>a</b> <span style='x'>b</span> <big>c</big>", "a b c"),
    ("H<sub>2</sub>O, 10<sup>6</sup>, 1<sup>st</sup>", "H2O, 10^6, 1st"),
    ("#include <stdio.h> a < b > c", "1. include <stdio.h> a < b > c"),
    ("x<br/>y", "x\ny"),
    ("<gallery>\nFile:a.jpg|b\n</gallery>x<references/>", "x"),
    ("a<table><tr><td>b<table>c</table></td></tr></table>d", "ad"),
    ("x </ref> y <ref name=", "x y"),
]
LAYOUT = [
    ("== Head ==\ntext\n=== Sub ===\nmore", "Head\n\ntext\n\nSub\n\nmore"),
    ("a\n== References ==\n<references/>\n== Links ==\n* [http://a]\n", "a"),
    ("== A ==\n=== B ===\n== C ==\nc", "C\n\nc"),
    ("== A ==\n=== B ===\nb", "A\n\nB\n\nb"),
    ("* a\n** b\n*# c\n*# d\n# e\n#f\nx\n# g", "- a\n  - b\n  1. c\n  2. d\n1. e\n2. f\nx\n1. g"),
    ("; term\n: says\n:: this", "term\nsays\nthis"),
    ("* {{cite}}\n* \n* b", "- b"),
    ("* {{cite}}, a, b. C: d (e; f)", "- a, b. C: d (e; f)"),
    ("a\n----\nb", "a\n\nb"),
    ("{|class=x\n|-\n! a !! b\n| c || {{d|\n|}}\n|}\ntext", "text"),
    ("a\n:{|\n|x\n{|\n|y\n|}\n|}\nb", "a\n\nb"),
    ("{|\n| cell\n\nText after a table that never ends.", "Text after a table that never ends."),
    ("{{Infobox\n| a = 1\n| b = [[c]]\nText after.", "Text after."),
    ("[[File:a.jpg|thumb|caption [[b]\n\nText.", "Text."),
    ("'''Bold''' and ''italic'' and '''''both''''' it's", "Bold and italic and both it's"),
    ("__NOTOC__a__БЕЗ_ОГЛ__ snake__case__x", "a snake__case__x"),
    ("__FILE__ and __NOTOC__", "__FILE__ and"),
    ("the function <code>main()</code> calls printf()", "the function main() calls printf()"),
    ("Paris ({{unknown}}) is", "Paris is"),
    ("a&nbsp;b &lt;c&gt; &amp;amp;", "a b <c> &amp;"),
    ("Text ({{IPA-x}}; {{lang-xx}}) more ( , b; ) , c .", "Text more (b), c."),
    ("A ({{x}}), B [ ] , ; c", "A, B ; c"),
    ("-{Berlin}- -{sr-ec:ж; sr-el:b}- x-{y", "Berlin ж x-{y"),
    ("a\n\n\n\n\nb  c ", "a\n\nb c"),
    (":|x| < 1", "|x| < 1"),
]  # fmt: skip
APOSTROPHES = [
    # Italic, bold, both.
    ("a ''b'' '''c''' '''''d''''' e", "a b c d e"),
    # Of four one is an apostrophe, of more those beyond five.
    ("L''''Aida'''' fu", "L'Aida' fu"),
    ("d''''''Opera''''' e", "d'Opera e"),
    ("a '''''''''' b", "a b"),
    # An odd number of both: one of three is an apostrophe.
    ("dell'''anime'' moderna", "dell'anime moderna"),
    ("''[[Grey Owl]]'''s nest", "Grey Owl's nest"),
    ("''the Swift'''s mast, ''the Tern'' and '''b'''", "the Swift's mast, the Tern and b"),
    ("a ''b''. All'''Est'' c", "a b. All'Est c"),
    # The first after a word of one letter, else after a longer one, else after a space.
    ("x '''a''' di '''b'' l'''c'' dell'''d''", "x a di b l'c delld"),
    ("x '''a ''b di'''c e'''ff", "x a b dic e'ff"),
    ("'''''x''''' y '''''z", "x y z"),
    # Lines are balanced each for itself, and so are the words of links.
    ("''a'''s b\n'''c'' d", "a's b\n'c d"),
    ("* dell'''a''\n* ''b'''s", "- dell'a\n- b's"),
    ("[[a|''b'']]s and [[c|dell'''d'']] '''e'''", "bs and dell'd e"),
    # A tag or a template between them separates them.
    ("''Atlas''<nowiki/>'s and ''b''<nowiki></nowiki>'s", "Atlas's and b's"),
    ("''Atlas''<span></span>'s, ''b''<small>'s</small> c", "Atlas's, b's c"),
    ("''Atlas''<b></b><i></i>'s", "Atlas's"),
    ("un'{{'}}''ode'' l{{'}}'''eco''' d{{'}}[[x|''y'']]", "un''ode l'eco d'y"),
    ("''Tern''{{'s}} and '''Swift'''{{'}} mast", "Tern's and Swift' mast"),
    ("<nowiki>'</nowiki>''a''", "'a"),
    ("it's the dogs' o''clock", "it's the dogs' oclock"),
]
SCRIPTS = [
    ("''E'' = ''mc''<sup>2</sup>, m<sup>2</sup>, (a+b)<sup>3</sup>", "E = mc^2, m^2, (a+b)^3"),
    ("2<sup>n+1</sup> 3<sup>''k''−1</sup> e<sup>-x</sup>", "2^(n+1) 3^(k−1) e^-x"),
    (
        "s<sup>−1</sup> 10<sup>-6</sup> 10<sup>&minus;3</sup> 10<sup> 6 </sup>",
        "s^−1 10^-6 10^−3 10^6",
    ),
    (
        "''x''<sup>''n''</sup> 2<sup>n</sup> x<sup>2n</sup> '''R'''<sup>n</sup>",
        "x^n 2^n x^(2n) R^n",
    ),
    ("e<sup>iπ</sup> &pi;<sup>2</sup> a<sup>0.5</sup> b<sup>1/2</sup>", "e^(iπ) π^2 a^0.5 b^(1/2)"),
    ("x<sup>y<sup>2</sup></sup> [[a|b]]<sup>2</sup> <i>c</i><sup>2</sup>", "x^(y^2) b^2 c^2"),
    ("<SUP style='x'>a</SUP> m<SUP>2</SUP> x<sup>{{frac|1|2}}</sup>", "a m^2 x^(1/2)"),
    (
        "SO<sub>4</sub><sup>2−</sup> Ca<sup>2+</sup> Na<sup>+</sup> <sup>14</sup>C",
        "SO4^2− Ca^2+ Na+ 14C",
    ),
    (
        "1<sup>st</sup> XIX<sup>e</sup> M<sup>me</sup> 2<sup>nd</sup> n<sup>o</sup>",
        "1st XIXe Mme 2nd no",
    ),
    ("1010<sub>2</sub> = 10<sub>10</sub>, log<sub>2</sub>3", "1010_2 = 10_10, log2 3"),
    ("x<sup>2</sup><sub>1</sub>, SO<sub>4</sub><sup>2−</sup>", "x^2_1, SO4^2−"),
    ("3<sup>1</sup>/<sub>2</sub> and <sup>3</sup>\u2044<sub>4</sub>", "3 1/2 and 3/4"),
    (
        "a<sub>n+1</sub> ''x''<sub>''i''</sub> H<sub>2</sub>O T<sub>max</sub>",
        "a_(n+1) x_i H2O Tmax",
    ),
    ("ACME<sup>TM</sup> text<sup>[a]</sup> x<sup></sup>", "ACMETM text[a] x"),
    ("10{{sup|6}} 10{{exp|−3}} x{{sub|1}} 1{{exp|er}}", "10^6 10^−3 x1 1er"),
    ("{{math|''x''<sup>2</sup>}} {{nowrap|2<sup>k−1</sup>}}", "x^2 2^(k−1)"),
    ("never closed x<sup>2 and </sub> y", "never closed x2 and y"),
]
MEANINGS = [
    ("E{{music|flat}} major, C{{music|#}}, 𝄞 {{music|time|3|4}}", "E♭ major, C♯, 𝄞 3/4"),
    ("G{{sharp}} B{{flat}} D{{music|natural}} F{{music|doublesharp}}", "G♯ B♭ D♮ F𝄪"),
    # An equals sign that a template or a link shows names no argument.
    ("{{nowrap|m {{=}} 7}} {{math|q {{=}} 0.1 {{=}} r}}", "m = 7 q = 0.1 = r"),
    ("{{nowrap|{{math|1=k = 2}}}} {{small|[[a|b=c]]}}", "k = 2 b=c"),
    ("{{nowrap|1=a {{=}} b}} a {{=}} b", "a = b a = b"),
    ("{{harvtxt|Hill|1971}} said", "Hill (1971) said"),
    ("{{harvtxt|Hill|Vale|1971|p=7}} thinks", "Hill & Vale (1971, p. 7) thinks"),
    ("{{harvp|Hill|Vale|Moor|1980|pp=1–2}}", "Hill, Vale & Moor (1980, pp. 1–2)"),
    ("{{harvtxt|Hill|Vale|Moor|Fen|1980}}", "Hill et al. (1980)"),
    ("{{harv|Hill|1971}} {{harvnb|Hill|1971}}", "(Hill 1971) Hill 1971"),
    ("a {{visible anchor|rock pool}} of {{vanchor|salt}}", "a rock pool of salt"),
    ("is {{citation needed span|text=quite cold|date=May 2021}}.", "is quite cold."),
    ("{{ordinal|1}} {{ordinal|12}} {{ordinal|23}} {{ordinal|111}}", "1st 12th 23rd 111th"),
    ("{{tmp|20|°C}}, le {{date de décès-|3|mai|1980}}", "20 °C, le 3 mai 1980"),
    ("costa {{euro|12.50}}", "costa €12.50"),
    ("made{{mdashb}}not born{{ndashb}}so", "made—not born–so"),
    ("Do{{shy}}nau", "Donau"),
    # Letters around a template that shows nothing stay apart.
    ("salt{{unknown}}water {{fact}} x{{unknown|1}}''y''{{unknown|2}}[[z]]", "salt water x y z"),
    ("word{{unknown}}{{unknown}}word, word{{unknown}}.", "word word, word."),
    # A part of the sentence that an unknown template shows; notes and boxes are none.
    ("la torre, {{unknown|che era molto alta|2010}}, cadde", "la torre, che era molto alta, cadde"),
    ("it is {{unknown|text=rather warm there|date=May 2020}} now", "it is rather warm there now"),
    ("rose to {{unknown|about 3 743,21 km²}} in area", "rose to about 3 743,21 km² in area"),
    ("It fell.{{unknown|Said in a note.}} It rose.", "It fell. It rose."),
    ("It fell.{{efn|said in a note}} It {{sfn|said in a note}} rose", "It fell. It rose"),
    ("{{unknown|a box of its own}}\nText", "Text"),
    ("{{unknown|Tide pools}} are cold", "Tide pools are cold"),
    ("{{unknown|Tide pools}}Text {{unknown|2}} are cold", "Text are cold"),
    ("la {{sans source|tour}} de {{quand|la fin}}", "la tour de la fin"),
    ("''f''<sup>(''n'')</sup>", "f^(n)"),
    ("* {{unknown|flag of a country}} Text", "- Text"),
    ("seen {{unknown|http://a.b/c d}} by {{unknown|a picture.jpg}} x", "seen by x"),
    ("seen {{unknown|date=May 2020}} by {{unknown|12}} x", "seen by x"),
    ("seen {{unknown|www.a.b/c}} by {{unknown|10.1/a.b}} {{unknown|red|9}} x", "seen by x"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    LINKS + TEMPLATES + TAGS + LAYOUT + APOSTROPHES + SCRIPTS + MEANINGS,
)
def test_rules(wikitext: str, expected: str) -> None:
    assert to_text(wikitext) == expected


def test_depth_is_bounded() -> None:
    within = MAX_DEPTH - 1
    assert to_text("{{nowrap|" * within + "x" + "}}" * within) == "x"
    for opening in ("{{a|", "[[a|", "{|\n", "{{{"):
        with pytest.raises(WikitextError, match="nested more than"):
            to_text(opening * 1000)


def check_converted(wikitext: str) -> None:
    """Whatever the markup: a text of bounded length, in tidy lines, or an error for nesting."""
    try:
        text = to_text(wikitext)
    except WikitextError:
        num_opening = sum(wikitext.lower().count(mark) for mark in ("{", "[", "<table"))
        assert num_opening >= MAX_DEPTH
        return
    assert "\0" not in text
    assert not re.search(r"\n{3}|[ \t]$", text, re.MULTILINE)
    assert len(text) <= 1.5 * len(wikitext) + 10  # lists get numbers


@pytest.mark.parametrize("unit", MARKUP)
def test_long_runs_of_markup_end(unit: str) -> None:
    """Rules of quadratic time would take a minute here."""
    for text in (unit * (30_000 // len(unit)), "{{a|" + unit * (30_000 // len(unit)) + "}}"):
        check_converted(text)


@pytest.mark.parametrize(
    ("start", "run", "end"),
    [
        *((start, " ", "x") for start in ("{{", "#redirect", "<ref", "</ref", "(", "a", "[[", "=")),
        *((start, "a", "") for start in ("<", "[http://", "{{", "__", "-{", "[[File:", "http://")),
        *((start, "1", "x|km}}") for start in ("{{convert|", "{{val|", "{{date|", "{{frac|")),
    ],
)
def test_long_runs_after_a_mark_end(start: str, run: str, end: str) -> None:
    text = start + run * 100_000 + end
    to_text(text)
    assert not is_redirect(text)
    assert not is_disambiguation("A", text)


@settings(max_examples=150, deadline=None)
@example("\n:|__A__")
@example("(){|\n")
@given(st.lists(st.sampled_from([*MARKUP, "word ", "\n", "a", "ж"]), max_size=60).map("".join))
def test_no_markup_survives(wikitext: str) -> None:
    """Outside of what is shown as it stands: code, formulas, escaped characters."""
    for verbatim in ("nowiki", "pre", "math", "source", "&"):
        wikitext = wikitext.replace(verbatim, "")
    try:
        text = to_text(wikitext)
    except WikitextError:
        return
    for markup in ("[[", "]]", "{{", "}}", "<ref", "<!--x", "'''''", "\x00"):
        assert markup not in text
    assert not any(re.match(r"\|(?!\S.*\|)|\{\|", line) for line in text.split("\n"))


@settings(max_examples=100, deadline=None)
@given(st.text("abcЖé 12.\n", max_size=200))
def test_plain_text_stays(text: str) -> None:
    """Each word of a text without markup is there, in order; twice is as good as once."""
    once = to_text(text)
    words = [word for line in text.split("\n") if line.strip(" .") for word in line.split()]
    assert "".join(once.split()) == "".join(words)
    assert to_text(once) == once


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from(["a, b", "c; d.", "(e: f)", "g [h]", "i's", "j - k", "l/m", "2.5", "n?"]),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from(["", "* ", "** ", "# ", ": ", "== ", "[[", "{{nowrap|", "<b>", "'''"]),
)
def test_sentences_stay_in_every_place(parts: list[str], start: str) -> None:
    end = {"== ": " ==\nx", "[[": "]]", "{{nowrap|": "}}", "<b>": "</b>", "'''": "'''"}.get(
        start, ""
    )
    sentence = " ".join(parts)
    shown = to_text(f"{start}{sentence}{end}").removesuffix("\n\nx")
    assert shown.lstrip("-1 ").removeprefix(". ") == sentence.lstrip("-1 ")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_nothing_raises(seed: int) -> None:
    check_converted(nasty_wikitext(random.Random(seed)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#REDIRECT [[A]]", True),
        ("  #redirect: [[A]]", True),
        ("#WEITERLEITUNG [[A]]", True),
        ("#ПЕРЕНАПРАВЛЕНИЕ [[A]]", True),
        ("#OMDIRIGERING[[A]]", True),
        ("# [[A]]", False),
        ("Text #REDIRECT [[A]]", False),
    ],
)
def test_redirects(text: str, expected: bool) -> None:
    assert is_redirect(text) == expected


@pytest.mark.parametrize(
    ("title", "wikitext", "expected"),
    [
        ("A", "{{disambiguation}}", True),
        ("A", "* x\n{{Disambig|geo}}", True),
        ("A", "{{Begriffsklärung}}", True),
        ("A", "{{Rozcestník - příjmení}}", True),
        ("A", "{{Многозначность}}", True),
        ("A", "{{dp}}", True),
        ("A", "{{Personnes homonymes}}", True),
        ("A (homonymie)", "x", True),
        ("A (значения)", "x", True),
        ("A", "x __DISAMBIG__", True),
        ("A", "{{about|x}} {{other uses}} {{redirect|B}}", False),
        ("A", "{{Begriffsklärungshinweis}}", False),
        ("A", "{{Nota disambigua|x}}", False),
        ("A", "{{Voir homonymes}} {{disambiguation needed}}", False),
        ("Disambiguation", "x", False),
        (None, "x", False),
    ],
)
def test_disambiguation(title: str | None, wikitext: str, expected: bool) -> None:
    assert is_disambiguation(title, wikitext) == expected
