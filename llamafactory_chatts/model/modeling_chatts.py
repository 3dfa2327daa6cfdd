"""ChatTS for transformers: Qwen2 and Qwen3 with a time-series encoder. Only the difference from Qwen stands here."""

from typing import Any

import torch
from torch import nn
from transformers import Qwen2ForCausalLM, Qwen3ForCausalLM
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from ..core.errors import ChatTSError
from .configuration_chatts import Qwen2TSConfig, Qwen3TSConfig
from .encoder import TimeSeriesEncoder
from .generating import TimeSeriesGeneration
from .loading.pretrained import ChatTSFiles
from .loss import shift_labels, sum_cross_entropy, sum_labelled_loss
from .padding_free import VARLEN, Samples
from .places import Places, fetch, read_places


class TimeSeriesForCausalLM(TimeSeriesGeneration):
    """What both kinds add to the backbone.

    Attributes:
        full_logits_in_training: compute logits at every position in training, too. False by default: the
            loss then needs logits at labelled positions only, and ``logits`` of the output is None.
            Without labels, and in evaluation mode, logits are always complete.
        padding_free: run the decoder over real tokens only, see :meth:`enable_padding_free`.
    """

    full_logits_in_training = False
    padding_free = False
    _counted: int | None = None
    accepts_loss_kwargs = True  # tells transformers.Trainer that `num_items_in_batch` is honoured

    def __init__(self, config) -> None:
        settings = config.time_series  # first: a config without them should not cost building the backbone
        super().__init__(config)
        self.ts_encoder = TimeSeriesEncoder(settings)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, TimeSeriesEncoder):
            for layer in module.mlp:
                if isinstance(layer, nn.Linear):
                    init.xavier_uniform_(layer.weight)
                    init.zeros_(layer.bias)
        else:
            super()._init_weights(module)

    def enable_padding_free(self) -> bool:
        """Let passes with labels skip padding, and take packed rows by their numbered mask. Returns whether it is on.

        It needs ``sdpa`` or flash-attn as attention and no sliding window; otherwise nothing changes.
        """
        if set(self.config.layer_types) != {"full_attention"}:
            return False

        if self.config._attn_implementation == "sdpa":
            self.config._attn_implementation = VARLEN

        name = self.config._attn_implementation
        self.padding_free = name == VARLEN or name.startswith("flash_attention")
        return self.padding_free

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """As in transformers; counted once without embeddings, since its trainer asks for that with every batch."""
        if only_trainable or not exclude_embeddings:
            return super().num_parameters(only_trainable, exclude_embeddings)

        if self._counted is None:
            self._counted = super().num_parameters(only_trainable, exclude_embeddings)

        return self._counted

    def encode_timeseries(
        self, timeseries: torch.Tensor, slots: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features ``(patches, hidden_size)`` and patches per series for ``(series, 2 * longest, 1)``."""
        return self.ts_encoder(timeseries, slots), self.ts_encoder.count_patches(timeseries)

    def _look(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        labels: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        timeseries: torch.Tensor | None,
        shape: tuple[int, int] | None = None,
    ) -> Places:
        """Return where things stand in a batch that comes without its places: the one wait for the device."""
        patches = None if timeseries is None else self.ts_encoder.count_patches(timeseries)
        if attention_mask is not None and (not torch.is_tensor(attention_mask) or attention_mask.dim() != 2):
            attention_mask = torch.ones(0)  # that its shape is another one is all that has to be known

        if position_ids is not None and (attention_mask is not None or position_ids.dim() != 2):
            position_ids = None

        found = fetch(
            {
                "ids": input_ids,
                "mask": attention_mask,
                "labels": labels,
                "position_ids": position_ids,
                "patches": patches,
            }
        )
        start_id, end_id = self.config.ts_token_start_index, self.config.ts_token_end_index
        return read_places(**found, start_id=start_id, end_id=end_id, shape=shape)

    def _embed(self, input_ids: torch.Tensor, timeseries: torch.Tensor | None, sent: dict[str, Any]) -> torch.Tensor:
        """Return embeddings with features in place, for ids with one ``<ts>`` per patch.

        Args:
            sent: what :meth:`.places.Places.send` returns; read with series only.
        """
        if timeseries is not None:
            features, _ = self.encode_timeseries(timeseries, sent["slots"])
            embeds = self.get_input_embeddings()(input_ids)
            flat = embeds.flatten(0, 1).index_copy(0, sent["marks"], features.to(embeds))
            return flat.view_as(embeds)

        # A rank whose batch has no series must not skip the encoder, and must meet it before the embedding as
        # the others do: with sharded weights (ZeRO-3, FSDP) all ranks wait for each other at each module.
        if not self.training and not torch.distributed.is_initialized():
            return self.get_input_embeddings()(input_ids)

        slot = torch.zeros(1, dtype=torch.long, device=input_ids.device)
        features, _ = self.encode_timeseries(self.ts_encoder.dummy(input_ids.device), slot)
        embeds = self.get_input_embeddings()(input_ids)
        return embeds + 0.0 * features.sum().to(embeds)

    def _check(self, places: Places, position_ids: torch.Tensor | None, timeseries: torch.Tensor | None) -> None:
        """Raise a :class:`ChatTSError` unless placeholders, series, mask and positions of a batch fit each other."""
        if timeseries is None and (places.marks.numel() or places.pairs):
            raise ChatTSError(
                "input_ids hold <ts> or <ts/> but no series were given",
                where="timeseries",
                fix="Pass timeseries=... of shape (series, 2 * longest, 1), or remove the placeholder",
            )

        if places.pairs and (places.numbered or position_ids is not None):
            raise ChatTSError(
                "<ts><ts/> pairs change the length of a row, so position_ids, packed or 4-D masks and "
                "a cache do not fit",
                where="input_ids",
                fix="Write <ts> once per patch",
            )

        if places.problem is not None:
            raise places.problem

    def _assert_places(self, input_ids: torch.Tensor, timeseries: torch.Tensor | None, sent: dict) -> None:
        """Let the device stop the run if the places handed over are those of another batch; waits for nothing."""
        at_patch = input_ids == self.config.ts_token_start_index
        fits = at_patch.flatten().index_select(0, sent["marks"]).all() & (at_patch.sum() == sent["marks"].numel())
        if timeseries is not None:
            fits = fits & (self.ts_encoder.count_patches(timeseries) == sent["patches"]).all()

        torch._assert_async(fits, "ChatTS: the places of this batch are those of another one")

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        timeseries: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        loss_weights: torch.Tensor | None = None,
        return_logits: bool | None = None,
        places: Places | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Run the model.

        Args:
            input_ids: shape ``(rows, length)``; a series is ``<ts>`` once per patch, or the pair ``<ts><ts/>``,
                which makes the row longer (logits then have the longer length).
            timeseries: shape ``(series, 2 * longest, 1)``, series in the order of their placeholders.
            labels: shape ``(rows, length)``, -100 where there is none.
            num_items_in_batch: the loss is the sum over labelled tokens divided by this; their own number if None.
            loss_weights: shape ``(rows,)``; the loss is then the sum over labelled tokens times their row's weight.
            return_logits: compute all logits even where the loss needs few; default see ``full_logits_in_training``.
            places: what the loader found in this batch, see :mod:`.places`; looked for here if None.

        Raises:
            ChatTSError: placeholders and series do not fit each other, or a series is too long.
        """
        if timeseries is not None and timeseries.shape[0] == 0:
            timeseries = None

        first_pass = past_key_values is None or past_key_values.get_seq_length() == 0
        embed = inputs_embeds is None and (first_pass or timeseries is not None)
        if inputs_embeds is not None and timeseries is not None:
            raise ChatTSError(
                "timeseries cannot be joined to inputs_embeds", where="inputs_embeds", fix="Pass input_ids instead"
            )

        given = input_ids if inputs_embeds is None else inputs_embeds
        assert given is not None, "input_ids or inputs_embeds must be given"
        sent: dict[str, Any] = {}
        if embed or labels is not None:
            device, shape = given.device, (given.shape[0], given.shape[1])
            timeseries = timeseries.to(device) if timeseries is not None else None
            if places is not None and (places.shape != shape or (labels is None) != (places.labelled is None)):
                places = None

            handed_over = places is not None
            if places is None:
                places = self._look(input_ids, attention_mask, labels, position_ids, timeseries, shape)

            if embed:
                self._check(places, position_ids, timeseries)

            if embed and places.pairs:
                counts = places.patches.to(device)
                given, attention_mask, labels = self._expand(given, attention_mask, labels, counts)
                places = self._look(given, attention_mask, labels, None, timeseries)

            sent = places.send(device, timeseries, self.ts_encoder.patch_size)
            if handed_over and embed:
                self._assert_places(given, timeseries, sent)

        if embed:
            inputs_embeds = self._embed(given, timeseries, sent)
        elif inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(given)

        samples: Samples | None = None
        mask: torch.Tensor | dict[str, None] | None = attention_mask
        plain = labels is not None and past_key_values is None and not kwargs.get("output_hidden_states")
        if self.padding_free and plain and (attention_mask is None or attention_mask.dim() == 2):
            batch, samples = inputs_embeds.shape[:2], sent["samples"]
            kwargs.update(samples.attention_kwargs(self.config._attn_implementation, inputs_embeds.dtype))
            inputs_embeds, position_ids, use_cache = samples.pick(inputs_embeds), samples.positions, False
            mask = {"full_attention": None}  # says to the backbone: nothing to be built
        elif position_ids is None and attention_mask is not None and attention_mask.dim() == 2:
            position_ids = ((attention_mask != 0).long().cumsum(dim=-1) - 1).clamp(min=0)
            position_ids = position_ids[:, -inputs_embeds.shape[1] :]

        outputs = self.model(
            input_ids=None,
            inputs_embeds=inputs_embeds,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        hidden = outputs.last_hidden_state
        if samples is not None:
            hidden = samples.put_back(hidden, *batch)

        if return_logits is None:
            return_logits = labels is None or not self.training or self.full_logits_in_training

        loss, logits = None, None
        if return_logits:
            keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(hidden[:, keep, :])

        if labels is not None:
            labelled = sent["labelled"].to(hidden.device)
            target = shift_labels(labels, hidden.device).flatten().index_select(0, labelled)
            weights = None
            if loss_weights is not None:
                weights = loss_weights.to(hidden.device, torch.float32).index_select(0, labelled // hidden.shape[1])

            if logits is not None and logits.shape[1] == hidden.shape[1]:
                loss = sum_cross_entropy(logits.flatten(0, 1).index_select(0, labelled), target, weights)
            else:
                sharded = hasattr(self.lm_head.weight, "ds_id")
                picked = hidden.flatten(0, 1).index_select(0, labelled)
                loss = sum_labelled_loss(self.lm_head, picked, target, weights, in_one=sharded)

            if loss_weights is None:
                items = max(labelled.numel(), 1) if num_items_in_batch is None else num_items_in_batch
                loss = loss / (items.to(loss.device) if torch.is_tensor(items) else items)

        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class Qwen2TSForCausalLM(TimeSeriesForCausalLM, ChatTSFiles, Qwen2ForCausalLM):
    """ChatTS on a Qwen2 or Qwen2.5 backbone."""

    config_class = Qwen2TSConfig
    _no_split_modules = ["Qwen2DecoderLayer", "TimeSeriesEncoder"]
    config: Qwen2TSConfig


class Qwen3TSForCausalLM(TimeSeriesForCausalLM, ChatTSFiles, Qwen3ForCausalLM):
    """ChatTS on a Qwen3 backbone."""

    config_class = Qwen3TSConfig
    _no_split_modules = ["Qwen3DecoderLayer", "TimeSeriesEncoder"]
    config: Qwen3TSConfig
