"""Bytes on disk and behind URLs: compressed streams, input files, XML records, atomic publication.
Imports nothing else of this package; everything may import it.
"""
