"""The label-driven system: expressions by name, in one pass."""
