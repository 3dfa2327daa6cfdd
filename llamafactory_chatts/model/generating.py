"""Generation with series: what transformers' ``generate`` has to be told about prompts that grow and about padding."""

import copy
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from .joining import expand_pairs, repeat_series


_PROMPT = "prompt_embeds"
"""The embedded prompt on its way through a prefill in chunks."""

if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Backbone
else:
    _Backbone = object


class GivenPrompt(BaseStreamer):
    """Hands a streamer the prompt as it was given instead of the one that the model read."""

    def __init__(self, streamer: BaseStreamer, prompt: torch.Tensor) -> None:
        self.streamer = streamer
        self.prompt: torch.Tensor | None = prompt

    def put(self, value: torch.Tensor) -> None:
        if self.prompt is not None:
            value, self.prompt = self.prompt.cpu(), None

        self.streamer.put(value)

    def end(self) -> None:
        self.streamer.end()


class TimeSeriesGeneration(_Backbone):
    """Mixin before the backbone's class: ``generate`` with ``timeseries`` and both writings of a series."""

    def prepare_inputs_for_generation(
        self, input_ids, past_key_values=None, inputs_embeds=None, is_first_iteration=False, **kwargs
    ):  # transformers looks for `inputs_embeds` in this signature
        prompt = kwargs.pop(_PROMPT, None)
        cached = past_key_values.get_seq_length() if past_key_values is not None else 0
        if cached and not is_first_iteration:
            kwargs.pop("timeseries", None)  # the series are in the cache

        inputs = super().prepare_inputs_for_generation(
            input_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )
        if prompt is not None:
            inputs["input_ids"], first = None, int(cached)
            inputs["inputs_embeds"] = prompt[:, first : first + input_ids.shape[1]]

        return inputs

    def _prefill(self, input_ids, generation_config, model_kwargs, *args, **kwargs):
        """With ``prefill_chunk_size`` the series are joined to the whole prompt first: a chunk may part one."""
        timeseries = model_kwargs.get("timeseries")
        if generation_config.prefill_chunk_size is None or timeseries is None:
            return super()._prefill(input_ids, generation_config, model_kwargs, *args, **kwargs)

        del model_kwargs["timeseries"]
        timeseries = timeseries.to(input_ids.device)
        places = self._look(input_ids, model_kwargs.get("attention_mask"), None, None, timeseries)
        self._check(places, None, timeseries)
        sent = places.send(input_ids.device, timeseries, self.ts_encoder.patch_size)
        model_kwargs[_PROMPT] = self._embed(input_ids, timeseries, sent)
        try:
            return super()._prefill(input_ids, generation_config, model_kwargs, *args, **kwargs)
        finally:
            del model_kwargs[_PROMPT]

    def _expand_inputs_for_generation(self, expand_size=1, is_encoder_decoder=False, input_ids=None, **kwargs):
        """Repeat rows for beams and returned sequences; series are repeated row by row, too."""
        timeseries = kwargs.pop("timeseries", None)
        if timeseries is not None and expand_size > 1:
            at_patch = input_ids == self.config.ts_token_start_index
            counts = self.ts_encoder.count_patches(timeseries)
            timeseries = timeseries[repeat_series(at_patch, counts, expand_size)]

        ids, kwargs = super()._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **kwargs)
        return ids, {**kwargs, "timeseries": timeseries} if timeseries is not None else kwargs

    def _expand(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        labels: torch.Tensor | None,
        counts: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return ids with one ``<ts>`` per patch, mask and labels, from ids with ``<ts><ts/>`` pairs."""
        config = self.config
        start_id, end_id, pad_id = config.ts_token_start_index, config.ts_token_end_index, config.pad_token_id or 0
        batch = expand_pairs(input_ids, attention_mask, labels, counts, start_id, end_id, pad_id)
        return batch.input_ids, batch.attention_mask, batch.labels

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *args: Any,
        **kwargs: Any,
    ):
        """Generate text; as in transformers, with ``timeseries`` and both writings of a series.

        The cache is used also when the model's config says ``use_cache: false``; ``use_cache=False`` does without.
        Rows may be padded on either side: an answer follows the last real token of its row. Sequences start with the
        prompt as it was given, padding included, and ``max_length`` and ``min_length`` count that prompt.
        """
        if inputs is None:
            inputs = kwargs.pop("input_ids", None)

        kwargs.pop("places", None)  # of the batch as it was; rows may be moved and repeated here
        if generation_config is None:
            kwargs.setdefault("use_cache", True)
        else:  # a setting beside it is deprecated in transformers
            of_model = generation_config is self.generation_config or generation_config._from_model_config
            generation_config = copy.deepcopy(generation_config)
            if "use_cache" not in kwargs and (of_model or generation_config.use_cache is None):
                generation_config.use_cache = True

        timeseries = kwargs.get("timeseries")
        if timeseries is None or timeseries.shape[0] == 0:
            kwargs.pop("timeseries", None)

        if inputs is None or (ids := self._read_prompt(inputs, kwargs)) is inputs:
            return super().generate(inputs, generation_config, *args, **kwargs)

        self._lengthen(ids.shape[1] - inputs.shape[1], generation_config, kwargs)
        if kwargs.get("streamer") is not None:
            kwargs["streamer"] = GivenPrompt(kwargs["streamer"], inputs)

        output = super().generate(ids, generation_config, *args, **kwargs)
        sequences = output if torch.is_tensor(output) else output.sequences
        prompt = inputs.repeat_interleave(sequences.shape[0] // inputs.shape[0], dim=0)
        sequences = torch.cat([prompt.to(sequences.device), sequences[:, ids.shape[1] :]], dim=1)
        if torch.is_tensor(output):
            return sequences

        output.sequences = sequences
        return output

    def _read_prompt(self, inputs: torch.Tensor, kwargs: dict[str, Any]) -> torch.Tensor:
        """Return the ids that the model reads, ``inputs`` itself where nothing changes; mask and series in ``kwargs``.

        Pairs are expanded, and padding goes to the left.
        """
        ids, mask = inputs, kwargs.get("attention_mask")
        if kwargs.get("timeseries") is not None and bool((ids == self.config.ts_token_end_index).any()):
            kwargs["timeseries"] = timeseries = kwargs["timeseries"].to(ids.device)
            ids, mask, _ = self._expand(ids, mask, None, self.ts_encoder.count_patches(timeseries))
            kwargs["attention_mask"] = mask

        as_given = kwargs.get("past_key_values") is not None or kwargs.get("position_ids") is not None
        if as_given or mask is None or mask.shape != ids.shape or not bool((mask[:, -1] == 0).any()):
            return ids

        mask = mask.to(ids.device)
        order = (mask != 0).long().argsort(dim=1, stable=True)
        kwargs["attention_mask"] = mask.gather(1, order)
        return ids.gather(1, order)

    def _lengthen(self, grown: int, config: GenerationConfig | None, kwargs: dict[str, Any]) -> None:
        """Add what the prompt has grown by to the lengths that count the prompt, where they stand."""
        for name in ("max_length", "min_length"):
            if kwargs.get(name) is not None:
                kwargs[name] += grown
                continue

            own = getattr(config, name, None)
            value = own if own is not None else getattr(self.generation_config, name, None)
            if not value:
                continue

            if config is None:
                kwargs[name] = value + grown
            else:
                setattr(config, name, value + grown)
