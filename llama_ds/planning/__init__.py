"""What a run will need before it starts: memory, traffic, the plan of a dry run. Imported by
`train` and recipes; imports `config`, `batch` and below."""
