"""What LLaMA-Factory refuses in a recipe."""

from ..cause import rule


CAUSES = (
    rule(
        r"^(?:usage: [^\n]*\n)?(?P<who>(?:lmf-chatts|torchrun|accelerate|deepspeed)[\w -]*|[\w./-]+\.py): error: "
        r"(?P<what>[^\n]+)",
        "{who} does not take the command line: {what}",
        "Correct the words of the command; with --help it prints those it knows. Settings of a training go into its "
        "YAML file",
        needles=(": error: ",),
    ),
    rule(
        r"(?:keys|arguments) are not used by the HfArgumentParser: \[?(?P<keys>[^\]\n]*)",
        "the recipe has keys that LLaMA-Factory does not know: {keys}",
        "Correct or remove them; `lmf-chatts doctor RECIPE.yaml` names the nearest valid key",
    ),
    rule(
        r"Unknown attention type: (?P<value>\S+)",
        "flash_attn: {value} is no kind of attention; the key takes a word, not a boolean",
        "Write flash_attn: auto, disabled, sdpa, fa2 or fa3",
    ),
    rule(
        r"Invalid fine-tuning method",
        "finetuning_type is none of LLaMA-Factory's methods",
        "Write finetuning_type: lora, freeze, full or oft; DoRA is finetuning_type: lora with use_dora: true",
    ),
    rule(
        r"Unknown task: (?P<stage>.*?)\.?$",
        "stage: {stage} is unknown",
        "Write stage: sft, pt, rm, dpo, kto or ppo",
    ),
    rule(
        r"Undefined dataset (?P<name>.+?) in (?P<file>\w+\.json)",
        "dataset {name} has no entry in {file}",
        "Correct `dataset`, or add the entry with `lmf-chatts dataset-info`; names are separated by commas",
    ),
    rule(
        r"Cannot open (?P<file>\S+) due to .*?No such file",
        "{file} is not there",
        "Correct dataset_dir: it is the folder that holds dataset_info.json",
    ),
    rule(
        r"Cannot open (?P<file>\S+) due to (?P<why>.+)",
        "{file} cannot be read: {why}",
        "Correct the JSON at the named place; `python -m json.tool {file}` shows it",
    ),
    rule(
        r"ValueError: File (?P<file>\S+) not found\.",
        "the dataset's file {file} is not there",
        "Correct file_name in dataset_info.json, or dataset_dir in the recipe",
    ),
    rule(
        r"Template (?P<name>\S+) does not exist",
        "template: {name} is unknown",
        "Write template: chatts; if that is what stands there, the plug-in is not active: run `lmf-chatts doctor`",
    ),
    rule(
        r"Output directory already exists and is not empty|Output directory \(.*\) already exists",
        "output_dir holds an earlier run",
        "Choose another output_dir, or set overwrite_output_dir: true, or resume_from_checkpoint: true",
    ),
    rule(
        r"Quantization is only compatible with the LoRA or OFT method",
        "quantization_bit is set with a finetuning_type that trains the quantised weights",
        "Set finetuning_type: lora, or remove quantization_bit",
    ),
    rule(
        r"eval_dataset be provided or val_size|requires an eval_dataset",
        "evaluation is asked for without evaluation data",
        "Set val_size (for example 0.05) or eval_dataset; or remove do_eval and eval_strategy",
    ),
    rule(
        r"Please use `FORCE_TORCHRUN=1` to launch DeepSpeed",
        "DeepSpeed is configured, but one plain process was started",
        "Put FORCE_TORCHRUN=1 in front of llamafactory-cli, or start with torchrun or deepspeed",
    ),
    rule(
        r"Please launch distributed training with",
        "several GPUs are visible to one plain process",
        "Start with llamafactory-cli train, torchrun or deepspeed, or make one GPU visible: CUDA_VISIBLE_DEVICES=0",
    ),
    rule(
        r"Cannot find (?:valid|sufficient) samples",
        "no row of the dataset is left to train on",
        "Check the rows with `lmf-chatts check`; raise cutoff_len or max_samples if rows were left out for their "
        "length",
    ),
    rule(
        r"Target modules (?P<names>.+?) not found in the base model",
        "lora_target names layers that this model does not have: {names}",
        "Write lora_target: all, or names of Qwen: q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj",
    ),
    rule(
        r"At most one of fp16 and bf16 can be True",
        "both bf16 and fp16 are true",
        "Keep bf16: true on Ampere and later cards, fp16: true on older ones",
    ),
    rule(
        r"not supported between instances of '(?:str|float|int)' and '(?:str|float|int)'",
        "a number in the recipe was read as text",
        "Write numbers with a dot, 1.0e-4 instead of 1e-4: YAML reads the latter as text; no quotes around numbers",
        "likely",
        frame=r"optim/|trainer|training_args|hparams",
    ),
    rule(
        r"could not convert string to float: (?P<value>.+)|invalid literal for int\(\) with base 10: (?P<whole>.+)",
        lambda match: f"a value of the recipe is no number: {match['value'] or match['whole']}",
        "Correct the value; write 1.0e-4, without quotes and units",
        "likely",
        frame=r"training_args|hparams|hf_argparser|trainer",
    ),
    rule(
        r"yaml\.\w+\.\w+Error|(?:Scanner|Parser|Composer)Error: (?:while|mapping|expected|found)",
        "the recipe is not valid YAML",
        "Correct the line that the message names: spaces instead of tabs, `key: value`, one key a line",
    ),
    rule(
        r"Can't find a valid checkpoint at (?P<path>\S+)",
        "there is no checkpoint at {path}",
        "Correct resume_from_checkpoint: a folder checkpoint-N, or true for the newest one in output_dir",
    ),
    rule(
        r"`?(?P<one>\w+)`? (?:is|are) (?:incompatible|not compatible) with (?:the )?`?(?P<two>\w+)`?",
        "{one} and {two} exclude each other",
        "Remove one of the two from the recipe; `lmf-chatts doctor RECIPE.yaml` checks the whole recipe before "
        "anything loads",
        frame=r"hparams|llamafactory|^$",
        general=True,
    ),
    rule(
        r"ValueError: (?P<what>.+)",
        "LLaMA-Factory refuses the recipe: {what}",
        "Change the key that the message names; `lmf-chatts doctor RECIPE.yaml` checks the whole recipe before "
        "anything loads",
        frame=r"llamafactory/hparams/",
        general=True,
    ),
)
