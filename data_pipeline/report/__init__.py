"""A finished build to look at: its account, table, HTML page, and dropped documents. Imported by
`release` and `commands`; imports `build`, `tokens` and below.
"""
