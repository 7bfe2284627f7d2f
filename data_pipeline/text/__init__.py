"""Pure functions on strings: decoding, normalization, word n-grams, licenses. They open no file and
know no `Document`; everything may import them.
"""
