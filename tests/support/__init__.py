"""What several tests share: references, tiny runs, makers of hostile files. Imported by tests
alone."""
