"""Entry points: recipes and launchers; the only place with choices of sizes and thresholds."""
