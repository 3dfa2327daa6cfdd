"""What a recipe trains, and what the optimizer keeps for it."""

from dataclasses import dataclass

from ...recipe.reading import Recipe
from .base_model import BaseModel


@dataclass(frozen=True)
class Trained:
    """Parameters that are trained.

    Attributes:
        adapter: of the adapter, the encoder's part included.
        decoder: of the decoder's own weights, in full or freeze tuning.
        encoder: of the encoder's own weights.
        targets: names of the decoder's linear layers that keep their input for a gradient of weights.
        copies: weights that are kept beside their trained copy (``modules_to_save``).
    """

    adapter: int
    decoder: int
    encoder: int
    targets: frozenset[str]
    copies: int = 0

    @property
    def total(self) -> int:
        """All parameters that get a gradient."""
        return self.adapter + self.decoder + self.encoder


def count_trained(recipe: Recipe, base: BaseModel) -> Trained:
    """Return what a recipe trains; an adapter's target is a part of a layer's name, as in peft."""
    shape, mode = base.shape, recipe.encoder_mode
    if not recipe.adapter:
        encoder = base.encoder if mode == "full" else 0
        if recipe["freeze_language_model"]:
            return Trained(0, 0, encoder, frozenset())

        if recipe["finetuning_type"] == "full":
            return Trained(0, base.total - base.encoder, encoder, frozenset(base.linear))

        layers = min(abs(recipe["freeze_trainable_layers"]), shape.num_hidden_layers)
        small = base.small - shape.hidden_size  # the last norm belongs to no layer
        own = (base.layers + small) * layers // shape.num_hidden_layers
        return Trained(0, own, encoder, frozenset(base.linear) if layers else frozenset())

    wanted = recipe.names("lora_target")
    targets = {
        name for name in base.linear if wanted == ["all"] or any(item in name or name in item for item in wanted)
    }
    if recipe["freeze_language_model"]:
        targets = set()

    rank = recipe["lora_rank"]
    own = shape.num_hidden_layers * rank * sum(sum(base.linear[name]) for name in targets)
    if mode == "lora":
        own += rank * sum(inputs + outputs for inputs, outputs in base.encoder_linear)

    whole = mode == "full"
    return Trained(own, 0, base.encoder if whole else 0, frozenset(targets), base.encoder if whole else 0)


def state_bytes(optim: str, element: int) -> float:
    """Return the bytes that an optimizer keeps for one trained parameter of ``element`` bytes."""
    name = optim.lower()
    if "8bit" in name or "4bit" in name:
        moments = 1 if "lion" in name else 2
        return moments * (1.0 if "8bit" in name else 0.5)

    if "adafactor" in name or name == "sgd":
        return 0.0

    return element * (1.0 if "lion" in name else 2.0)


def is_paged(optim: str) -> bool:
    """Tell whether the optimizer's state may move to host memory."""
    return optim.lower().startswith("paged")
