"""Disk, permissions, missing or damaged files, the Hub."""

from .causes import rule


CAUSES = (
    rule(
        r"No space left on device|os error 28|Disk quota exceeded|ENOSPC",
        "the disk (or the quota) is full",
        "`df -h` and `df -i` of output_dir, HF_HOME and /tmp show which; free space, lower save_total_limit, set "
        "save_only_model: true, or move output_dir; then resume_from_checkpoint: true",
        needles=("No space left on device", "Disk quota exceeded"),
    ),
    rule(
        r"PermissionError: \[Errno 13\] Permission denied: '?(?P<file>[^'\n]*\.lock)|"
        r"Permission denied[^\n]*?(?P<other>/[^\n' ]*\.lock)",
        lambda match: f"this user may not open or make the lock file {match['file'] or match['other']}",
        "It or its folder belongs to another user: set HF_HOME to a folder of your own, or let its owner run "
        "`chmod -R g+rwX` on the shared cache",
    ),
    rule(
        r"PermissionError: \[Errno (?:1|13)\] (?:Permission denied|Operation not permitted): '?(?P<file>[^'\n]+)",
        "{file} may not be read or written by this user",
        "Choose another folder, or change its rights: `ls -ld {file}` and `id` show both",
    ),
    rule(
        r"\[Errno 30\] Read-only file system: '?(?P<file>[^'\n]*)",
        "the file system of {file} is read-only",
        "Choose an output_dir (or HF_HOME) on a disk that may be written; `dmesg -T` may say why it is read-only",
    ),
    rule(
        r"Permission denied \(os error 13\)|Read-only file system",
        "a file may not be written by this user, or its file system is read-only",
        "Choose another output_dir or HF_HOME; `touch` in the folder shows whether it is writable",
    ),
    rule(
        r"Too many open files",
        "the process has more files open than its limit allows",
        "ulimit -n 65536 before the start; lower dataloader_num_workers and preprocessing_num_workers",
        needles=("Too many open files",),
    ),
    rule(
        r"OSError: \[Errno 5\] Input/output error|OSError: \[Errno 116\] Stale file handle|Stale file handle",
        "the file system failed while a file was read or written",
        "Check disk or network mount (`dmesg -T`); copy model and data to a local disk",
    ),
    rule(
        r"Error while deserializing header: |incomplete metadata, file not fully covered|InvalidHeaderDeserialization|"
        r"PytorchStreamReader failed|failed finding central directory",
        "a weight file is damaged or was not downloaded to its end",
        "Delete that file and download it again; `ls -l` beside the sizes on the Hub shows which one",
    ),
    rule(
        r"GatedRepoError|Access to model (?P<repo>\S+) is restricted|Cannot access gated repo",
        "the model on the Hub is gated and this account has no access",
        "Accept its terms on the model page, then `hf auth login`, or give a local folder",
    ),
    rule(
        r"Repo id must be in the form|Repo id must use alphanumeric chars",
        "model_name_or_path is no model folder on this machine, and no name on the Hub either",
        "Correct the path: it must be the folder that holds config.json",
    ),
    rule(
        r"HFValidationError|is not a local folder and is not a valid model identifier|RepositoryNotFoundError",
        "model_name_or_path is neither a folder on this machine nor a model on the Hub that this account sees",
        "Correct the name or path; for a private model `hf auth login`",
    ),
    rule(
        r"Cannot find the requested files in the disk cache and outgoing traffic has been disabled|"
        r"OfflineModeIsEnabled|"
        r"outgoing traffic has been disabled|offline mode is enabled",
        "offline mode is on (HF_HUB_OFFLINE=1) and the model is not in the cache",
        "Give the local folder in model_name_or_path, or unset HF_HUB_OFFLINE and download it once: `hf download "
        "NAME`",
    ),
    rule(
        r"We couldn't connect to '?(?P<url>\S+?)'? to load|LocalEntryNotFoundError|Max retries exceeded with url|"
        r"Temporary failure in name resolution|Name or service not known|"
        r"(?:httpx|requests\.exceptions|urllib3)\S*\.(?:ConnectError|ConnectTimeout|ConnectionError|ReadTimeout|"
        r"ProxyError)",
        "the Hub could not be reached, and the files are not in the cache",
        "Check network and proxy; or download on another machine and give the local folder; HF_ENDPOINT names a "
        "mirror",
    ),
    rule(
        r"Error no file named (?P<name>[\w.]+)[^\n]*found in directory (?P<folder>\S+?)\.?$",
        "the model folder {folder} holds no weights",
        "Give the folder with config.json and *.safetensors; an adapter folder goes into adapter_name_or_path",
    ),
    rule(
        r"does not appear to have a file named (?P<name>\S+?)\.? ",
        "the model folder lacks {name}",
        "Correct model_name_or_path, or complete the download",
    ),
    rule(
        r"Can't find '?adapter_config\.json'? at '?(?P<path>[^'\s]+)",
        "{path} is no adapter folder: it has no adapter_config.json",
        "Correct adapter_name_or_path: a finished output_dir, or one of its checkpoint-N folders",
    ),
    rule(
        r"Can't load (?:tokenizer|the configuration|image processor|feature extractor) for '(?P<path>[^']+)'",
        "model_name_or_path {path} holds no loadable model",
        "Correct the path: it must be the folder that holds config.json and tokenizer.json",
        general=True,
    ),
    rule(
        r"JSONDecodeError: (?P<what>.+)|ArrowInvalid: JSON parse error: (?P<arrow>.+)",
        lambda match: f"a JSON file is not valid: {match['what'] or match['arrow']}",
        "The traceback above names the file; `lmf-chatts check` shows the row of a dataset, `python -m "
        "json.tool` the place",
        "likely",
    ),
    rule(
        r"FileNotFoundError: \[Errno 2\] No such file or directory: '?(?P<file>[^'\n]+)",
        "{file} is not there",
        "Correct the path; a relative one counts from the folder in which the command was started",
        general=True,
    ),
)
