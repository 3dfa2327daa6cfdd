"""Configurations of the two kinds of ChatTS, and how a checkpoint is recognised.

A checkpoint is ChatTS when its ``config.json`` has a ``ts`` block and ``ts_token_start_index``, whatever
its ``model_type`` says (``chatts``, ``qwen3ts``, ``qwen2`` and ``qwen3`` all occur in the wild).
"""

from typing import TYPE_CHECKING, Any

from transformers import PreTrainedConfig, Qwen2Config, Qwen3Config

from ..core.contract import QWEN2_TYPE, QWEN3_TYPE
from ..core.errors import ChatTSError


TS_DEFAULTS: dict[str, Any] = {
    "patch_size": 8,
    "num_layers": 5,
    "hidden_size": None,  # the backbone's
    "embedding_dim": 16,
    "max_sequence_length": 32768,
    "num_features": 2,
    "use_position_embedding": True,
    "use_position_idx": False,
    "use_layer_norm": False,
}
"""Settings of the encoder (the ``ts`` block) where a config does not give them."""

HUB_SETTINGS = ("cache_dir", "revision", "token", "local_files_only", "subfolder", "force_download")
"""Arguments of ``from_pretrained`` that say where a file is, rather than what to build from it."""


if TYPE_CHECKING:
    from transformers import PreTrainedConfig as _Backbone
else:
    _Backbone = object


class _TimeSeriesConfig(_Backbone):
    """What both kinds add to the backbone's configuration.

    ``model_type`` in memory is always the class's own, so that tables keyed by it have one row per kind.
    On disk the config keeps what its checkpoint said: ``model_type``, ``auto_map`` (names of files that
    vLLM's published ChatTS code looks for; never executed here) and the older spelling of the fields that
    transformers 5 renamed (``rope_theta``, ``rope_scaling``, ``torch_dtype``).
    """

    ts: dict[str, Any] | None

    def __post_init__(self, **kwargs: Any) -> None:
        self._published = {key: kwargs.pop(key) for key in ("model_type", "auto_map") if kwargs.get(key) is not None}
        super().__post_init__(**kwargs)
        if self.ts is not None:
            self.ts = {**TS_DEFAULTS, "hidden_size": self.hidden_size, **self.ts}

    def to_dict(self) -> dict[str, Any]:
        output = super().to_dict()
        output.update(output.pop("_published", {}))
        rope = output.get("rope_parameters") or {}
        if "rope_theta" in rope:
            output["rope_theta"] = rope["rope_theta"]

        if rope.get("rope_type", "default") != "default":
            output["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}

        return output

    def to_diff_dict(self) -> dict[str, Any]:
        output = super().to_diff_dict()
        if output.get("dtype") is not None:
            output["torch_dtype"] = output["dtype"]

        return output

    @property
    def time_series(self) -> dict[str, Any]:
        """The ``ts`` block with defaults filled in."""
        if self.ts is None:
            raise ChatTSError(
                "the config has no `ts` block, so it is no ChatTS base",
                where=getattr(self, "_name_or_path", None) or "config.json",
                fix="Use a ChatTS checkpoint, or turn a Qwen folder into a base: lmf-chatts init-base QWEN_DIR OUT",
            )
        return self.ts


class Qwen2TSConfig(_TimeSeriesConfig, Qwen2Config):
    """ChatTS on a Qwen2 or Qwen2.5 backbone (ChatTS-14B).

    Args:
        ts: settings of the encoder, see ``TS_DEFAULTS``.
        ts_token_start_index: id of ``<ts>``.
        ts_token_end_index: id of ``<ts/>``.
    """

    model_type = QWEN2_TYPE
    ts: dict | None = None
    ts_token_start_index: int | None = None
    ts_token_end_index: int | None = None


class Qwen3TSConfig(_TimeSeriesConfig, Qwen3Config):
    """ChatTS on a Qwen3 backbone (ChatTS-8B). Fields as in :class:`Qwen2TSConfig`."""

    model_type = QWEN3_TYPE
    ts: dict | None = None
    ts_token_start_index: int | None = None
    ts_token_end_index: int | None = None


def is_chatts(config: dict[str, Any]) -> bool:
    """Tell whether a ``config.json`` belongs to a ChatTS checkpoint."""
    return isinstance(config.get("ts"), dict) and config.get("ts_token_start_index") is not None


def config_class(config: dict[str, Any], where: str) -> type[PreTrainedConfig]:
    """Return the configuration class for a ChatTS ``config.json``.

    Raises:
        ChatTSError: the backbone is neither Qwen2 nor Qwen3.
    """
    hints = [str(config.get("model_type", "")), *(config.get("architectures") or [])]
    for hint in (hint.lower() for hint in hints):
        if "qwen3" in hint:
            return Qwen3TSConfig
        if "qwen2" in hint or hint == QWEN2_TYPE:
            return Qwen2TSConfig

    raise ChatTSError(
        f"unknown ChatTS backbone: model_type {config.get('model_type')!r}, "
        f"architectures {config.get('architectures')!r}",
        where=where,
        fix="Qwen2TSForCausalLM and Qwen3TSForCausalLM are supported",
    )


def read_config(name_or_path: str, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the content of a ``config.json`` and what is left of the arguments; arguments as for :func:`load_config`.

    Raises:
        OSError: there is no such file, or it cannot be read.
    """
    kwargs.pop("trust_remote_code", None)  # nothing from the checkpoint is executed
    content, kwargs = PreTrainedConfig.get_config_dict(name_or_path, **kwargs)
    return content, kwargs


def build_config(content: dict[str, Any], name_or_path: str, **kwargs: Any) -> PreTrainedConfig:
    """Return the ChatTS config for the content of a ``config.json`` and what :func:`read_config` left."""
    kwargs.setdefault("name_or_path", str(name_or_path))  # errors and exports name where it came from
    return config_class(content, str(name_or_path)).from_dict(content, **kwargs)


def load_config(name_or_path: str, **kwargs: Any) -> PreTrainedConfig | None:
    """Return the ChatTS config of a folder or hub name, or None when it is no ChatTS checkpoint.

    Args:
        name_or_path: folder or hub name.
        kwargs: as for :meth:`transformers.PreTrainedConfig.from_pretrained` (``cache_dir``, ``revision``, ...).
    """
    content, kwargs = read_config(name_or_path, **kwargs)
    return build_config(content, name_or_path, **kwargs) if is_chatts(content) else None
