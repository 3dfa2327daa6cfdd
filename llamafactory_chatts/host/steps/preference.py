"""Preference training: what the host's DPO already does right, KTO needs told."""

from typing import Any

from ..compat import patch


def pass_timeseries(module: Any, name: str) -> None:
    """KTO picks the model's inputs by name; hand it the series, too."""

    def build(original: Any) -> Any:
        def forward(self: Any, model: Any, batch: dict[str, Any], prefix: str = "") -> Any:
            if "timeseries" not in batch:
                return original(self, model, batch, prefix)

            def with_series(**inputs: Any) -> Any:
                return model(**inputs, timeseries=batch["timeseries"])

            return original(self, with_series, batch, prefix)

        return forward

    patch(module, name, build)
