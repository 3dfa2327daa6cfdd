"""The Hub and the services that record a run: access, keys, network."""

import re

from .causes import rule


_SERVICES = {
    "wandb": (
        "Weights & Biases",
        "`wandb login` or WANDB_API_KEY; without an account WANDB_MODE=offline, or report_to: none",
    ),
    "swanlab": (
        "SwanLab",
        "`swanlab login`, SWANLAB_API_KEY, or swanlab_api_key in the recipe; without an account swanlab_mode: local, "
        "or use_swanlab: false",
    ),
    "comet": ("Comet", "`comet login` or COMET_API_KEY; or report_to: none"),
    "neptune": ("Neptune", "NEPTUNE_API_TOKEN; or report_to: none"),
    "mlflow": ("MLflow", "MLFLOW_TRACKING_URI and its user and password; or report_to: none"),
}


def _service(match: re.Match[str]) -> tuple[str, str]:
    text = match.string.lower()
    return next(
        (value for key, value in _SERVICES.items() if key in text),
        ("the service in report_to", "Log in to it, or report_to: none"),
    )


CAUSES = (
    rule(
        r"api_key not configured|[Nn]o API key (?:configured|found|provided)|API key (?:must be|is (?:not|invalid|"
        r"incorrect|missing)|not found|verification failed|length)|(?:wandb|swanlab|W&B)[^\n]*(?:not logged in|"
        r"[Pp]lease (?:login|log in)|login failed|401|403|[Uu]nauthori[sz]ed|[Pp]ermission denied|[Aa]uthenticat|"
        r"[Aa]uthoriz)|KeyFileError|call wandb\.login|(?:wandb|swanlab) login|MissingApiTokenException|requires an "
        r"API key|未登录|请先登录|未经授权",
        lambda m: f"{_service(m)[0]} is asked to record the run, and there is no valid key (login) for it",
        lambda m: _service(m)[1],
        needles=("api_key not configured", "No API key configured", "not logged in"),
        explains=r"wandb|swanlab|CommError|UsageError|EOFError",
    ),
    rule(
        r"wandb[^\n]*(?:CommError|[Nn]etwork|timed out|connect)|wandb\.errors\.\S*CommError[^\n]*|"
        r"swanlab[^\n]*(?:[Cc]onnection|[Tt]imeout|timed out|proxy|network)|Run initialization has timed out",
        lambda m: f"{_service(m)[0]} could not be reached from this machine",
        lambda m: f"Check network and proxy, or record on this machine only: {_service(m)[1]}",
        "likely",
    ),
    rule(
        r"EOFError: EOF when reading a line",
        "a program asked for something to be typed (most often the key of wandb or swanlab) where nobody can type",
        "Log in once by hand (`wandb login`, `swanlab login`) or set WANDB_API_KEY, SWANLAB_API_KEY; or report_to: "
        "none and use_swanlab: false",
        "likely",
    ),
    rule(
        r"LocalTokenNotFoundError|Token is required|401 Client Error: Unauthorized|Invalid user token|Invalid "
        r"credentials in Authorization header|(?:HF_TOKEN|token)[^\n]* (?:is )?(?:expired|invalid|not valid)",
        "the Hub wants a login, or does not take the one that is set",
        "`hf auth login`, or unset a stale HF_TOKEN; ModelScope: `modelscope login`; or give a local folder",
    ),
    rule(
        r"ProxyError|[Uu]nable to connect to proxy|Cannot connect to proxy|Tunnel connection failed|(?:http|https|"
        r"all)_proxy[^\n]*(?:invalid|refused)|Unknown scheme for proxy|SOCKS support|socksio",
        "the proxy that is set (http_proxy, https_proxy, all_proxy) does not answer or is not understood, so the Hub "
        "(or its mirror) cannot be reached",
        "Correct or unset http_proxy, https_proxy and all_proxy (no_proxy for the mirror); or download on another "
        "machine and give the local folder",
    ),
    rule(
        r"SSLError|CERTIFICATE_VERIFY_FAILED|SSL: \w+|certificate verify failed",
        "the secure connection to the Hub failed: a proxy or firewall puts its own certificate in between, or breaks "
        "the connection",
        "Set REQUESTS_CA_BUNDLE and SSL_CERT_FILE to your organisation's certificate, or HF_ENDPOINT to a mirror; or "
        "download elsewhere and give the local folder",
    ),
    rule(
        r"hf_transfer['\"]? package is not available|HF_HUB_ENABLE_HF_TRANSFER",
        "HF_HUB_ENABLE_HF_TRANSFER=1 is set, and its package is not installed",
        "unset HF_HUB_ENABLE_HF_TRANSFER, or pip install hf_transfer",
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
        r"(?:modelscope|ModelScope)[^\n]*(?:NotExistError|not exists?\b|404)|NotExistError|404 Client Error|"
        r"(?<!Local)EntryNotFoundError",
        "the Hub (or ModelScope) has no such model, dataset or file",
        "Correct the name: USER/NAME as its page shows it, on the hub that is asked (USE_MODELSCOPE_HUB=1 asks "
        "ModelScope)",
    ),
    rule(
        r"Cannot find the requested files in the disk cache and outgoing traffic has been disabled|"
        r"OfflineModeIsEnabled|outgoing traffic has been disabled|offline mode is enabled",
        "offline mode is on (HF_HUB_OFFLINE=1) and the model is not in the cache",
        "Give the local folder in model_name_or_path, or unset HF_HUB_OFFLINE and download it once: `hf download "
        "NAME`",
    ),
    rule(
        r"We couldn't connect to '?(?P<url>\S+?)'? to load|LocalEntryNotFoundError|Max retries exceeded with url|"
        r"Temporary failure in name resolution|Name or service not known|SSLError|CERTIFICATE_VERIFY_FAILED|SSL: "
        r"UNEXPECTED_EOF|ProxyError|\b(?:429|500|502|503|504) (?:Client|Server) Error|Too Many Requests|Gateway "
        r"Time-?out|IncompleteRead|ChunkedEncodingError|Connection to [^\n]* timed out|Consistency check failed|"
        r"Network is unreachable|(?:httpx|requests\.exceptions|urllib3)\S*\.(?:ConnectError|ConnectTimeout|"
        r"ConnectionError|ReadTimeout|ProxyError)",
        "the Hub could not be reached, and the files are not in the cache",
        "Check network and proxy; or download on another machine and give the local folder; HF_ENDPOINT names a "
        "mirror",
    ),
)
