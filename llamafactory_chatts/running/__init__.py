"""A training that outlives its terminal: its command, the processes beside it, and how it is found again."""
