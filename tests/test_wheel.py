"The wheel carries everything that a run needs, so that it works in an empty folder."

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_command_works_from_an_unpacked_wheel_in_an_empty_folder(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    wheel = next((tmp_path / "dist").glob("*.whl"))
    with zipfile.ZipFile(wheel) as z:
        names = set(z.namelist())
        z.extractall(tmp_path / "site")
    assert {"trading/py.typed", "trading/__init__.pyi", "trading/__main__.py"} <= names
    for needed in ("settings.ini", "runs/10_ingest.ipynb", "runs/50_report.ipynb", "prefect/daily.py", "templates/report.html",
                   "samples/coins_1d.parquet"):
        assert f"trading/_share/{needed}" in names
    assert wheel.stat().st_size < 8_000_000
    assert not any(n.startswith(("tests/", "nbs/", "bench/")) for n in names)
    (tmp_path / "empty").mkdir()
    script = ("import trading, sys; from trading.cli.main import main; print(trading.__file__, file=sys.stderr); "
              "main(['settings', '--profile', 'crypto'])")
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path / "empty", capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(tmp_path / "site"), "COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "site") in done.stderr and "default settings.ini" in done.stdout and "BTC/USD" in done.stdout
