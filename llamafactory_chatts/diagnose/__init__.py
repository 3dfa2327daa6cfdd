"""Diagnosis: what is wrong with an environment, a recipe or a finished run. Imports neither torch nor the host."""
