"""Take-down requests applied to a finished dataset and its token store. Imported by `commands`;
imports `build`, `tokens` and below.
"""
