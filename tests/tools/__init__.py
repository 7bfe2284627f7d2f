"""Programs for people that are not part of the suite: fuzzing, screenshots."""
