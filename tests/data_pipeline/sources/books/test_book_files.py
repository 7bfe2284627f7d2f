"""Books: headers of every style, what is kept of them, and several books in one file."""

import pytest

from data_pipeline.document import Document
from data_pipeline.sources import books
from data_pipeline.sources.books import gutenberg
from recipes.llama1_corpus import books_source
from tests.support.gutenberg_texts import LICENSE, STORY, STYLE_2000S

SOURCE = books_source()

STYLE_2020S = f"""\
The Project Gutenberg eBook of The House, by N. O. Body

This eBook is for the use of anyone anywhere in the United States and
most other parts of the world at no cost.

Title: The House

Author: N. O. Body

Release Date: May 3, 2022 [eBook #67000]

Language: French

Produced by: Somebody (Images generously made available by a library.)

*** START OF THE PROJECT GUTENBERG EBOOK THE HOUSE ***


{STORY}

*** END OF THE PROJECT GUTENBERG EBOOK THE HOUSE ***

{LICENSE}"""

STYLE_1990S = f"""\
**Welcome To The World of Free Plain Vanilla Electronic Texts**

August, 1993 [Etext #76]

The Project Gutenberg Etext of The House, by N. O. Body
*****This file should be named house10.txt or house10.zip*****

***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***
Why is this "Small Print!" statement here?
{LICENSE[:9_000]}
*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*


Scanned by Somebody, nobody@example.org


{STORY}

End of The Project Gutenberg Etext of The House, by N. O. Body
"""

STYLE_2002 = f"""\
The Project Gutenberg EBook of The House, by N. O. Body

Copyright laws are changing all over the world.

Title: The House
Author: N. O. Body
Release Date: 2002 [EBook #77]

*** START OF THE PROJECT GUTENBERG EBOOK THE HOUSE ***


This eBook was Produced by Somebody, [nobody@example.org]
Edition 11 was produced by Somebody Else


{STORY}


*** END OF THE PROJECT GUTENBERG EBOOK THE HOUSE ***

This file should be named house11.txt or house11.zip

These are confirmed as Public Domain in the US unless a copyright notice is included.

**The Legal Small Print**
***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN EBOOKS**START***
{LICENSE[:3_000]}
*END THE SMALL PRINT! FOR PUBLIC DOMAIN EBOOKS*Ver.02/11/02*END*
"""


STYLE_UNMARKED = (
    STYLE_2000S.replace("*** START OF THIS PROJECT GUTENBERG EBOOK THE HOUSE ***", "")
    .partition("*** END")[0]
    .rstrip()
)

STYLE_FRENCH = STYLE_2000S.replace("End of the Project", "Fin du Projet").replace(
    "Produced by Somebody and", "Produit par Quelqu'un pour Project Gutenberg et"
)

STYLE_AUSTRALIAN = f"""\
Title:      The House
Author:     N. O. Body
* A Project Gutenberg of Australia eBook *
eBook No.:  0100021.txt
Language:   English
Date first posted: August 2001

This eBook was produced by: Somebody

Project Gutenberg of Australia eBooks are created from printed editions
which are in the public domain in Australia, unless a copyright notice
is included.

Copyright laws are changing all over the world. Be sure to check the
copyright laws for your country.

This eBook is made available at no cost under the terms
of the Project Gutenberg of Australia License.


Title:      The House
Author:     N. O. Body



{STORY}


This site is full of FREE ebooks - Project Gutenberg Australia
"""


@pytest.mark.parametrize(
    "text",
    [
        *(STYLE_2000S, STYLE_2020S, STYLE_1990S, STYLE_2002, STYLE_UNMARKED, STYLE_FRENCH),
        STYLE_AUSTRALIAN,
    ],
)
def test_every_style_leaves_the_book_and_nothing_else(text: str) -> None:
    assert gutenberg.is_gutenberg(text)
    assert gutenberg.book(text) == STORY + "\n"


@pytest.mark.parametrize(
    ("text", "header"),
    [
        (STYLE_2000S, (4321, "The House A Tale", "N. O. Body", "en", "1997-10")),
        (STYLE_2020S, (67000, "The House", "N. O. Body", "fr", "2022-05-03")),
        (STYLE_1990S, (76, "The House", None, None, "1993-08")),
        (STYLE_2002, (77, "The House", "N. O. Body", None, "2002")),
    ],
)
def test_what_the_header_says(text: str, header: tuple[object, ...]) -> None:
    found = gutenberg.header(text)
    assert (found.number, found.title, found.author, found.language, found.released) == header
    assert found.license == gutenberg.PUBLIC_DOMAIN


def test_australian_books_are_not_said_to_be_free_in_the_usa() -> None:
    assert gutenberg.header(STYLE_AUSTRALIAN) == gutenberg.Header(
        None, "The House", "N. O. Body", "en", "2001-08", None
    )


def in_2000s(story: str) -> str:
    return STYLE_2000S.replace(STORY, story)


@pytest.mark.parametrize(
    ("story", "left"),
    [
        # Notes in brackets go wherever they are.
        ("A.\n\n[Transcriber's Note: spelling kept.]\n\nB.", "A.\n\n\n\nB."),
        # A heading's note goes up to the next section.
        (
            "A.\n\n\nTranscriber\u2019s Notes:\n\nSpelling kept.\n\nAll of it.\n\n\n\nB.",
            "A.\n\n\nB.",
        ),
        # At the end, it goes up to the end.
        ("A.\n" * 400 + "\n\n\nTRANSCRIBER'S NOTES\n\nOne.\n\n\nTwo.", "A.\n" * 399 + "A."),
        ("The transcriber notes that it rains.", "The transcriber notes that it rains."),
        ("Notes of a transcriber\n\nB.", "Notes of a transcriber\n\nB."),
        # Credits stand before the book only.
        (
            "A.\n\nB.\n\nTranscribed by hand from memory.",
            "A.\n\nB.\n\nTranscribed by hand from memory.",
        ),
        ("[Illustration]\n\nA.", "[Illustration]\n\nA."),
        ("[Editor's Note: see Project Gutenberg ebook #43.]\n\nA.", "A."),
        # Without blank lines, only the line itself is known to be a credit.
        ("A.\n" * 30, "A.\n" * 29 + "A."),
        ("\n   Indented title\n\nA.", "   Indented title\n\nA."),
    ],
)
def test_credits_and_notes(story: str, left: str) -> None:
    assert gutenberg.book(in_2000s(story)) == left + "\n"


@pytest.mark.parametrize(
    "heading",
    [
        *("Transcriber's Notes", "TRANSCRIPTION NOTE", "[Note by the transcriber:"),
        *("Etext transcriber's notes", "Notes from the proofreader", "_Proofreader's Note_"),
        *("Typographical errors corrected by the etext transcriber:", "Transcribers' endnotes"),
        *("Spelling changes made in this etext", "List of corrections made by the transcriber"),
        *("Anmerkungen zur Transkription:", "ANMERKUNG DES BEARBEITERS", "Transkriptionsnotiz"),
        *("Hinweise zur Transkription", "Bemerkungen zur Digitalisierung"),
        *("Note de transcription", "Notes du transcripteur:", "Notes sur la transcription"),
        *("Nota del transcriptor", "Notas del Transcriptor", "Nota de transcripción"),
        *("Nota do transcritor", "Notas de transcrição", "Nota de editor: Devido a erros"),
        *("Nota del trascrittore", "Note di trascrizione", "Notes del transcriptor"),
        *("Opmerkingen van de bewerker", "Aantekeningen van de transcribent"),
        *("Transkriberarens anmärkningar", "Anmärkningar om transkriberingen"),
        *("Uwagi do wydania elektronicznego", "Poznámka k přepisu", "Примечания переписчика"),
    ],
)
def test_notes_under_a_heading(heading: str) -> None:
    """In front and behind, and within the book up to the next section."""
    words = "It rained all day on the harbour, and on the hills.\n\n"
    note = f"{heading}\n\nHarbor is harbour on page 9.\n\n\n\n"
    for before, after in ((0, 60), (60, 60), (60, 0)):
        book = gutenberg.book(in_2000s(words * before + "\n\n" + note + words * after))
        assert book.count("It rained") == before + after
        assert "page 9" not in book
        assert heading.strip("[]_:") not in book


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 0.999])
@pytest.mark.parametrize(
    "note",
    [
        "Transcriber's Note: The next page was missing in the original.",
        "[Transcriber's Note: the sign [oe] stands\nfor a ligature.]",
        "Notes du transcripteur: l'orthographe est\ncelle de l'auteur.",
        "Anmerkung des Bearbeiters: Druckfehler wurden behoben.",
    ],
)
def test_a_note_on_the_line_of_its_heading_ends_with_its_paragraph(note: str, share: float) -> None:
    paragraphs = [f"Paragraph {number} of it.\n{'It rained. ' * 20}" for number in range(200)]
    place = int(share * len(paragraphs))
    story = "\n\n".join([*paragraphs[:place], note, *paragraphs[place:]])
    book = gutenberg.book(in_2000s(story))
    assert book.split() == " ".join(paragraphs).split()


@pytest.mark.parametrize(
    "heading",
    [
        "Typographical errors corrected by the etext transcriber:",
        "Transcriber's Notes and List of Corrections:",
        "TRANSCRIBER'S NOTE.",
    ],
)
def test_at_the_end_a_heading_s_note_goes_up_to_the_end(heading: str) -> None:
    story = "It rained.\n\n" * 300 + f"THE END\n\n{heading}\n\nthe sihp=> the ship {{pg 68}}\n\n"
    assert gutenberg.book(in_2000s(story)).rstrip().endswith("THE END")


def test_a_note_in_front_leaves_the_preface() -> None:
    note = "Transcriber's Note: Superscripts are rendered as ^x.\n\n\n"
    preface = "PREFACE\n\n" + "It is the custom to write one. " * 60
    story = f"{note}{preface}\n\n\nCHAPTER I\n\n" + "It rained.\n\n" * 50
    assert gutenberg.book(in_2000s(story)).startswith(preface.rstrip())


@pytest.mark.parametrize(
    "line",
    [
        "The notes of the transcriber were lost.",
        "Anmerkungen zur Reise",
        "Notes du voyage",
        "Nota del autor",
        "Errata",
        "Corrections made by the author",
        "Typographical errors were common then.",
    ],
)
def test_notes_of_the_book_stay(line: str) -> None:
    story = f"A.\n\n{line}\n\nB."
    assert gutenberg.book(in_2000s(story)) == f"{story}\n"


WORDS = "It rained all day on the harbour.\n\n"


@pytest.mark.parametrize(
    "statement",
    [
        "This text was later reformatted, by A. Helper <a@example.org>\nin 2002, for line ends.",
        "The etext has been newly formatted for modern readers.",
        "[Scanned and proofed by B. Helper, b.helper@example.com]",
        "Please send corrections of this edition to c@example.co.uk.",
        "Obvious typographical errors have been corrected without note.",
        "Minor spelling and punctuation errors have been silently corrected.",
        "The following printer's errors have been fixed: hte, teh.",
        "Offensichtliche Druckfehler wurden stillschweigend berichtigt.",
        "Les erreurs clairement introduites par le typographe ont été corrigées.",
        "Duidelijke drukfouten in het origineel zijn verbeterd.",
    ],
)
def test_statements_about_the_file(statement: str) -> None:
    """Among the first and the last paragraphs; in the midst of the book they are its own."""
    for before, after in ((0, 30), (2, 30), (30, 0), (30, 2)):
        book = gutenberg.book(in_2000s(WORDS * before + statement + "\n\n" + WORDS * after))
        assert book == (WORDS * (before + after)).strip() + "\n"
    within = WORDS * 30 + statement + "\n\n" + WORDS * 30
    assert gutenberg.book(in_2000s(within)) == within.strip() + "\n"


@pytest.mark.parametrize(
    ("blurb", "stays"),
    [
        (
            "<<THIS ELECTRONIC VERSION OF THE COLLECTED PLAYS IS COPYRIGHT 1991 BY A LIBRARY, AND"
            " IS\nPROVIDED BY PROJECT GUTENBERG ETEXT WITH PERMISSION.>>",
            False,
        ),
        ("<This machine-readable edition may be distributed freely.>", False),
        ("[The electronic text is provided by courtesy of a library.]", False),
        ("<<Electronic and machine readable copies may be\ndistributed for use.>>", False),
        ("<<Je ne sais pas, dit-elle, et voilà tout.>>", True),
        ("[Enter the permission of the duke.]", True),
    ],
)
def test_blurbs_between_works(blurb: str, stays: bool) -> None:
    book = gutenberg.book(in_2000s(f"{WORDS * 20}{blurb}\n\n{WORDS * 20}"))
    assert (blurb in book) is stays
    assert book.count(WORDS.strip()) == 40


def test_no_blank_lines_at_all() -> None:
    text = "\n".join(line for line in in_2000s("A.\n" * 30).split("\n") if line.strip())
    text = text.replace("\nDistributed Proofreading Team at http://www.pgdp.net", "")
    assert gutenberg.book(text) == "A.\n" * 30


@pytest.mark.parametrize(
    "text",
    [
        STORY,
        f"On Project Gutenberg\n\nProject Gutenberg is a library.\n\n{STORY}",
        "The printer Gutenberg produced books.",
        "",
    ],
)
def test_other_texts_are_left_alone(text: str) -> None:
    assert not gutenberg.is_gutenberg(text)
    document = Document(text, "a.txt", license="CC0-1.0")
    assert books.without_gutenberg(document, keep_copyrighted=False) == document


def test_fields_of_the_document() -> None:
    (edit,) = SOURCE.edits
    assert edit(Document(STYLE_2000S, "4321.txt")) == Document(
        STORY + "\n",
        "4321.txt",
        url="https://www.gutenberg.org/ebooks/4321",
        title="The House A Tale by N. O. Body",
        language="en",
        license="public domain in the USA",
        timestamp="1997-10",
    )


def test_books_under_copyright() -> None:
    text = STYLE_2000S.replace(
        "Title:", "** This is a COPYRIGHTED Project Gutenberg eBook, Details Below **\n\nTitle:"
    )
    document = Document(text, "a.txt")
    (edit,) = SOURCE.edits
    assert edit(document) == document.rejected("copyrighted", "The House A Tale")
    kept = books.without_gutenberg(document, keep_copyrighted=True)
    assert isinstance(kept, Document)
    assert kept.license is None
