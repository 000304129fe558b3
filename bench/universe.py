"""The daily run on imported files, with 10, 100 and 1,000 symbols of ten years each: processor time and memory, and how they grow."""

import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from daily import CARNET, run, say

DAYS, SIZES = 2610, (10, 100, 1000)


def write_bars(path: Path, symbols: int) -> list[str]:
    "Write days of a market whose symbols move together and by branches, and return their names."
    rng = np.random.default_rng(1)
    days = pd.bdate_range(end="2024-12-31", periods=DAYS, tz="UTC")
    market, branches, parts = rng.normal(0.0003, 0.009, DAYS), rng.normal(0, 0.006, (DAYS, 12)), []
    for i in range(symbols):
        moves = market * rng.uniform(0.6, 1.4) + branches[:, i % 12] + rng.standard_t(5, DAYS) * 0.011
        close = 50 * np.exp(np.cumsum(moves))
        first = close * np.exp(rng.normal(0, 0.003, DAYS))
        high = np.maximum(first, close) * (1 + abs(rng.normal(0, 0.004, DAYS)))
        low = np.minimum(first, close) * (1 - abs(rng.normal(0, 0.004, DAYS)))
        table = {"open": first, "high": high, "low": low, "close": close}
        volume = rng.integers(2e5, 5e6, DAYS) * 1.0
        parts.append(pd.DataFrame({"time": days, "symbol": f"S{i:04}", **{k: v.round(4) for k, v in table.items()}, "volume": volume}))
    pd.concat(parts).to_parquet(path, index=False)
    return [f"S{i:04}" for i in range(symbols)]


def spent() -> float:
    "Return the processor time of all processes that have ended."
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    times = {}
    for symbols in SIZES:
        home = Path(tempfile.mkdtemp())
        try:
            names = write_bars(home / "bars.parquet", symbols)
            market = f"source = file\nsymbols = {', '.join(names)}\ntimeframe = 1d\nstart = 2014-12-01\nas_of = 2024-12-31\ncurrency = USD\n"
            text = f"[run]\nprofile = big\n\n[trade]\nstarting_cash = 10000000\n\n[big:market]\n{market}"
            (home / "settings.ini").write_text(text, encoding="utf-8")
            began = spent()
            subprocess.run([*CARNET, "import", "bars.parquet"], cwd=home, check=True, stdout=subprocess.DEVNULL)
            imported, (clock, memory) = spent(), run(home)
            times[symbols] = spent() - imported
            say(f"import of {symbols:,} symbols, {symbols * DAYS:,} bars", imported - began, "s of processor time")
            say(f"daily run of {symbols:,} symbols from files", times[symbols], "s of processor time")
            for figure, value, unit, most in (("by the clock", clock, "s", 180), ("memory of all processes", memory, "GB", 3)):
                asked = {"rival": "asked for at most", "rival_value": most, "ratio": most / value} if symbols == 1000 else {}
                say(f"daily run of {symbols:,} symbols from files, {figure}", value, unit, **asked)
        finally:
            shutil.rmtree(home, ignore_errors=True)
    few, many = SIZES[-2:]
    exponent = float(np.log(times[many] / times[few]) / np.log(many / few))
    say(f"daily run, {few:,} to {many:,} symbols: exponent", exponent, "", rival="at most", rival_value=1.15, ratio=1.15 / exponent)
    if exponent > 1.15:
        sys.exit(f"the daily run grows with the power {exponent:.2f} of the symbols; 1.15 is the most")


if __name__ == "__main__":
    main()
