"""Try the built wheel in a fresh environment and an empty folder: the run, the flows of the schedule, and the help of every command.

`make wheel-test` does it here, CI on every system. What is installed is what a plain `pip install carnet` brings, by the lock.
"""

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
WORDS = (["--version"], ["run"], ["runs"], ["settings"], ["reconcile"], ["feedback", "status"], ["alerts", "list"], ["doctor"])


def main() -> int:
    "Build, install, try; return how many things failed."
    from test_declared import FLOWS, HELP, IMPORT_ALL, NEEDS_EXTRA, SMALL

    failed = 0

    def attempt(name: str, command: list, **more) -> str:
        nonlocal failed
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, **more)
        well = done.returncode == 0
        failed += not well
        print("ok    " if well else "FAILED", name, "" if well else done.stdout[-2000:] + done.stderr[-2000:], flush=True)
        return done.stdout

    with tempfile.TemporaryDirectory(prefix="carnet-wheel-") as folder:
        home, place, other = Path(folder), Path(folder) / "empty", Path(folder) / "other"
        place.mkdir(), other.mkdir()
        attempt("build the wheel", [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", home / "dist"], cwd=ROOT)
        venv.create(home / "env", with_pip=True)
        binaries = home / "env" / ("Scripts" if os.name == "nt" else "bin")
        python, wheel = binaries / "python", next((home / "dist").glob("*.whl"))
        attempt("install", [python, ROOT / "scripts" / "install.py", "-r", ROOT / "requirements" / "run.txt"], cwd=ROOT)
        attempt("install the wheel", [python, ROOT / "scripts" / "install.py", wheel], cwd=ROOT)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("CARNET_", "PYTHONPATH"))}
        environment |= {"CARNET_BACKUP_PASSPHRASE": "correct horse battery staple", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        here = {"cwd": place, "env": environment}
        told = attempt("import every module", [python, "-c", IMPORT_ALL], **here)
        extra = tuple(p for ps in NEEDS_EXTRA.values() for p in ps)
        print("      modules of extras:", [n for n in eval(told.splitlines()[-1]) if n.startswith(extra)] if told else "")  # noqa: S307  our own words
        attempt("help of every command", [python, "-c", HELP], **here)
        for words in WORDS:
            attempt("carnet " + " ".join(words), [binaries / "carnet", *words], **here)
        (other / "settings.ini").write_text(SMALL)
        attempt("install what a schedule needs", [python, ROOT / "scripts" / "install.py", "-r", ROOT / "requirements" / "schedule.txt"], cwd=ROOT)
        attempt("daily, weekly, maintenance and watch", [python, "-c", FLOWS], **here | {"cwd": other})
    return failed


if __name__ == "__main__":
    sys.exit(main())
