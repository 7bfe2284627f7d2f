"""One file per source: how its raw files become documents."""
