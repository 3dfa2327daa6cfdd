"""Plan: a recipe, its dataset and a machine -> lengths, steps, memory, time, advice. No GPU, no torch."""
