"The kills of `tests/test_venue_kills.py`, two hundred at each venue."

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from test_crash import fast_folder  # noqa: E402, F401
from test_venue_kills import FAKES, days  # noqa: E402


@pytest.mark.parametrize("name", sorted(set(FAKES) - {"binanceus"}))
def test_two_hundred_kills_at_a_venue(fast_folder, name):  # noqa: F811
    days(fast_folder, name, int(os.environ.get("VENUE_KILLS", "200")))
