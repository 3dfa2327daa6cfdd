"""Datasets: columns, tags, types, encodings, lengths, streaming."""

import re

from ..row import Row


_COLUMNS = (
    r"from|value|role|content|conversations?|messages?|instruction|input|output|prompt|query|response|system|history|"
    r"chosen|rejected|label|kto_tag|tools?|images?|timeseries|text|user|assistant|human|gpt|observation|function_call|"
    r"answer|question"
)
_UNEVEN = "streaming: the main process tries to put batches of different length together and hand them out"
_DISPATCH = (
    "Set accelerator_config: {dispatch_batches: false} and dataloader_num_workers to at most the number of data "
    "files; or streaming: false"
)


def _decoding(match: re.Match[str]) -> tuple[str, str]:
    codec, byte, place = match["codec"], match["byte"], match["place"]
    what, fix = (
        f"a UTF-8 file was read as {codec} (the encoding of this Windows or locale)",
        "Set PYTHONUTF8=1 before the start (Windows: `set PYTHONUTF8=1`; Linux: also LANG=C.UTF-8)",
    )
    if codec.lower().startswith("utf"):
        fix = "Save the file as UTF-8: `iconv -f GB18030 -t UTF-8 OLD > NEW` (UTF-16: -f UTF-16); the traceback names "
        fix += "it; `lmf-chatts prepare` reads GBK files"

    if codec.lower().replace("_", "-") in ("utf8", "utf-8"):
        what = f"a file is not UTF-8 (byte {byte} at {place}): GBK or another encoding"
        if byte in ("0xff", "0xfe") and place == "0":
            what = "a file is not UTF-8, it is UTF-16 (its first byte says so), or no text at all"

    return what, fix


# fmt: off
ROWS = (
    Row(rf"KeyError: ['\"](?P<key>{_COLUMNS})['\"]",
        "the rows of the dataset have no {key}: its entry's columns or tags name something that is not there",
        "Correct `columns` and `tags` (role_tag, content_tag, user_tag, assistant_tag) of the entry in "
        "dataset_info.json, and its formatting (alpaca or sharegpt); `lmf-chatts dataset-info validate` and "
        "`lmf-chatts check` show what the file holds",
        frame=r"llamafactory|datasets[/\\]|transformers|torch[/\\]utils|multiprocess|^$"),
    Row(r"KeyError: ['\"](?P<key>[^'\"\n]+)['\"]",
        "the rows of the dataset have no {key}: its entry's columns or tags name something that is not there",
        "Correct `columns` and `tags` of the entry in dataset_info.json; `lmf-chatts dataset-info validate` shows "
        "what the file holds", likely=True,
        frame=r"llamafactory\S*[/\\]data[/\\](?:converter|aligner|loader|processor|preprocess)|arrow_dataset|"
              r"datasets[/\\]formatting"),
    Row(r"(?:Column (?:name )?|columns? )\[?['\"]?(?P<key>[\w-]+)['\"]?\]? (?:is |are )?(?:not in the dataset|doesn't "
        r"exist|not found|does not exist)|No column named (?P<name>\S+)|Column to remove \[?'(?P<gone>\w+)|Field "
        r"\"?(?P<field>\w+)\"? (?:does not exist|not found) in",
        "the dataset has no column {key|name|gone|field}",
        "Correct `columns` of its entry in dataset_info.json; `lmf-chatts dataset-info validate` shows what the file "
        "holds"),
    Row(r"Invalid role tag|Unexpected role: (?P<role>\S+)|Unexpected role tag|Invalid message count in|Unknown role",
        "roles of the dataset's turns are not those that its entry's tags name, or do not alternate",
        "Correct `tags` of the entry in dataset_info.json (role_tag, content_tag, user_tag, assistant_tag, "
        "system_tag); user and assistant must take turns; `lmf-chatts check DATASET` names the rows",
        lines=("Invalid role tag", "Invalid message count"), benign=True,
        explains=r"Cannot find (?:valid|sufficient)|KeyError|empty|num_samples=0|IndexError"),
    Row(r"All the data files must have the same columns|(?:because )?column names don't match|CastError|features "
        r"can't be aligned because|Schema at index \d+ was different",
        "files of the dataset, or rows in it, have different columns or types",
        "Give all files and rows the same keys with the same types; `lmf-chatts check DATASET` names the rows; delete "
        "the cached dataset (overwrite_cache: true) then"),
    Row(r"Column\((?P<column>[^)]*)\) changed from (?P<one>\w+) to (?P<two>\w+)(?: in row (?P<row>\d+))?|(?:cannot|"
        r"Cannot) mix list and non-list|Couldn't cast array of type|Unsupported cast from|(?:Could not|Couldn't) "
        r"convert [^\n]* with type \w+: (?:tried|was not)|Expected list, got|Expected \w+, got a '\w+' object|cannot "
        r"mix struct and non-struct|Value type [^\n]*(?:mismatch|clash)|ArrowTypeError|ArrowNotImplementedError",
        "a column of the dataset holds different types in different rows[: {column} is {one} first and {two} later]",
        "Give the column one type in every row (text, or lists, or numbers; an empty list in place of null or text); "
        "`lmf-chatts check DATASET` names the rows; `lmf-chatts prepare` writes one type"),
    Row(r"offset overflow while concatenating arrays|array cannot contain more than \d+|ArrowCapacityError|straddling "
        r"object straddles",
        "a batch of the dataset is larger than Arrow's arrays (2 GB), or one row is larger than a block",
        "Lower preprocessing_batch_size (for example 128); give series by path (.npy, .parquet) instead of text in "
        "JSON; split the file"),
    Row(r"Column \d+ named (?P<name>\w+) expected length (?P<wants>\d+) but got length (?P<has>\d+)",
        "a batch's columns have different lengths: {name} has {has} rows in place of {wants}",
        "Own columns of the file stand beside the ones that are made: remove columns that the recipe does not use, "
        "delete tokenized_path and set overwrite_cache: true"),
    Row(r"'(?P<codec>[\w-]+)' codec can't decode bytes? (?P<byte>0x[0-9a-f]{2})?(?: in position (?P<place>\d+))?",
        _decoding),
    Row(r"'(?P<codec>[\w-]+)' codec can't encode|surrogates not allowed",
        "text could not be written as {codec|UTF-8}",
        "Set PYTHONUTF8=1 before the start (and PYTHONIOENCODING=utf-8 for the console); `surrogates` are broken "
        "characters in the data: `lmf-chatts check DATASET` names the rows"),
    Row(r"invalid (?:UTF-8|utf8|start byte|continuation byte)|Invalid UTF-?8|Unexpected (?:UTF-8 BOM|BOM)|stream did "
        r"not contain valid UTF-8",
        "a file is not clean UTF-8: another encoding (GBK, UTF-16), or a byte-order mark in front",
        "Save it as UTF-8 without BOM: `iconv -f GB18030 -t UTF-8 OLD > NEW`; `lmf-chatts prepare` reads GBK files"),
    Row(r"[Nn]eat packing (?:is|requires)|length of packed example should be identical|packed (?:example|"
        r"sequence)s?[^\n]*length|cu_?seqlens?[^\n]*(?:must|mismatch|shape|expected)|position_ids[^\n]*packed|"
        r"attention_mask_in_length",
        "packing: the pieces of a packed row do not have the length that was counted for them",
        "Delete tokenized_path and the cache (overwrite_cache: true) if cutoff_len or the template changed; set "
        "packing: false to go on; ChatTS packs with neat_packing: true and template: chatts"),
    Row(r"(?:varlen|flash_attn_varlen|unpad|cu_seqlens)\w*|expected (?:key|query|value|position_ids|"
        r"attention_mask)[^\n]*length|expanded size of the tensor \(\d+\) must match the existing size|size of tensor "
        r"a \(\d+\) must match the size of tensor b|[Aa]ttention mask should be of size|attn_mask|shape of the mask|"
        r"attention_mask[^\n]*(?:shape|size|dim)",
        "attention got a mask or lengths that do not fit its input: packed rows (neat_packing) or padding with an "
        "attention that does not take them",
        "Set packing: false (neat_packing: false) to go on, or flash_attn: sdpa (auto, fa2) in place of what is set; "
        "ChatTS packs with template: chatts and needs no flash-attn for it", likely=True,
        frame=r"attention|attn|padding_free|varlen|masking|sdpa|modeling_"),
    Row(r"expected sequence of length (?P<wants>\d+) at dim \d+ \(got (?P<has>\d+)\)|Unable to create tensor, you "
        r"should probably activate (?:truncation|padding)|stack expects each tensor to be equal size|Trying to resize "
        r"storage that is not resizable",
        "rows of a batch have different lengths, and nothing padded them",
        "Columns of the file that are no text must not reach the collator: set remove_unused_columns: true, delete "
        "tokenized_path; packing: false shows whether packing is the reason", likely=True),
    Row(r"can't use batches of different size with `?dispatch_batches",
        _UNEVEN,
        _DISPATCH),
    Row(r"Sizes of tensors must match except in dimension 0|Can only concatenate tensors",
        _UNEVEN,
        _DISPATCH, frame=r"accelerate[/\\](?:data_loader|utils)|^$"),
    Row(r"`?(?P<one>\w+)`? is incompatible with `?(?P<two>streaming)`?|(?P<off>Turn off `streaming`) when saving "
        r"dataset",
        "streaming does not go together with {one|tokenized_path (saving the dataset to disk)}",
        "Remove {one|tokenized_path}, or set streaming: false"),
    Row(r"specify `max_steps` in streaming|Streaming mode should have|IterableDataset'? (?:has no len|object has no "
        r"attribute)|does not implement __len__|'IterableDataset' has no|args\.max_steps must be set|length of the "
        r"dataset is unknown",
        "streaming has no length: steps must be counted, and what needs all rows cannot be done",
        "Set max_steps in place of num_train_epochs, an integer val_size, no max_samples fraction, no "
        "group_by_length; or streaming: false"),
    Row(r"num_samples should be a positive integer value, but got num_samples=0|EmptyDatasetError|dataset is empty|"
        r"Dataset is empty|max\(\) (?:arg|iterable argument) is (?:an empty sequence|empty)",
        "no row is left to train on",
        "Look at the warnings above (rows left out for roles or length); `lmf-chatts check DATASET` names the rows; "
        "raise cutoff_len or max_samples"),
    Row(r"DatasetNotFoundError|DataFilesNotFoundError|Couldn't find (?:any data file|a dataset script) at "
        r"(?P<where>\S+)|Unable to find '(?P<file>[^']+)'",
        "the dataset is not there: {where|file|no such name on the Hub or folder}",
        "Correct file_name (relative to dataset_dir) or hf_hub_url in dataset_info.json; for a private one `hf auth "
        "login`"),
    Row(r"Unknown split \"?(?P<split>\w+)|Bad split: (?P<bad>\w+)|NonMatchingSplitsSizesError|Couldn't infer the same "
        r"data file format",
        "the dataset has no such split, or its splits do not fit its description",
        "Write `split` (and `subset`) in its entry in dataset_info.json as the dataset's page names them"),
    Row(r"(?:cannot|can't|Can't) pickle|PicklingError|bootstrapping phase",
        "something could not be handed to a worker process",
        "Set preprocessing_num_workers: 1 and dataloader_num_workers: 0; on Windows own scripts need `if __name__ == "
        "'__main__':`", likely=True),
    Row(r"(?P<what>(?:KeyError|IndexError|TypeError|ValueError|AttributeError): [^\n]*)",
        "a row of the dataset, or its entry in dataset_info.json, is not as the converter needs it: {what}",
        "Compare formatting, columns and tags with a row of the file; `lmf-chatts check DATASET` names the rows",
        likely=True,
        frame=r"llamafactory[/\\]data[/\\](?:converter|aligner|processor|parser|template|formatter|collator|"
              r"mm_plugin)", general=True),
    Row(r"DatasetGenerationError|An error occurred while generating the dataset",
        "a file of the dataset could not be read or written to the cache; the error above this one says why",
        "`lmf-chatts check DATASET` names the rows; look at the free space of HF_HOME and HF_DATASETS_CACHE",
        likely=True, general=True),
)
# fmt: on
