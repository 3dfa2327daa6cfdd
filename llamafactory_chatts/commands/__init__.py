"""The commands of ``lmf-chatts``, one per file: ``add_arguments(parser)`` and ``run(args) -> int``.

The docstring of a file is its help text. Heavy modules are imported inside ``run``.
"""
