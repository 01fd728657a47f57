"""What a run was computed with, against what the system itself says."""

import getpass
import json
import os
import platform
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy
import torch

import medseg.environment
from medseg.environment import environment, write_environment


def test_versions_are_those_of_the_modules():
    found = environment()
    assert found["numpy"] == numpy.__version__
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["medseg"] == medseg.__version__
    assert found["system"].startswith(platform.system())


def test_processor_and_memory_are_those_of_the_system():
    found = environment()
    assert 1 <= found["cores"] <= os.cpu_count()
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        total_kib = int(meminfo.read_text().split("MemTotal:")[1].split()[0])
        assert abs(found["memory_gib"] - total_kib / 2**20) < 0.1
    cpu = Path("/proc/cpuinfo")
    if cpu.is_file() and "model name" in cpu.read_text():
        assert f": {found['cpu']}\n" in cpu.read_text()


def test_gpus_and_driver_are_named(monkeypatch, tmp_path):
    card = SimpleNamespace(name="NVIDIA H200", total_memory=141 * 2**30)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    driver = tmp_path / "version"
    driver.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23 2025\nGCC version: 12.2.0\n"
    )
    monkeypatch.setattr(medseg.environment, "_DRIVER", driver)
    found = environment()
    assert found["gpus"] == [{"name": "NVIDIA H200", "memory_gib": 141.0}] * 2
    assert found["driver"] == "570.86.15"
    driver.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs-builder)\n"
    )
    assert environment()["driver"] == "580.95.05"
    driver.unlink()
    assert environment()["driver"] is None


def test_the_file_names_no_host_user_or_folder(tmp_path):
    text = write_environment(tmp_path).read_text()
    assert json.loads(text) == environment()
    for secret in (socket.gethostname(), str(tmp_path), str(Path.home()) + "/"):
        assert secret not in text
    assert f'"{getpass.getuser()}"' not in text
