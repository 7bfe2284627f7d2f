"""What the dataset job does, one file a subcommand; takes the corpus as an argument. Imports every
floor of this package below it; `recipes` and the installed console command import it.
"""
