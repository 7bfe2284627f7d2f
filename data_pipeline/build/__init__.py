"""Raw files to published documents: parts, corpus-level rules, fingerprints, resume, cost. Imported
by `report`, `removal`, `release`, `corpus` and `commands`; imports `sources`, `filters`, `dedup`
and below."""
