"Every name that a module takes from another exists there, and every call fits the signature it calls: mypy reads the whole package."

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# calls into these are held by `make types` alone, which takes half a minute more
LARGE = """alembic apprise bokeh coverage dask distributed gymnasium IPython jupyter_server markdown_it matplotlib narwhals nbformat numba
opentelemetry optuna panel plotly prefect prompt_toolkit redis sqlalchemy torch werkzeug"""


def test_mypy_finds_nothing(tmp_path):
    settings = (ROOT / "pyproject.toml").read_text()
    mine = "[tool.mypy]" + settings.split("[tool.mypy]")[1].split("\n[")[0]
    skipped = ", ".join(f'"{name}.*"' for name in LARGE.split())
    (tmp_path / "mypy.toml").write_text(f'{mine}\n[[tool.mypy.overrides]]\nmodule = [{skipped}]\nfollow_imports = "skip"\n')
    words = ["--config-file", str(tmp_path / "mypy.toml"), "--cache-dir", "/dev/null"]
    done = subprocess.run([sys.executable, "-m", "mypy", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "source files" in done.stdout, done.stdout + done.stderr
