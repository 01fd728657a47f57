"""How long `medseg --help` takes, against importing the libraries that it does not import."""

from __future__ import annotations

import subprocess
import sys

from record import median_seconds, write


def command(*words: str) -> float:
    return median_seconds(lambda: subprocess.run([sys.executable, *words], capture_output=True, check=True), runs=9)


rows = [
    ("`medseg --help`", f"{command('-m', 'medseg', '--help'):.2f}"),
    ("`python -c pass`", f"{command('-c', 'pass'):.2f}"),
    ("`python -c 'import torch'`", f"{command('-c', 'import torch'):.2f}"),
    ("`python -c 'import monai.transforms'`", f"{command('-c', 'import monai.transforms'):.2f}"),
]
write("startup", "Start-up time", ("command", "median s of 9"), rows, "Asked for: under 0.5 s.")
