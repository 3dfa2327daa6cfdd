"""A training recipe: read once, checked by one list of rules, with the machine it is meant for. Never torch."""
