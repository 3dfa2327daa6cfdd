"""The log of a failed run -> cause and fix."""
