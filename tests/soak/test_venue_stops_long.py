"A position is protected by one stop, wherever the process is killed: twenty kills between fill and stop at each venue's fake, with lost answers and 429s."

import sys

import pytest
from test_crash import fast_folder  # noqa: F401
from test_venue_stops import STOPPING, kills_between


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
@pytest.mark.parametrize("name", STOPPING)
def test_twenty_kills_between_fill_and_stop_leave_one_stop(fast_folder, name):  # noqa: F811
    kills_between(fast_folder, name, 20)
