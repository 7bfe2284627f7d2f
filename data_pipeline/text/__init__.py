"""Pure functions on strings: decoding, normal forms, word n-grams, licenses. They open no file and
know no `Document`; everything may import them.
"""
