"""New bases: random ones, and ChatTS bases made from a Qwen folder."""
