"""The table of cards, and what people write for them."""

import pytest

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.plan import machine
from llamafactory_chatts.plan.machine import choose_machine, known_cards, parse_gpu


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


def test_no_card_at_all(monkeypatch):
    monkeypatch.setattr(machine.subprocess, "run", lambda *args, **kwargs: (_ for _ in ()).throw(FileNotFoundError()))
    assert choose_machine(None, None, None).card is None


def test_the_cards_of_this_machine(monkeypatch):
    said = machine.subprocess.CompletedProcess([], 0, "NVIDIA H200, 143771\nNVIDIA H200, 143771\n")
    monkeypatch.setattr(machine.subprocess, "run", lambda *args, **kwargs: said)
    found = choose_machine(None, None, None)
    assert (found.card.name, found.count) == ("H200", 2) and found.ram > 1


@pytest.mark.parametrize(
    ("printed", "name", "gib"),
    [
        ("NVIDIA GeForce RTX 4060 Ti, 8188", "RTX 4060 Ti 8GB", 7.7),
        ("NVIDIA GeForce RTX 4060 Ti, 16380", "RTX 4060 Ti 16GB", 15.7),
        ("NVIDIA GeForce RTX 3080, 12288", "RTX 3080 12GB", 11.65),
        ("NVIDIA GeForce RTX 2080 Ti, 22528", "RTX 2080 Ti", 21.67),
        ("NVIDIA GeForce RTX 4070 Laptop GPU, 8188", "NVIDIA GeForce RTX 4070 Laptop GPU", 7.88),
        ("NVIDIA Something, 10240", "NVIDIA Something", 9.85),
    ],
)
def test_the_memory_that_this_machine_s_card_has(monkeypatch, printed, name, gib):
    said = machine.subprocess.CompletedProcess([], 0, printed + "\n")
    monkeypatch.setattr(machine.subprocess, "run", lambda *args, **kwargs: said)
    card = choose_machine(None, None, None).card
    assert card.name == name and card.gib == pytest.approx(gib, abs=0.01)


def test_the_error_names_near_cards():
    with pytest.raises(ChatTSError, match="such as .*RTX 4090"):
        parse_gpu("RTX 4091")


def test_figures_that_are_none():
    for gpu, vram, ram in ((None, -1, None), (None, 11, 0)):
        with pytest.raises(ChatTSError, match="is no size"):
            choose_machine(gpu, vram, ram)
