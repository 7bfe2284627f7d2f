"""A synthetic Project Gutenberg book, with header and license as in the 2000s."""

STORY = """\
THE HOUSE

by N. O. Body


CHAPTER I

It was a dark night, and the bread was produced by hand.

The End of the project was near.


CHAPTER II

"This file was lost," she said. "By whom was it made?"

THE END"""

LICENSE = (
    "Updated editions will replace the previous one. Project Gutenberg-tm is a trademark.\n" * 300
)

STYLE_2000S = f"""\
The Project Gutenberg EBook of The House, by N. O. Body

This eBook is for the use of anyone anywhere at no cost and with
almost no restrictions whatsoever.  You may copy it under the terms
of the Project Gutenberg License included with this eBook.

Title: The House
       A Tale

Author: N. O. Body

Posting Date: August 26, 2008 [EBook #4321]
Release Date: October, 1997

Language: English

Character set encoding: ASCII

*** START OF THIS PROJECT GUTENBERG EBOOK THE HOUSE ***




Produced by Somebody and the Online
Distributed Proofreading Team at http://www.pgdp.net





{STORY}





End of the Project Gutenberg EBook of The House,
by N. O. Body

*** END OF THIS PROJECT GUTENBERG EBOOK THE HOUSE ***

***** This file should be named 4321.txt or 4321.zip *****
Produced by Somebody
{LICENSE}"""
