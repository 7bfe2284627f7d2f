"""What the project costs in time and memory: one script a claim, and `results/`. Imports everything
but tests; nothing imports it."""
