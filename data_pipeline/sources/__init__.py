"""How each kind of raw data becomes documents: a folder or a file per source. Imported by `build`,
`commands` and recipes, a source by its face alone; a source imports no other source."""
