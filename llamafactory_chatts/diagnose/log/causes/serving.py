"""After the training: export, other runtimes, vLLM, the API and the web page; and accelerators other than NVIDIA's."""

from ..row import Row


# fmt: off
ROWS = (
    Row(r"(?:hf[-_]to[-_]gguf|llama[._-]?cpp|ollama|gguf)[^\n]*(?:not supported|does not recognize|unsupported|"
        r"unknown|not implemented|ERROR)|unknown model architecture: '(?P<arch>\w+)'|(?:Model|Architecture) "
        r"'?(?P<model>\w*TS\w*)'? (?:is )?not supported",
        "llama.cpp (GGUF, Ollama) does not support the architecture of ChatTS: such a model cannot be converted",
        "Serve the exported folder with transformers (llamafactory-cli api) or with a vLLM that has ChatTS",
        lines=("hf-to-gguf", "unknown model architecture", "ollama", "gguf"),
        explains=r"model type|not supported|NotImplemented|architecture|KeyError"),
    Row(r"GenerationConfig is invalid|[Gg]eneration config[^\n]*(?:is invalid|non-default generation parameters)|"
        r"generation flags are not valid|`do_sample` is set to `False`",
        "generation_config.json of the base contradicts itself (temperature, top_p or top_k with do_sample: false), "
        "and saving refuses it",
        "Edit generation_config.json in the base's folder: do_sample true, or remove temperature, top_p and top_k; "
        "then export again", lines=("GenerationConfig is invalid",)),
    Row(r"[Ss]ome tensors share memory|contained shared tensors|shared tensors[^\n]*mismatching",
        "weights that share memory (tied embeddings) cannot be saved as they are",
        "Set save_safetensors: true with the supported versions; own code saves with model.save_pretrained: {pip "
        "transformers safetensors}"),
    Row(r"(?P<need>[\d.]+ GiB) KV cache is needed[^\n]*?available KV cache memory \((?P<has>[\d.]+ GiB)\)|No "
        r"available memory for the cache blocks|max seq len \(\d+\) is larger than the maximum number of tokens that "
        r"can be stored in KV cache",
        "too little GPU memory is left for the KV cache at this maximum length[: {need} are needed, {has} are there]",
        "Lower vllm_maxlen (max_model_len), raise vllm_gpu_util (gpu_memory_utilization, up to 0.95), or serve on "
        "more cards", lines=("KV cache is needed", "No available memory for the cache blocks")),
    Row(r"Free memory on device[^\n]*less than desired GPU memory utilization",
        "vLLM wants a share of the GPU's memory that other processes hold",
        "End them (`nvidia-smi`), or lower vllm_gpu_util (gpu_memory_utilization)"),
    Row(r"max_model_len \(?(?P<want>\d+)\)? is greater than the derived max_model_len|longer than the maximum model "
        r"length|maximum context length is \d+|Input length [^\n]* exceeds",
        "a prompt with its series is longer than the length that the server was started for",
        "Raise vllm_maxlen (max_model_len) up to what the base takes, or send fewer or shorter series"),
    Row(r"Model architectures? \[(?P<arch>[^\]]*)\][^\n]*(?:not supported|failed to be inspected)|cannot find model "
        r"module",
        "this vLLM does not know the architecture of ChatTS: {arch}",
        "Serve with a vLLM in which ChatTS is registered (ChatTS's own repository names it), or with infer_backend: "
        "huggingface (llamafactory-cli api), where `lmf-chatts doctor` shows that the plug-in is active"),
    Row(r"At most (?P<count>\d+) (?P<what>\w+?)\(?s?\)? may be provided in one (?:request|prompt)",
        "a request holds more series (or other inputs) than vLLM was started for: {count} {what}",
        "Raise limit_mm_per_prompt in vllm_config for {what}, or send fewer in one request"),
    Row(r"roles must alternate",
        "the messages of a request do not alternate between user and assistant",
        "Send them in turns, the system's first; series belong into user turns"),
    Row(r"LoRA rank (?P<rank>\d+) is greater than max_lora_rank",
        "the adapter's rank {rank} is above what vLLM was started for",
        "Set vllm_config: {max_lora_rank: {rank}}, or merge the adapter first: llamafactory-cli export"),
    Row(r"(?:attention heads|vocab size|hidden size)[^\n]*(?:must be|not) divisible by tensor parallel size|world "
        r"size \(\d+\) is larger than the number of available GPUs",
        "the model cannot be split over that many GPUs",
        "Choose tensor_parallel_size (visible GPUs) as a divisor of the attention heads: 1, 2, 4 or 8"),
    Row(r"Model architectures? \[[^\]]*\][^\n]*(?:not supported|failed to be inspected)|Engine core initialization "
        r"failed",
        "the server did not start its model: this vLLM does not know the architecture, or the error above ended it",
        "Take a vLLM with ChatTS registered (ChatTS's own repository names it), or infer_backend: huggingface; read "
        "the first error of the engine above", likely=True, general=True),
    Row(r"When localhost is not accessible|Could not create share link",
        "the web page (gradio) cannot reach localhost: a proxy is set for it, or gradio and pydantic do not fit",
        "`export no_proxy=localhost,127.0.0.1` (or unset http_proxy, https_proxy, all_proxy); "
        "GRADIO_SERVER_NAME=0.0.0.0; {pip --upgrade gradio} in its own environment if it stays",
        lines=("When localhost is not accessible",)),
    Row(r"TypeError: (?:argument of type 'bool' is not iterable|unhashable type: 'dict')|schema\.get|Pydantic\w*Error|"
        r"is not a known gradio",
        "the web page's packages (gradio, gradio_client, pydantic, starlette) do not fit each other",
        "{pip --upgrade gradio} with what LLaMA-Factory's own requirements allow; training needs no web page: "
        "llamafactory-cli train", frame=r"gradio|starlette|jinja2|^$"),
    Row(r"has no attribute 'npu'|\baclnn\w+|\bE[A-Z]\d{4}\b|\bERR\d{5} \w+|The Inner error is reported as above|"
        r"torch_npu|\bCANN\b|\bAscend\b|HCCL|libascend\w*|\bacl(?:rt|op)\w+|NPU (?:error|function error)|kernel "
        r"(?:package|binary)[^\n]*(?:not found|not exist)",
        "an operation of the Ascend NPU failed: its kernels (the CANN kernel package), torch_npu and the driver are "
        "missing or do not fit each other",
        "Install CANN's toolkit and the kernels package for this NPU in one version, `source "
        "/usr/local/Ascend/ascend-toolkit/set_env.sh`, and the torch_npu that belongs to torch; ChatTS is not tested "
        "there", likely=True, lines=("aclnn", "ERR0", "ERR9", "The Inner error is reported", "libascend"),
        explains=r"Inner error|acl|npu|NPU|Ascend|ERR\d|ImportError"),
    Row(r"MPS (?:backend|framework)|not (?:currently )?(?:implemented|supported) (?:for|on) (?:the )?MPS|"
        r"PYTORCH_ENABLE_MPS_FALLBACK",
        "an operation does not run on Apple's GPU (MPS)",
        "Set use_cpu: true, or PYTORCH_ENABLE_MPS_FALLBACK=1; 4 bits, bf16 and DeepSpeed want an NVIDIA card"),
    Row(r"cannot perform fine-tuning on purely quantized models|quantization method do(?:es)? not support training|"
        r"Quantized models can only be used for the LoRA",
        "quantised weights cannot be trained themselves: they need an adapter",
        "Set finetuning_type: lora (with quantization_bit), or take the 16-bit base without quantization_bit; own "
        "code puts an adapter on the model with peft"),
    Row(r"(?P<kind>GPTQ|AWQ|AQLM|HQQ|EETQ|FP8|fp8)[^\n]*(?:requires|is not installed|install)|No module named "
        r"'(?P<module>gptqmodel|auto_gptq|awq|aqlm|hqq|eetq|optimum)",
        "the base is quantised already ({kind|module}), and the package that reads it is missing",
        "Take the unquantised (16-bit) base with quantization_bit: 4: ChatTS is trained that way; else install the "
        "package that the message names (optimum, gptqmodel, autoawq) for the installed torch", likely=True),
    Row(r"Unknown quantization type, got (?P<kind>\w+)",
        "the base is quantised in a way ({kind}) that this transformers does not know",
        "Take the 16-bit base with quantization_bit: 4, or {pip transformers}"),
    Row(r"model is already quantized with|attempted to quantize it again|Cannot initialize PiSSA adapter on quantized|"
        r"DoRA is not compatible with PTQ",
        "the base is quantised already, and the recipe asks for more than such weights can do",
        "Remove quantization_bit (or PiSSA, DoRA), or take the 16-bit base"),
)
# fmt: on
