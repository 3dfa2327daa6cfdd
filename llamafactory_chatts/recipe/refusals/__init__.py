"""What is refused: one table, asked by a starting training, its preflight, ``plan`` and ``doctor``."""
