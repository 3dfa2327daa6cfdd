"""Rules about the files that a recipe names: base, adapters, datasets, checkpoints."""
