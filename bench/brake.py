"""The brake: nine venues that all trade at once, stopped by `carnet kill` as a process; when the last order arrived. Lines of JSON.

What counts is the time from the moment at which the command is started, its own start included, to the last order that any venue received,
and how many arrived after the command had answered.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from test_brake import NOON, Counting, D, KillSwitch, Ledger, place_of, trade  # noqa: E402
from typed import CARNET  # noqa: E402

from trading.services.metrics import open_metrics  # noqa: E402

VENUES, ORDERS_FIRST = 9, 5  # orders that each venue has before the act


class Dated(Counting):
    "A venue that notes when each order arrived, and takes a while to answer."

    def __init__(self):
        super().__init__()
        self.times: list[float] = []

    def create_order(self, order):
        self.times.append(time.time())
        time.sleep(0.005)
        return super().create_order(order)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_STATE_HOME"] = f"{folder}/state"
        place, venues = place_of(Path(folder)), [Dated() for _ in range(VENUES)]
        ledger = Ledger(place.ledger)
        accounts = [f"live-crypto@v{n}" for n in range(VENUES)]
        for account in accounts:
            ledger.open_account(account, "USD", D(100_000), NOON)
        ledger.close()
        metrics = open_metrics(place)
        metrics.exposition()  # what a service has loaded long before
        threads = [threading.Thread(target=trade, args=(place, v, a)) for v, a in zip(venues, accounts, strict=True)]
        for thread in threads:
            thread.start()
        while min(len(v.times) for v in venues) < ORDERS_FIRST:
            time.sleep(0.001)
        environ = {k: v for k, v in os.environ.items() if not k.startswith("CARNET_")}
        environ |= {"CARNET_RUN__DATA": str(place.data), "CARNET_RUN__REPORTS": str(place.reports)}
        before, act = sum(len(v.times) for v in venues), time.time()
        done = subprocess.run([*CARNET, "kill", "the bench"], cwd=folder, env=environ, capture_output=True, text=True)
        answered = time.time()
        for thread in threads:
            thread.join()
        assert all(KillSwitch(place.data / f"kill-{a}.jsonl").reason() for a in accounts), done.stdout + done.stderr
        assert before and sum(len(v.times) for v in venues) < VENUES * 200, "the orders ran out before the act"
        flag = next(place.data.glob("stop-*.json")).stat().st_mtime
        last = max(t for v in venues for t in v.times)
        begun = time.time()
        told = metrics.exposition().decode()
        scraped = time.time()
        stopped = [line[-3:] for line in told.splitlines() if line.startswith("carnet_trading_stopped{")]
        assert stopped and set(stopped) == {"1.0"}, told
        late = sum(t > answered for v in venues for t in v.times)
        after = sum(t > flag + 0.02 for v in venues for t in v.times)  # whoever had looked already is on the way to the venue
        rows = [("brake: from starting the command to the last order, nine venues", last - act, "s", "asked for", 1),
                ("brake: from starting the command to the flag", flag - act, "s", "", None),
                ("brake: from the flag to the last order", max(0.0, last - flag), "s", "", None),
                ("brake: orders that left 20 ms after the flag or later", after, "orders", "asked for", 0),
                ("brake: orders after the command has answered", late, "orders", "asked for", 0),
                ("brake: the command answers after", answered - act, "s", "", None),
                ("brake: a scrape that tells the stop of every account takes", scraped - begun, "s", "asked for", 1)]
    for figure, value, unit, rival, wanted in rows:
        ratio = round(wanted / value, 2) if wanted and value else None
        line = {"figure": figure, "value": round(value, 3), "unit": unit, "rival": rival, "rival_value": wanted, "ratio": ratio}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
