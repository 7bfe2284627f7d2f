"""What one runs: recipes, their launchers, and the only place with choices."""
