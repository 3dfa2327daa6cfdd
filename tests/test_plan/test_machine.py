"""The table of cards, and what people write for them."""

from dataclasses import replace

import pytest

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.recipe.machine import gpus
from llamafactory_chatts.recipe.machine import planned as machine
from llamafactory_chatts.recipe.machine.host_limits import Memory
from llamafactory_chatts.recipe.machine.planned import choose_machine, known_cards, parse_gpu


@pytest.mark.parametrize(
    ("text", "name", "count"),
    [
        ("RTX 2080 Ti x2", "RTX 2080 Ti", 2),
        ("2x RTX 3090", "RTX 3090", 2),
        ("rtx2080ti", "RTX 2080 Ti", 1),
        ("NVIDIA GeForce RTX 4060 Ti", "RTX 4060 Ti 16GB", 1),
        ("RTX 3060 12GB", "RTX 3060 12GB", 1),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB", 1),
        ("NVIDIA A100-PCIE-40GB x8", "A100 40GB", 8),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada 48GB", 1),
        ("Quadro RTX 6000", "Quadro RTX 6000 24GB", 1),
        ("NVIDIA H100 80GB HBM3", "H100", 1),
        ("Tesla V100-SXM2-32GB", "V100 32GB", 1),
        ("NVIDIA A10", "A10", 1),
        ("NVIDIA GeForce RTX 3080", "RTX 3080 10GB", 1),
        ("RTX 3080 12GB", "RTX 3080 12GB", 1),
        ("NVIDIA L40S", "L40S", 1),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX 4070 Ti SUPER", 1),
    ],
)
def test_names(text, name, count):
    card, found = parse_gpu(text)
    assert (card.name, found) == (name, count)


@pytest.mark.parametrize("text", ["RTX 6000", "RTX A1000", "GTX 1080", "", "RTX 3090 x0", "RTX 4070 Laptop GPU"])
def test_names_that_stand_for_no_card(text):
    with pytest.raises(ChatTSError, match="--gpu"):
        parse_gpu(text)


def test_every_card_of_the_table_is_found_by_its_own_name():
    for card, _ in known_cards():
        assert parse_gpu(card.name)[0] == card
        assert 4 < card.gib < 200 and card.tflops > 1 and card.gbps > 100
        assert card.bf16 == (card.capability >= 8.0)


def test_memory_of_a_card_and_of_the_host():
    found = choose_machine("RTX 2080 Ti x2", 22, 46, nodes=2)
    assert (found.card.gib, found.count, found.world, found.ram) == (22, 2, 4, 46)
    alone = choose_machine(None, 11, None)
    assert (alone.card.gib, alone.card.bf16, alone.ram) == (11, None, None)


@pytest.fixture
def here(monkeypatch):
    """Return a function: the machine that a plan finds, with cards as (name, MiB) and an environment."""
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES", "NPROC_PER_NODE"):
        monkeypatch.delenv(name, raising=False)

    def look(*cards, parts=(), **environment):
        found = [
            gpus.Gpu(at, f"GPU-{at}abc", name, "570", size, size, (8, 6)) for at, (name, size) in enumerate(cards)
        ]
        made = [replace(found[at], uuid=uuid, name=name, total=size) for at, uuid, name, size in parts]
        monkeypatch.setattr(gpus, "driver", lambda *args: gpus.Driver(tuple(found), tuple(made)))
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

        return choose_machine(None, None, None)

    return look


H200 = ("NVIDIA H200", 143771)


def test_no_card_at_all(here):
    assert here().card is None


def test_the_cards_of_this_machine(here):
    found = here(H200, H200)
    assert (found.card.name, found.count, found.notes) == ("H200", 2, ()) and found.ram > 1


@pytest.mark.parametrize(
    ("setting", "count"),
    [("0", 1), ("2,1", 2), ("GPU-3abc", 1), ("GPU-3,GPU-0", 2), ("0,9,1", 1), ("1,-1,0", 1), ("", 0), ("-1", 0),
     ("NoDevFiles", 0), ("0,0", 0)],
)  # fmt: skip
def test_only_the_cards_that_cuda_shows(here, setting, count):
    found = here(*[H200] * 4, CUDA_VISIBLE_DEVICES=setting)
    assert (found.count if found.card else 0) == count
    assert ("CUDA_VISIBLE_DEVICES" in found.notes[0]) is (count < 4)


def test_what_only_containers_read_is_not_ours(here):
    assert here(*[H200] * 4, NVIDIA_VISIBLE_DEVICES="0", ASCEND_RT_VISIBLE_DEVICES="1").count == 4


def test_fewer_processes_than_cards(here):
    found = here(*[H200] * 4, NPROC_PER_NODE="2")
    assert found.count == 2 and "NPROC_PER_NODE" in found.notes[0]


def test_cards_that_differ(here):
    found = here(("NVIDIA GeForce RTX 3090", 24576), ("NVIDIA GeForce RTX 2080 Ti", 11264))
    assert found.card.name == "RTX 2080 Ti" and found.count == 2 and "CUDA_DEVICE_ORDER=PCI_BUS_ID" in found.notes[0]
    found = here(("RTX 3090", 24576), ("RTX 2080 Ti", 11264), CUDA_DEVICE_ORDER="PCI_BUS_ID", CUDA_VISIBLE_DEVICES="0")
    assert found.card.name == "RTX 3090" and found.count == 1 and not any("ORDER" in note for note in found.notes)


@pytest.mark.parametrize("setting", [None, "MIG-b", "0", "GPU-0"])
def test_one_part_of_a_divided_card(here, setting):
    parts = [(0, "MIG-a", "NVIDIA H100 MIG 3g.40gb", 40960), (0, "MIG-b", "NVIDIA H100 MIG 1g.10gb", 10240)]
    environment = {} if setting is None else {"CUDA_VISIBLE_DEVICES": setting}
    found = here(("NVIDIA H100 80GB HBM3", 81559), parts=parts, **environment)
    assert found.count == 1 and found.card.gib == pytest.approx((10 if setting == "MIG-b" else 40) * 0.985)
    assert here(("NVIDIA H100", 81559), parts=parts, CUDA_VISIBLE_DEVICES="MIG-x").card is None


def test_the_limit_of_the_control_group_is_the_host_memory(here, monkeypatch):
    monkeypatch.setattr(machine, "host_memory", lambda: Memory(512.0, available=20.0, swap=0.0, limit=24.0))
    found = here(H200)
    assert found.ram == 24.0 and "24 of 512 GiB" in found.notes[0]


@pytest.mark.parametrize(
    ("name", "size", "known", "gib"),
    [
        ("NVIDIA GeForce RTX 4060 Ti", 8188, "RTX 4060 Ti 8GB", 7.7),
        ("NVIDIA GeForce RTX 4060 Ti", 16380, "RTX 4060 Ti 16GB", 15.7),
        ("NVIDIA GeForce RTX 3080", 12288, "RTX 3080 12GB", 11.65),
        ("NVIDIA GeForce RTX 2080 Ti", 22528, "RTX 2080 Ti", 21.67),
        ("NVIDIA GeForce RTX 4070 Laptop GPU", 8188, "NVIDIA GeForce RTX 4070 Laptop GPU", 7.88),
        ("NVIDIA Something", 10240, "NVIDIA Something", 9.85),
    ],
)
def test_the_memory_that_this_machine_s_card_has(here, name, size, known, gib):
    card = here((name, size)).card
    assert card.name == known and card.gib == pytest.approx(gib, abs=0.01)


def test_the_error_names_near_cards():
    with pytest.raises(ChatTSError, match="such as .*RTX 4090"):
        parse_gpu("RTX 4091")


def test_figures_that_are_none():
    for gpu, vram, ram in ((None, -1, None), (None, 11, 0)):
        with pytest.raises(ChatTSError, match="is no size"):
            choose_machine(gpu, vram, ram)
