"""Rules about the keys of a recipe: values, combinations, what has no effect."""
