"""Two processes that train one network by gloo on the CPU, against one process."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from medseg.errors import UsageError
from medseg.train import train
from medseg.training.checkpoint import CHECKPOINT_FILE
from medseg.training.world import World, is_launched, local_device
from medseg.yamlfile import dump_yaml
from tests.builders import Silent, tiny_config, tiny_dataset


def launched(*arguments, processes=2):
    """Run medseg under torchrun and return what it printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    done = subprocess.run(
        [*command, "-m", "medseg", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("batch_dice", [True, False])
def test_two_processes_train_as_one(tmp_path, batch_dice):
    dataset = tiny_dataset(tmp_path / "data")
    loss = {"name": "ce_dice", "batch": batch_dice}
    network = {"name": "unet", "channels": (4, 8, 16), "norm": "instance", "deep_supervision": True}
    config = tiny_config(epochs=2, batch_size=4, validate_every=1, ema_decay=0.9)
    tree = config.model_dump(mode="json") | {"loss": loss, "network": network}
    tree["data"] = {"manifest": str(dataset.root / "tiny.yaml")}
    dump_yaml(tmp_path / "tiny.yaml", tree)
    whole = train(type(config).model_validate(tree), dataset, tmp_path / "one", Silent())
    output = launched("train", tmp_path / "tiny.yaml", "-o", tmp_path / "two", "--device", "cpu")
    assert output.count("Validation Dice") == 1  # one process speaks
    one, two = (load_file(tmp_path / name / CHECKPOINT_FILE) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-4, msg=name)
    for a, b in zip(records(tmp_path / "one"), records(tmp_path / "two"), strict=True):
        for key in a.keys() - {"elapsed_s", "waiting_share", "patches_per_s"}:
            assert a[key] == pytest.approx(b[key], abs=1e-4), key
    dice = json.loads((tmp_path / "two" / "model" / "model.json").read_text())["provenance"]["validation_dice"]
    assert dice == pytest.approx(whole.dice, abs=1e-3)
    assert sorted(p.name for p in (tmp_path / "two" / "validation").iterdir()) == sorted(
        p.name for p in (tmp_path / "one" / "validation").iterdir()
    )


def test_a_batch_is_dealt_in_order_and_evenly():
    assert [list(World(rank, 2).share(6)) for rank in range(2)] == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(UsageError, match="a multiple of 4, the number of processes, found 6"):
        World(0, 4).share(6)


def test_each_process_takes_the_gpu_of_its_rank(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not is_launched()
    assert local_device("cuda:3") == "cuda:3"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert local_device("auto") == "cuda:1"
    assert local_device("cpu") == "cpu"
    with pytest.raises(UsageError, match="torchrun gives each process its GPU"):
        local_device("cuda:0")
