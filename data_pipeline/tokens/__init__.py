"""Tokenizers, exact encoding, the token store, provenance and mixtures. Imported by `report`,
`removal`, `commands` and recipes; `llama_ds` imports `tokens.store` alone.
"""
