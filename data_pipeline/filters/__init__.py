"""Filters that keep or drop one document by itself: heuristic filters, language identification,
perplexity, reference classifier, decontamination. Imported by `build`, `commands` and recipes;
imports `document` and what lies below it."""
