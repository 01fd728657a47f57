"""How a benchmark leaves its result: a Markdown page with the machine, the commands and the table."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """Describe the machine and the versions that matter."""
    import monai
    import torch

    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores of {cpu}, {memory:.0f} GiB, {gpu}; {platform.system()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}, MONAI {monai.__version__}"
    )


def write(
    name: str,
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    notes: str = "",
    *,
    arguments: str = "",
    script: str | None = None,
) -> Path:
    """Write ``results/NAME.md`` and print it; the script is called NAME where it is not said."""
    lines = [f"# {title}", "", f"{datetime.date.today().isoformat()}. {machine()}.", ""]
    lines += [f"`python benchmarks/{script or name}.py{arguments}`", "", "| " + " | ".join(header) + " |"]
    lines += ["|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    lines += ["", notes.strip(), ""] if notes else [""]
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.md"
    path.write_text("\n".join(lines), encoding="utf-8")
    print(path.read_text(encoding="utf-8"))
    return path


def median_seconds(work: Callable[[], object], runs: int = 5, warmup: int = 1) -> float:
    """Return the median wall-clock time of several runs."""
    times = []
    for number in range(warmup + runs):
        start = time.perf_counter()
        work()
        if number >= warmup:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


PEAK = """
import atexit
def _note_peak():
    with open("/proc/self/status") as status, open({note!r}, "w") as note:
        note.write(next(line.split()[1] for line in status if line.startswith("VmHWM")))
atexit.register(_note_peak)
"""


def run_apart(script: str, *arguments: object, python: str = sys.executable) -> tuple[float, float]:
    """Run Python code in a process of its own, of another environment if asked for; return (seconds, peak GB).

    The peak is the process's own ``VmHWM``: its ``ru_maxrss`` begins with what the process that spawned it had.
    """
    with tempfile.NamedTemporaryFile() as note:
        start = time.perf_counter()
        words = [python, "-c", PEAK.format(note=note.name) + script, *map(str, arguments)]
        pid = os.posix_spawn(python, words, dict(os.environ))
        _, status = os.waitpid(pid, 0)
        if status:
            raise subprocess.CalledProcessError(status, script)
        return time.perf_counter() - start, int(Path(note.name).read_text()) * 1024 / 1e9
