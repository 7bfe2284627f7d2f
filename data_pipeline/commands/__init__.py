"""Subcommands of the dataset job, one file each; the corpus is an argument. Imports every
floor of this package below it; `recipes` and the installed console command import it.
"""
