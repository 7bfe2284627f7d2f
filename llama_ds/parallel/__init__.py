"""Process groups, collectives, tensor and sequence parallelism. Imported by `layer`, `loss`,
`weights` and above; imports `config` and below."""
