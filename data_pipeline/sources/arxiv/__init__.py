"""arXiv reader: LaTeX source packages to cleaned LaTeX. From outside only this face is imported, by
recipes."""

from data_pipeline.sources.arxiv.packages import (
    inputs,
    read,
    with_macros_expanded,
    with_tidy_lines,
    with_title,
    without_comments,
    without_front_matter_and_bibliography,
)

__all__ = [
    "inputs",
    "read",
    "with_macros_expanded",
    "with_tidy_lines",
    "with_title",
    "without_comments",
    "without_front_matter_and_bibliography",
]
