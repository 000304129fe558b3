"""Two hundred kills of an ingest, and longer bad weather while following a venue."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
import test_data_follow as follow
import test_data_ingest as ingest


@pytest.mark.parametrize("seed", range(8))
def test_two_hundred_kills(tmp_path, seed):
    assert ingest.kill_and_look(tmp_path, 100 + seed, 25, 1.2) >= 15


@pytest.mark.parametrize("seed", range(1, 6))
def test_bad_weather(tmp_path, seed):
    follow.test_lost_lines_error_pages_and_torn_rows_are_made_good_and_no_unfinished_bar_is_stored(tmp_path, seed)
