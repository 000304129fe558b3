"Wait for a condition, not for a time."

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], seconds: float = 120, every: float = 0.02) -> object:
    "Return what the condition gives as soon as it holds; the bound is only there so that a mistake ends. A busy machine may take its time."
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"{condition} did not hold within {seconds} s"
        time.sleep(every)
    return found
