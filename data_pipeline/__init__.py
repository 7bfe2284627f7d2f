"""How text becomes tokens: raw files -> documents -> tokenizer and token store."""
