"""ChatTS (language models that read time series) for a stock LLaMA-Factory.

Importing this package changes nothing. The start-up file installed with it imports
:mod:`llamafactory_chatts.autoload`, which adds the rows of :mod:`llamafactory_chatts.register`
to LLaMA-Factory when LLaMA-Factory itself is imported.
"""

__version__ = "0.1.0"
