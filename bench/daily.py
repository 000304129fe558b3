"""The daily job as a whole process: first time, warm, with a server running; its memory, its imports, its report, and the same numbers twice."""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from trading.core.prefork import FIXED, python_command
from trading.pipeline.launch import own_server
from trading.pipeline.run_record import Run
from trading.services.launching import runs_ready

CARNET = [sys.executable, "-c", "from trading.cli.main import main; main(prog_name='carnet')"]


def say(figure: str, value: float, unit: str, **more) -> None:
    print(json.dumps({"figure": figure, "value": value, "unit": unit} | more), flush=True)


def memory_of(pid: int) -> int:
    "Return the resident bytes of a process and of everything it started."
    total, children = 0, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
        except (OSError, IndexError):
            continue
    stack = [pid]
    while stack:
        one = stack.pop()
        stack += children.get(one, [])
        try:
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            continue
    return total


def run(folder: Path, command: list[str] = CARNET) -> tuple[float, float]:
    "Run the job; return its seconds and the most memory that it and its children had at once, in GB."
    begun, most = time.perf_counter(), 0
    with (folder / "out.txt").open("ab") as out:
        process = subprocess.Popen([*command, "run"], cwd=folder, stdout=out, stderr=out, env=os.environ | (FIXED if command is not CARNET else {}))
        while process.poll() is None:
            most = max(most, memory_of(process.pid))
            time.sleep(0.1)
    if process.returncode:
        raise SystemExit((folder / "out.txt").read_text()[-2000:])
    return time.perf_counter() - begun, most / 1e9


def say_imports(what: str, words: list[str], folder: Path) -> None:
    "Say what a process imports, by `python -X importtime`, which makes an import half as dear again: all of it, and the packages that cost most."
    done = subprocess.run([sys.executable, "-X", "importtime", *words], cwd=folder, env=os.environ | FIXED, capture_output=True, text=True)
    found = re.findall(r"^import time: +(\d+) \| +\d+ \| +(\S+)$", done.stderr, re.MULTILINE)
    if done.returncode or not found:
        raise SystemExit(done.stderr[-2000:])
    say(f"imports of {what}, {len(found):,} modules", sum(int(t) for t, _ in found) / 1e6, "s")
    share: Counter[str] = Counter()
    for took, module in found:
        share[module.partition(".")[0]] += int(took)
    for package, took in share.most_common(8):
        say(f"of which {package}, of {what}", took / 1e6, "s")


def main() -> None:
    home = Path(tempfile.mkdtemp())
    try:
        first, memory = run(home)
        say("daily job, first time in an empty folder", first, "s")
        say("memory of the main job, all processes together", memory, "GB")
        warm = statistics.median(run(home)[0] for _ in range(3))
        say("daily job, warm, median of three", warm, "s")
        seconds = {s.name: s.seconds for s in Run(home / "reports" / "2022-12-27_sample_3").record.stages}
        for name, value in seconds.items():
            say(f"of which stage {name}", value, "s")
        say_imports("the kernel", ["-c", "from trading.pipeline.notebook_runner import import_for_kernel; import_for_kernel()"], home)
        say_imports("the command", [*CARNET[1:], "run"], home)  # beside the kernel
        os.environ |= {"PREFECT_HOME": str(home / "data" / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        with own_server(home / "server.log"):
            served = statistics.median(run(home)[0] for _ in range(3))
            say("daily job, a Prefect server running, median of three", served, "s")
            with runs_ready(home) as ready:  # as `carnet schedule` does
                while not Path(ready).exists():
                    time.sleep(0.1)
                say("daily job, a Prefect server and a schedule running, median of three", statistics.median(run(home)[0] for _ in range(3)), "s")
        with runs_ready(home) as ready:  # as `carnet serve` does, and starts runs
            while not Path(ready).exists():
                time.sleep(0.1)
            paged = statistics.median(run(home, python_command(*CARNET[1:]))[0] for _ in range(3))
        say("daily job, started by the page, median of three", paged, "s")
        say("report", (home / "reports" / "2022-12-27_sample_1" / "index.html").stat().st_size / 1e6, "MB")
        twin = Path(tempfile.mkdtemp())
        run(twin)
        a, b = (Run(p / "reports" / "2022-12-27_sample_1").record.artefacts for p in (home, twin))
        say("artefacts that differ between two fresh runs", sum(a.get(k) != b.get(k) for k in {*a, *b}), f"of {len(a)}")
        shutil.rmtree(twin)
        help_ = statistics.median(_help() for _ in range(7))
        say("carnet --help, median of seven", help_, "s")
    finally:
        shutil.rmtree(home)


def _help() -> float:
    begun = time.perf_counter()
    subprocess.run([*CARNET, "--help"], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
