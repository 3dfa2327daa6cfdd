"""Disk, permissions, missing or damaged files; the Hub and the services that record a run: access, keys, network."""

import re

from ..row import Row


# fmt: off
_SERVICES = {
    "wandb": ("Weights & Biases",
              "`wandb login` or WANDB_API_KEY; without an account WANDB_MODE=offline, or report_to: none"),
    "swanlab": ("SwanLab",
                "`swanlab login`, SWANLAB_API_KEY, or swanlab_api_key in the recipe; without an account swanlab_mode: "
                "local, or use_swanlab: false"),
    "comet": ("Comet", "`comet login` or COMET_API_KEY; or report_to: none"),
    "neptune": ("Neptune", "NEPTUNE_API_TOKEN; or report_to: none"),
    "mlflow": ("MLflow", "MLFLOW_TRACKING_URI and its user and password; or report_to: none"),
    "": ("the service in report_to", "Log in to it, or report_to: none"),
}
# fmt: on


def _service(match: re.Match[str]) -> tuple[str, str]:
    return next(_SERVICES[name] for name in _SERVICES if name in match.string.lower())


def _no_key(match: re.Match[str]) -> tuple[str, str]:
    name, fix = _service(match)
    return f"{name} is asked to record the run, and there is no valid key (login) for it", fix


def _no_service(match: re.Match[str]) -> tuple[str, str]:
    name, fix = _service(match)
    end = f"Check network and proxy, or record on this machine only: {fix}"
    return f"{name} could not be reached from this machine", end


# fmt: off
ROWS = (
    Row(r"No space left on device|os error 28|Disk quota exceeded|\[Errno 122\]|ENOSPC|EDQUOT|not enough space on the "
        r"disk|\[WinError 112\]|Not enough (?:free )?disk space",
        "the disk (or the quota) is full",
        "`df -h` and `df -i` of output_dir, HF_HOME and /tmp show which (`quota -s` for a quota); free space, lower "
        "save_total_limit, or move output_dir with its checkpoints, or the cache (HF_HOME, HF_DATASETS_CACHE); delete "
        "the checkpoint that was being saved, then start again: it goes on from the one before (save_only_model: true "
        "saves space, but nothing can go on from there)", lines=("No space left on device", "Disk quota exceeded")),
    Row(r"PytorchStreamWriter failed writing file|iostream error|unexpected pos \d+ vs \.? ?\d+|"
        r"inline_container\.cc:\d+[^\n]*(?:writ|enforce fail|pos)|basic_ios::clear|(?:Error while serializing|"
        r"SafetensorError)[^\n]*(?:Io ?Error|I/O error)|file write failed",
        "a checkpoint could not be written to its end: the disk (or the quota) is full, or the network file system "
        "failed",
        "`df -h` and `df -i` of output_dir show whether it is full; free space, lower save_total_limit, or move "
        "output_dir to a local disk; delete the unfinished checkpoint folder, then resume_from_checkpoint with the "
        "one before", likely=True, lines=("PytorchStreamWriter failed",)),
    Row(r"[Pp]aging file is too small|os error 1455|WinError 1455",
        "Windows' paging file (virtual memory) is too small for the weights, or for the libraries that each worker "
        "process loads",
        "Enlarge the paging file (System > Advanced > Performance > Virtual memory: as large as the weights plus 20 "
        "GB, on a disk with room) and restart; set dataloader_num_workers: 0 and preprocessing_num_workers: 1"),
    Row(r"\[WinError 1314\]|A required privilege is not held by the client",
        "Windows lets this user make no symbolic links, which the Hub's cache wants",
        "Turn on developer mode (or run once as administrator), or download into a folder: `hf download NAME "
        "--local-dir DIR`"),
    Row(r"\[WinError 32\]|being used by another process",
        "another process (a virus scanner, an earlier run, a viewer) holds a file of the output or cache",
        "Close it, end earlier Python processes, or take another output_dir"),
    Row(r"PermissionError: \[Errno 13\] Permission denied: '?(?P<file>[^'\n]*\.lock)|Permission "
        r"denied[^\n]*?(?P<other>/[^\n' ]*\.lock)",
        "this user may not open or make the lock file {file|other}",
        "It or its folder belongs to another user: set HF_HOME to a folder of your own, or let its owner run `chmod "
        "-R g+rwX` on the shared cache"),
    Row(r"PermissionError: \[Errno (?:1|13)\] (?:Permission denied|Operation not permitted): '?(?P<file>[^'\n]+)",
        "{file} may not be read or written by this user",
        "Choose another folder, or change its rights: `ls -ld {file}` and `id` show both"),
    Row(r"\[Errno 30\] Read-only file system: '?(?P<file>[^'\n]*)",
        "the file system of {file} is read-only",
        "Choose an output_dir (or HF_HOME) on a disk that may be written; `dmesg -T` may say why it is read-only"),
    Row(r"Permission denied \(os error 13\)|Read-only file system",
        "a file may not be written by this user, or its file system is read-only",
        "Choose another output_dir or HF_HOME; `touch` in the folder shows whether it is writable"),
    Row(r"Too many open files",
        "the process has more files open than its limit allows",
        "ulimit -n 65536 before the start; lower dataloader_num_workers and preprocessing_num_workers",
        lines=("Too many open files",)),
    Row(r"\[Errno 5\] Input/output error|\[Errno 116\]|[Ss]tale (?:NFS )?file handle|\[Errno 107\]|Transport endpoint "
        r"is not connected|\[Errno 121\] Remote I/O|\[Errno 112\] Host is down|os error (?:5|116)\b",
        "the file system (a disk, or a network mount such as NFS) failed while a file was read or written",
        "Check the mount (`dmesg -T`, `mount | grep nfs`, another node that removed or replaced the file); copy model "
        "and data to a local disk, put output_dir and HF_HOME there"),
    Row(r"\[Errno 37\]|No locks available|\[Errno 11\] Resource temporarily unavailable: '?[^'\n]*lock|"
        r"flock[^\n]*(?:fail|not supported)|\[Errno (?:38|95|524)\]",
        "the file system (NFS or another network mount) has no locks, which the caches need",
        "Put HF_HOME, HF_DATASETS_CACHE and TRITON_CACHE_DIR on a local disk; or mount NFS with its lock daemon"),
    Row(r"Device or resource busy: '?[^'\n]*\.nfs|\[Errno 39\] Directory not empty|Directory not empty: "
        r"'?(?P<dir>[^'\n]+)|tmp-checkpoint-\d+",
        "several processes or nodes write into one folder over a network mount, or a file that is still open was "
        "removed there",
        "Several nodes: a folder of its own per node with save_on_each_node: true, or one shared output_dir without "
        "it; remove the left-over folder and resume_from_checkpoint: true", likely=True),
    Row(r"No such file or directory:? ['\"]?(?P<file>[^'\"\n]*-\d{5}-of-\d{5}\.(?:safetensors|bin))|does not appear "
        r"to have (?:a file|files) named [^\n]*?(?P<part>[\w-]*-\d{5}-of-\d{5}\.\w+)",
        "a part of the weights is missing, the download is not complete: {file|part}",
        "Download the missing files again (`hf download NAME`); `ls -l` beside the index shows which"),
    Row(r"Error while deserializing header: |incomplete metadata, file not fully covered|InvalidHeaderDeserialization|"
        r"PytorchStreamReader failed|failed finding central directory",
        "a weight file is damaged or was not downloaded to its end",
        "Delete that file and download it again; `ls -l` beside the sizes on the Hub shows which one"),
    Row(r"Error no file named (?P<name>[\w.]+)[^\n]*found in directory (?P<folder>\S+?)\.?$",
        "the model folder {folder} holds no weights",
        "Give the folder with config.json and *.safetensors; an adapter folder goes into adapter_name_or_path"),
    Row(r"does not appear to have a file named (?P<name>\S+?)\.? ",
        "the model folder lacks {name}",
        "Correct model_name_or_path, or complete the download; an adapter's folder goes into adapter_name_or_path, "
        "its base into model_name_or_path"),
    Row(r"Can't find '?adapter_config\.json'? at '?(?P<path>[^'\s]+)",
        "{path} is no adapter folder: it has no adapter_config.json",
        "Correct adapter_name_or_path: a finished output_dir, or one of its checkpoint-N folders"),
    Row(r"Can't load (?:tokenizer|the configuration|image processor|feature extractor) for '(?P<path>[^']+)'",
        "model_name_or_path {path} holds no loadable model",
        "Correct the path: it must be the folder that holds config.json and tokenizer.json", general=True),
    Row(r"JSONDecodeError: (?P<what>.+)|ArrowInvalid: JSON parse error: (?P<arrow>.+)",
        "a JSON file is not valid: {what|arrow}",
        "The traceback above names the file; `lmf-chatts check` shows the row of a dataset, `python -m json.tool` the "
        "place", likely=True, general=True),
    Row(r"FileNotFoundError: \[Errno 2\] No such file or directory: '?(?P<file>[^'\n]+)",
        "{file} is not there",
        "Correct the path; a relative one counts from the folder in which the command was started", general=True),
    Row(r"api_key not configured|[Nn]o API key (?:configured|found|provided)|API key (?:must be|is (?:not|invalid|"
        r"incorrect|missing)|not found|verification failed|length)|(?:wandb|swanlab|W&B)[^\n]*(?:not logged in|"
        r"[Pp]lease (?:login|log in)|login failed|401|403|[Uu]nauthori[sz]ed|[Pp]ermission denied|[Aa]uthenticat|"
        r"[Aa]uthoriz)|KeyFileError|call wandb\.login|(?:wandb|swanlab) login|MissingApiTokenException|requires an "
        r"API key|未登录|请先登录|未经授权",
        _no_key, lines=("api_key not configured", "No API key configured", "not logged in"),
        explains=r"wandb|swanlab|CommError|UsageError|EOFError"),
    Row(r"wandb[^\n]*(?:CommError|[Nn]etwork|timed out|connect)|swanlab[^\n]*(?:[Cc]onnection|[Tt]imeout|timed out|"
        r"proxy|network)|Run initialization has timed out",
        _no_service, likely=True),
    Row(r"EOFError: EOF when reading a line",
        "a program asked for something to be typed (most often the key of wandb or swanlab) where nobody can type",
        "Log in once by hand (`wandb login`, `swanlab login`) or set WANDB_API_KEY, SWANLAB_API_KEY; or report_to: "
        "none and use_swanlab: false", likely=True),
    Row(r"LocalTokenNotFoundError|Token is required|401 Client Error: Unauthorized|Invalid user token|Invalid "
        r"credentials in Authorization header|(?:HF_TOKEN|token)[^\n]* (?:is )?(?:expired|invalid|not valid)",
        "the Hub wants a login, or does not take the one that is set",
        "`hf auth login`, or unset a stale HF_TOKEN; ModelScope: `modelscope login`; or give a local folder"),
    Row(r"ProxyError|[Uu]nable to connect to proxy|Cannot connect to proxy|Tunnel connection failed|(?:http|https|"
        r"all)_proxy[^\n]*(?:invalid|refused)|Unknown scheme for proxy|SOCKS support|socksio",
        "the proxy that is set (http_proxy, https_proxy, all_proxy) does not answer or is not understood, so the Hub "
        "(or its mirror) cannot be reached",
        "Correct or unset http_proxy, https_proxy and all_proxy (no_proxy for the mirror); or download on another "
        "machine and give the local folder"),
    Row(r"SSLError|CERTIFICATE_VERIFY_FAILED|SSL: \w+|certificate verify failed",
        "the secure connection to the Hub failed: a proxy or firewall puts its own certificate in between, or breaks "
        "the connection",
        "Set REQUESTS_CA_BUNDLE and SSL_CERT_FILE to your organisation's certificate, or HF_ENDPOINT to a mirror; or "
        "download elsewhere and give the local folder"),
    Row(r"hf_transfer['\"]? package is not available|HF_HUB_ENABLE_HF_TRANSFER",
        "HF_HUB_ENABLE_HF_TRANSFER=1 is set, and its package is not installed",
        "unset HF_HUB_ENABLE_HF_TRANSFER, or pip install hf_transfer"),
    Row(r"GatedRepoError|Access to model (?P<repo>\S+) is restricted|Cannot access gated repo",
        "the model on the Hub is gated and this account has no access",
        "Accept its terms on the model page, then `hf auth login`, or give a local folder"),
    Row(r"Repo id must be in the form|Repo id must use alphanumeric chars",
        "model_name_or_path is no model folder on this machine, and no name on the Hub either",
        "Correct the path: it must be the folder that holds config.json"),
    Row(r"HFValidationError|is not a local folder and is not a valid model identifier|RepositoryNotFoundError",
        "model_name_or_path is neither a folder on this machine nor a model on the Hub that this account sees",
        "Correct the name or path; for a private model `hf auth login`"),
    Row(r"(?:modelscope|ModelScope)[^\n]*(?:NotExistError|not exists?\b|404)|NotExistError|404 Client Error|"
        r"(?<!Local)EntryNotFoundError",
        "the Hub (or ModelScope) has no such model, dataset or file",
        "Correct the name: USER/NAME as its page shows it, on the hub that is asked (USE_MODELSCOPE_HUB=1 asks "
        "ModelScope)"),
    Row(r"OfflineModeIsEnabled|outgoing traffic has been disabled|offline mode is enabled",
        "offline mode is on (HF_HUB_OFFLINE=1) and the model is not in the cache",
        "Give the local folder in model_name_or_path, or unset HF_HUB_OFFLINE and download it once: `hf download "
        "NAME`"),
    Row(r"We couldn't connect to '?(?P<url>\S+?)'? to load|LocalEntryNotFoundError|Max retries exceeded with url|"
        r"Temporary failure in name resolution|Name or service not known|\b(?:429|500|502|503|504) (?:Client|Server) "
        r"Error|Too Many Requests|Gateway Time-?out|IncompleteRead|ChunkedEncodingError|Connection to [^\n]* timed "
        r"out|Consistency check failed|Network is unreachable|(?:httpx|requests\.exceptions|"
        r"urllib3)\S*\.(?:ConnectError|ConnectTimeout|ConnectionError|ReadTimeout|ProxyError)",
        "the Hub could not be reached, and the files are not in the cache",
        "Check network and proxy; or download on another machine and give the local folder; HF_ENDPOINT names a "
        "mirror"),
)
# fmt: on
