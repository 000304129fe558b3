"A position is protected by one stop, wherever the process is killed: twenty kills at each venue's fake, with lost answers."

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from test_crash import fast_folder  # noqa: E402, F401
from test_venue_stops import STOPPING, kills_between  # noqa: E402


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
@pytest.mark.parametrize("name", STOPPING)
def test_twenty_kills_between_fill_and_stop_leave_one_stop(fast_folder, name):  # noqa: F811
    kills_between(fast_folder, name, 20)
