"How long a backup of 5 million bars and 1 million events takes while events are being written, and how long it takes to come back."

import json
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from trading.accounting.ledger import Ledger
from trading.core.types import Event
from trading.data.delta_store import BarStore
from trading.ops.backup import restore, snapshot, verify

WORDS = "correct horse battery staple"
NOW = datetime(2024, 1, 15, tzinfo=UTC)


def fill(data: Path, bars: int, events: int, symbols: int = 500) -> None:
    "Make a store and a ledger of these sizes."
    rng = np.random.default_rng(7)
    index = pd.date_range("2020-01-01", periods=bars // symbols, freq="1h", tz="UTC", name="timestamp")
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.005, (len(index), symbols)), axis=0))
    names = [f"S{n:03d}" for n in range(symbols)]
    fields = {"open": close, "high": close * 1.01, "low": close * 0.99, "close": close, "volume": rng.uniform(1, 1e6, close.shape)}
    frame = pd.concat({f: pd.DataFrame(v.round(4), index, names) for f, v in fields.items()}, axis=1, names=["field", "symbol"])
    BarStore(data / "bars").upsert(frame, "1h", "bench")
    ledger = Ledger(data / "ledger.sqlite")
    for start in range(0, events, 20_000):
        ledger.append([Event("note", "bench", NOW + timedelta(seconds=n), {"n": n, "symbol": names[n % symbols], "price": str(100 + n % 997)})
                       for n in range(start, start + 20_000)])
    ledger.close()


def main(bars: int = 5_000_000, events: int = 1_000_000) -> None:
    "Back up while a thread appends, then read and restore."
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        fill(home / "data", bars, events)
        stop, written = threading.Event(), []

        def write() -> None:
            ledger = Ledger(home / "data" / "ledger.sqlite")
            while not stop.is_set():
                written.append(ledger.append([Event("note", "bench", NOW, {"late": len(written)})]))
                time.sleep(0.01)
            ledger.close()

        thread = threading.Thread(target=write)
        thread.start()
        begun = time.perf_counter()
        path = snapshot(home / "data", home / "backups", WORDS, NOW)
        took = time.perf_counter() - begun
        during = len(written)
        stop.set()
        thread.join()
        begun = time.perf_counter()
        manifest = verify(path, WORDS)
        checked = time.perf_counter() - begun
        begun = time.perf_counter()
        restore(path, home / "back", WORDS)
        back = time.perf_counter() - begun
        rows = len(BarStore(home / "back" / "data" / "bars").read(["S001"], "1h")) * 500
        count = Ledger(home / "back" / "data" / "ledger.sqlite", readonly=True).verify()
        assert rows == bars and count >= events and during > 0, (rows, count, during)
        size = f"{bars / 1e6:.0f} million bars and {events / 1e6:.0f} million events"
        print(json.dumps({"figure": f"backup of {size} while writing", "value": round(took, 1), "unit": "s",
                          "rival": "required", "rival_value": 20, "ratio": round(20 / took, 2)}))
        print(json.dumps({"figure": "events written meanwhile", "value": during, "unit": "events"}))
        print(json.dumps({"figure": "checking every checksum of it", "value": round(checked, 1), "unit": "s"}))
        print(json.dumps({"figure": "restoring it", "value": round(back, 1), "unit": "s"}))
        print(json.dumps({"figure": "content and sealed file", "value": round(sum(manifest.sizes.values()) / 1e6), "unit": "MB",
                          "rival": "sealed", "rival_value": round(path.stat().st_size / 1e6)}))


if __name__ == "__main__":
    main()
