"""The access layer in front of a counting loopback exchange: figures as JSON lines."""

import json
import sys
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from binance_server import Server
from test_venue_access import KLINES, SYMBOLS, TICKERS, rehearse, visitors


def main() -> None:
    with Server(days=30) as server:
        server.exchange.pairs = {s.replace("/", ""): (s[:3], "USDT", 100.0 + n) for n, s in enumerate(SYMBOLS)}
        server.exchange.delay = 0.002
        begin = perf_counter()
        asks, told = rehearse(server, visitors)
        took, calls = perf_counter() - begin, server.exchange.calls[TICKERS] + server.exchange.calls[KLINES]
    figures = [("access: calls of 500 visitors to 50 symbols in 10 minutes", calls, "calls", "without it", asks, asks / calls),
               ("access: calls saved", 1 - calls / asks, "share", "asked for", 0.95, None),
               ("access: answered from memory or from a call under way", told["hit_rate"], "share", "asked for", 0.90, None),
               ("access: identical calls in flight", len(server.exchange.doubled), "calls", "asked for", 0, None),
               ("access: ten minutes rehearsed in", took, "s", "", None, None)]
    for figure, value, unit, rival, rival_value, ratio in figures:
        print(json.dumps({"figure": figure, "value": round(value, 4), "unit": unit, "rival": rival, "rival_value": rival_value,
                          "ratio": None if ratio is None else round(ratio, 1)}), flush=True)


if __name__ == "__main__":
    main()
