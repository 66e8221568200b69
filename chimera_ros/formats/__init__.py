"""Text, YAML and JSON of files that people bring: one rule for encodings, numbers, sizes and nesting.

Pure, standard library and PyYAML only; it imports nothing of chimera_ros. What is refused raises
`text.FormatError`, which the reader of a format (mission, scene, policy, keystore) turns into its own error
with the file's name. `display` is the way out: text from outside for terminal, log, JSON and file names.

Begin with `text` (bytes and characters), then `numbers`, `yaml_nodes` and `json_values`.
"""
