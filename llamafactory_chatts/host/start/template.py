"""Template and multimodal plugin ``chatts`` in LLaMA-Factory's registries."""

from typing import Any

from ...core.contract import DEFAULT_SYSTEM, TEMPLATE


def add_plugin(mm_plugin: Any, name: str) -> None:
    """Register the plugin class, unless it is there."""
    from ..rows.mm_plugin import ChatTSPlugin

    if name not in mm_plugin.PLUGINS:
        mm_plugin.register_mm_plugin(name, ChatTSPlugin)


def add_template(template: Any, name: str) -> None:
    """Register the template: Qwen's frame, the published system prompt, no thinking block."""
    if name in template.TEMPLATES:
        return

    from llamafactory.data.formatter import FunctionFormatter, StringFormatter, ToolFormatter
    from llamafactory.data.mm_plugin import get_mm_plugin

    template.register_template(
        name=name,
        format_user=StringFormatter(slots=["<|im_start|>user\n{{content}}<|im_end|>\n<|im_start|>assistant\n"]),
        format_assistant=StringFormatter(slots=["{{content}}<|im_end|>\n"]),
        format_system=StringFormatter(slots=["<|im_start|>system\n{{content}}<|im_end|>\n"]),
        format_function=FunctionFormatter(slots=["{{content}}<|im_end|>\n"], tool_format="qwen"),
        format_observation=StringFormatter(
            slots=[
                "<|im_start|>user\n<tool_response>\n{{content}}\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
            ]
        ),
        format_tools=ToolFormatter(tool_format="qwen"),
        default_system=DEFAULT_SYSTEM,
        stop_words=["<|im_end|>"],
        replace_eos=True,
        mm_plugin=get_mm_plugin(name=TEMPLATE),
    )
