"""Keep or drop one document by itself: heuristics, language, perplexity, classifier,
decontamination. Imported by `build`, `commands` and recipes; imports `document` and what lies
below it."""
