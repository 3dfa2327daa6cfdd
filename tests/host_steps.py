"""LLaMA-Factory's own steps from a recipe to data, a model and batches, as its workflows take them."""

from types import SimpleNamespace


def parse(settings):
    """Return the five argument objects of a recipe, by name."""
    from llamafactory.hparams import get_train_args

    names = ("model_args", "data_args", "training_args", "finetuning_args", "generating_args")
    return SimpleNamespace(**dict(zip(names, get_train_args(dict(settings)))))


def load_data(settings):
    """Return arguments, tokenizer, processor, template, ``train`` and ``eval`` (None where there is none)."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.model import load_tokenizer

    run = parse(settings)
    module = load_tokenizer(run.model_args)
    run.tokenizer, run.processor = module["tokenizer"], module["processor"]
    run.template = get_template_and_fix_tokenizer(run.tokenizer, run.data_args)
    stage = {"dpo": "rm"}.get(run.finetuning_args.stage, run.finetuning_args.stage)
    data = get_dataset(run.template, run.model_args, run.data_args, run.training_args, stage=stage, **module)
    run.train, run.eval = data.get("train_dataset"), data.get("eval_dataset")
    return run


def load_all(settings):
    """Return what :func:`load_data` does, and ``model``."""
    from llamafactory.model import load_model

    run = load_data(settings)
    run.model = load_model(run.tokenizer, run.model_args, run.finetuning_args, run.training_args.do_train)
    return run


def series_of(row):
    """Return the series that a tokenised row carries."""
    from llamafactory_chatts.host.rows.lane import unpack

    return [item.tolist() for item in unpack(row["audios"])]


def collate(run, rows, stage="sft"):
    """Return the batch that the trainer of ``stage`` would see."""
    import torch
    from llamafactory.data import (
        KTODataCollatorWithPadding,
        PairwiseDataCollatorWithPadding,
        SFTDataCollatorWith4DAttentionMask,
    )

    options = {
        "template": run.template,
        "tokenizer": run.tokenizer,
        "processor": run.processor,
        "label_pad_token_id": -100,
    }
    if stage == "sft":
        packed = {"block_diag_attn": run.model_args.block_diag_attn, "neat_packing": run.data_args.neat_packing}
        collator = SFTDataCollatorWith4DAttentionMask(
            **options, **packed, attn_implementation="sdpa", compute_dtype=torch.float32
        )
    else:
        collator = {"dpo": PairwiseDataCollatorWithPadding, "kto": KTODataCollatorWithPadding}[stage](**options)

    return collator([dict(row) for row in rows])
