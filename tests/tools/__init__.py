"""Developer tools that are not tests: code map, fuzzing, screenshots."""
