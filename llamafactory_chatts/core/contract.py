"""The one home of names and limits that more than one package needs."""

TS_START = "<ts>"
TS_END = "<ts/>"
PLACEHOLDER = TS_START + TS_END
"""What a user writes once per series. In ``input_ids`` it is this pair, or ``<ts>`` once per patch."""

TEMPLATE = "chatts"
COLUMN = "timeseries"
DEFAULT_SYSTEM = "You are a helpful assistant."

ADVISED_POINTS = (64, 1024)
ADVISED_SERIES = 30

IGNORE_INDEX = -100
"""The label that takes no part in the loss (the convention of transformers and LLaMA-Factory)."""

QWEN2_TYPE = "chatts"
QWEN3_TYPE = "qwen3ts"
"""``model_type`` of the two kinds of ChatTS while they are in memory (files may say ``qwen2``/``qwen3``)."""

TIMESERIES_TUNING = ("lora", "full", "freeze")

MAX_OVERLONG_SHARE = 0.10
"""Share of rows longer than ``cutoff_len`` above which a run stops unless ``drop_overlong`` is set."""

SWITCH = "LLAMAFACTORY_CHATTS"
"""Environment variable; ``0`` turns the whole plug-in off."""

FAILURE = "failure*.json"
"""What failed processes write into ``output_dir``: ``failure.json``, of further ranks ``failure.rank1.json`` ..."""

PREFLIGHT_SWITCH = "LLAMAFACTORY_CHATTS_PREFLIGHT"
"""Environment variable; ``0`` starts a training without looking for mistakes in its recipe first."""
