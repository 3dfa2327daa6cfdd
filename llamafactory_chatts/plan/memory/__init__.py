"""Memory of GPUs and host that a run needs, and whether it fits."""
