"""What `lmf-chatts prepare` writes trains as it is: JSONL and Parquet, streamed too, on one process and two."""

from pathlib import Path

import plants
import pytest
import yaml
from training_runs import cli, losses, settings

from llamafactory_chatts.data.prepare.run import prepare


pytestmark = pytest.mark.slow
EXAMPLE = Path(__file__).parent.parent / "examples" / "prepare_plants.yaml"


@pytest.fixture(scope="module", params=["jsonl", "parquet"])
def prepared(request, tmp_path_factory) -> Path:
    """The four plants at a twentieth of their size, short windows, as one dataset."""
    folder = tmp_path_factory.mktemp(f"prepared_{request.param}")
    plants.write(folder, seed=1, share=0.05)
    config = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    config |= {
        "output": str(folder / f"plants.{request.param}"),
        "dataset_info": str(folder),
        "rejects": str(folder / "plants.rejects.jsonl"),
    }
    config.pop("split")
    for source in config["sources"]:
        source |= {key: str(folder / source[key]) for key in ("labels", "series")}
        source["resample"] = {"points": 128, "method": "lttb"}

    report = prepare(config, workers=1, progress=False)
    assert sum(source.written for source in report.sources) > 10, report
    return folder


def recipe(base: Path, data: Path, out: Path, **changes) -> dict:
    changes = {"dataset": "plants", "max_steps": 3, "per_device_train_batch_size": 2, **changes}
    return settings(base, data, out, **changes)


def test_trains(tiny_base, prepared, tmp_path):
    cli("train", recipe(tiny_base, prepared, tmp_path / "out"), tmp_path)
    assert len(losses(tmp_path / "out")) == 3


@pytest.mark.parametrize("processes", [1, 2])
def test_trains_streamed(tiny_base, prepared, tmp_path, processes):
    streamed = recipe(tiny_base, prepared, tmp_path / "out", streaming=True, buffer_size=8)
    cli("train", streamed, tmp_path, processes=processes)
    assert len(losses(tmp_path / "out")) == 3
