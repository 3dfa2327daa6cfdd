"""What ``produce_logs.py`` sets up before a run: files, a full disk, another user's lock, wheels that do not fit."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path


ZERO3 = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "zero_allow_untested_optimizer": True,
    "zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True},
}
OFFLOAD = {**ZERO3["zero_optimization"], "offload_optimizer": {"device": "cpu", "pin_memory": False}}


def _plain(bench, name, env):
    config = bench.folder / "plain"
    shutil.copytree(bench.base, config, dirs_exist_ok=True)


def _zero3(changes: dict):
    def prepare(bench, name, env):
        (bench.folder / "zero3.json").write_text(json.dumps({**ZERO3, **changes}))

    return prepare


def _port(bench, name, env):
    held = socket.socket()
    held.bind(("", 29651))
    held.listen()
    return held.close


def _small_disk(bench, name, env):
    """A tmpfs of 100 kB; wants root."""
    if os.geteuid():
        return False

    folder = bench.folder / "small"
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", folder], check=True)
    return lambda: subprocess.run(["umount", "-l", folder], check=True)


def _systemd(bench, name, env):
    """A memory limit of one's own, by systemd; ``memory_limited`` and ``sigkill`` stand in for it elsewhere."""
    tried = subprocess.run(["systemd-run", "--scope", "--quiet", "true"], capture_output=True)
    return None if tried.returncode == 0 else False


def _foreign(bench, env, folder: str) -> Path:
    """Give user nobody a home of its own and let it read the production's folder."""
    env.update(HF_HOME=str(bench.folder / folder / "hf"), HOME=str(bench.folder / folder), USER="nobody")
    path = bench.folder / folder
    shutil.rmtree(path, ignore_errors=True)
    (path / "hf" / "datasets").mkdir(parents=True)
    for each in (path, path / "hf", path / "hf" / "datasets"):
        each.chmod(0o777)

    return path


def _foreign_lock(bench, name, env):
    """A cache of datasets in which only root may make lock files, as a HF_HOME shared without a group; wants root."""
    if os.geteuid():
        return False

    (_foreign(bench, env, "open") / "hf" / "datasets").chmod(0o755)


def _read_only(bench, name, env):
    """A file system that is mounted read-only; wants root."""
    if os.geteuid():
        return False

    folder = bench.folder / "closed"
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", folder], check=True)
    return lambda: subprocess.run(["umount", "-l", folder], check=True)


def _wheel(folder: str, *packages: str):
    """Real wheels of another torch release in front of the installed ones."""

    def prepare(bench, name, env):
        if not (bench.folder / folder).exists():
            command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", bench.folder / folder]
            subprocess.run([*command, *packages], check=True)

    return prepare


def _stub(folder: str, package: str, version: str):
    """A version of a package that exists only as metadata."""

    def prepare(bench, name, env):
        info = bench.folder / folder / f"{package}-{version}.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")

    return prepare


def _short_weights(bench, name, env):
    shutil.copytree(bench.base, bench.folder / "short", dirs_exist_ok=True)
    file = bench.folder / "short" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5000])


def _other_adapter(bench, name, env):
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen3Config, Qwen3ForCausalLM

    shape = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=64, head_dim=16, num_key_value_heads=2, **shape))
    get_peft_model(model, LoraConfig(r=8, target_modules=["q_proj"])).save_pretrained(bench.folder / "other_adapter")


PREPARE = {
    "plain": _plain,
    "zero3": _zero3({}),
    "zero3_batch": _zero3({"train_micro_batch_size_per_gpu": 4}),
    "zero3_offload": _zero3({"zero_optimization": OFFLOAD}),
    "port": _port,
    "small_disk": _small_disk,
    "systemd": _systemd,
    "foreign_lock": _foreign_lock,
    "read_only": _read_only,
    "mixed_vision": _wheel("mixed_vision", "torchvision==0.20.1"),
    "mixed_audio": _wheel("mixed_audio", "torchaudio==2.5.1"),
    "old_transformers": _stub("old_transformers", "transformers", "4.57.1"),
    "old_trl": _stub("old_trl", "trl", "0.9.6"),
    "short_weights": _short_weights,
    "other_adapter": _other_adapter,
}
