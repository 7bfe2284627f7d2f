"""Tests, as a mirror of the packages; see CONTRIBUTING.md."""
