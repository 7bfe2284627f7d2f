"""Where tasks run: processes of this machine or a Ray cluster. Imports nothing of this package but
`files`; `build`, `tokens`, `removal` and `commands` import it.
"""
