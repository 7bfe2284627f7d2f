"""Reports on a finished build: statistics per stage (account), table, HTML page, dropped documents.
Imported by `release` and `commands`; imports `build`, `tokens` and below.
"""
