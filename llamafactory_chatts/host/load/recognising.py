"""Whether a base is ChatTS: asked of its config.json, once, before anything is loaded."""

import copy
from typing import Any

from ...core.contract import QWEN2_TYPE, QWEN3_TYPE, TEMPLATE
from ...core.errors import ChatTSError, shorten


_READ = "_chatts_read"
_WANTED = "_chatts_wanted"


def want_chatts(model_args: Any, template: str | None) -> None:
    """Remember whether a run's template needs a ChatTS base; the loader is not given the template."""
    setattr(model_args, _WANTED, template == TEMPLATE)


def no_chatts_base(name: Any) -> ChatTSError:
    """Return the error for template ``chatts`` with another model."""
    return ChatTSError(
        f"template {TEMPLATE} needs a ChatTS base: there is no `ts` block in its config.json",
        where=str(name),
        fix="Name a ChatTS checkpoint, or make one of a Qwen folder: lmf-chatts init-base QWEN_DIR OUT",
    )


def chatts_config(loader: Any, model_args: Any) -> Any:
    """Return the ChatTS config of ``model_name_or_path``, a new one each time, or None for any other model.

    The file is read once for the same ``model_args``. Where it cannot be read, the host's own loading reports it,
    unless it would run code of the checkpoint or the template says that it must be ChatTS.

    Raises:
        ChatTSError: it cannot be read, or template ``chatts`` with another model.
    """
    from ...model.configuration_chatts import build_config, is_chatts, read_config

    init_kwargs = loader._get_init_kwargs(model_args)  # also replaces the name by the folder of another hub
    init_kwargs.pop("trust_remote_code")
    name, wanted = model_args.model_name_or_path, getattr(model_args, _WANTED, False)
    key, content = getattr(model_args, _READ, (None, None))
    if key != (name, init_kwargs["revision"]):
        try:
            content = read_config(name, **init_kwargs)
            if not content[0]:
                raise FileNotFoundError("there is no such file")

            is_chatts(content[0])
        except Exception as err:  # a hub's library raises what its own HTTP client does
            if wanted or model_args.trust_remote_code:
                raise unreadable_config(name, err) from err

            if isinstance(err, (OSError, ValueError)):
                return None

            raise

        setattr(model_args, _READ, ((name, init_kwargs["revision"]), content))

    assert content is not None  # as `key` was that of this model, or it was read above
    config_dict, kwargs = copy.deepcopy(content)
    if is_chatts(config_dict):
        return build_config(config_dict, name, **kwargs)

    if wanted:
        raise no_chatts_base(name)

    return None


def unreadable_config(name: Any, err: Exception) -> ChatTSError:
    """Return the error for a ``config.json`` that cannot be read: what the model is, is then not known."""
    return ChatTSError(
        f"its config.json could not be read ({type(err).__name__}: {shorten(err, 200)}), so it is not known whether "
        "this is a ChatTS checkpoint. Nothing was loaded and no code of the checkpoint was run",
        where=str(name),
        fix="Check the name, the file and its permissions or the connection to the hub, then start again",
    )


def is_chatts_model(config: Any) -> bool:
    """Tell whether a loaded model's config is one of ours."""
    return getattr(config, "model_type", None) in (QWEN2_TYPE, QWEN3_TYPE) and getattr(config, "ts", None) is not None
