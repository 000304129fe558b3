"The crash test of `tests/test_crash.py`, a thousand bad days long."

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
import test_crash  # noqa: E402
from test_crash import calm, fast_folder, scenario  # noqa: E402, F401


@pytest.mark.parametrize("block", range(20))
def test_fifty_more_bad_days(fast_folder, monkeypatch, block):  # noqa: F811
    monkeypatch.setattr(test_crash, "DEPTH", "thin" if block % 2 else "deep")
    wanted, statements = calm(fast_folder / "calm")
    for seed in range(1000 + block * 50, 1050 + block * 50):
        folder = fast_folder / str(seed)
        folder.mkdir()
        got, _, seconds = scenario(folder, seed, statements)
        assert got == wanted and seconds <= 2.0, f"seed {seed}"
