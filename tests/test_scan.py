"A whole venue in one pass, through the command: bounded concurrency, the venue's limit, nothing asked twice, and the page that shows it."

import json
import re
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
from click.testing import CliRunner

from trading.cli.main import main

DAY = 86_400
SYMBOLS, OLD, DAYS, YOUNG = 210, 24, 950, 40  # coins listed, of these with a long past, and how many days each has
WINDOW, LIMIT, WEIGHT = 0.4, 200, 3  # seconds of the venue's limit, its weight, and what a question for candles costs
SETTINGS = """
[run]
profile = scout

[scout:market]
source = ccxt
venue = kucoin
symbols = C000/USDT, C001/USDT
currency = USDT
start = 2023-01-01
calendar = 24/7

[scout:forecast]
window = 950
horizons = 5

[scout:access]
rate = 2000
market_seconds = 3600
ohlcv_seconds = 3600

[scout:live]
address = {address}
"""


class Venue:
    "KuCoin's public REST with hundreds of coins, its limit per window, and a count of what is under way."

    def __init__(self):
        self.calls, self.lock = Counter(), threading.Lock()
        self.flying, self.most, self.refused, self.used, self.windows = 0, 0, 0, 0, [0.0]  # when each window of its limit began
        self.today = int(time.time()) // DAY * DAY
        rng = np.random.default_rng(4)
        self.closes = {f"C{n:03d}": 50 * np.exp(np.cumsum(rng.normal(0.001, 0.03, DAYS))) for n in range(OLD)}

    def symbols(self):
        names = [(f"C{n:03d}", "USDT") for n in range(SYMBOLS)] + [("C000", "BTC"), ("GONE", "USDT")]
        steps = {"baseMinSize": "0.001", "quoteMinSize": "0.1", "baseMaxSize": "100000", "quoteMaxSize": "9999999", "baseIncrement": "0.001",
                 "quoteIncrement": "0.01", "priceIncrement": "0.0001", "priceLimitRate": "0.1", "minFunds": "0.1", "feeCategory": 1,
                 "isMarginEnabled": False, "makerFeeCoefficient": "1.00", "takerFeeCoefficient": "1.00"}
        return [{"symbol": f"{b}-{q}", "name": f"{b}-{q}", "baseCurrency": b, "quoteCurrency": q, "feeCurrency": q, "market": q,
                 "enableTrading": b != "GONE", **steps} for b, q in names]

    def candles(self, symbol, start, end):
        name = symbol.split("-")[0]
        known = self.closes.get(name)
        closes = known if known is not None else 20 + np.sin(np.arange(YOUNG) * (1 + int(name[1:])))
        first = self.today - len(closes) * DAY  # the last of them closed at midnight; today's is under way
        rows = []
        for k in range(len(closes)):
            at, c = first + k * DAY, closes[k]
            if start <= at < end:
                rows.append([str(at), f"{c:.4f}", f"{c:.4f}", f"{c * 1.01:.4f}", f"{c * 0.99:.4f}", "1000", "1000"])
        return rows[::-1]


@contextmanager
def serve(venue):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_GET(self):  # noqa: N802
            parts = urlsplit(self.path)
            q, what = dict(parse_qsl(parts.query)), parts.path.rsplit("/", 1)[-1]
            with venue.lock:
                venue.calls[what] += 1
                venue.flying += 1
                venue.most = max(venue.most, venue.flying)
                now = time.monotonic()
                if now - venue.windows[-1] > WINDOW:
                    venue.windows.append(now)
                    venue.used = 0
                venue.used += WEIGHT
                used, left = venue.used, max(0.0, WINDOW - (now - venue.windows[-1]))
            try:
                headers = {"gw-ratelimit-limit": LIMIT, "gw-ratelimit-remaining": max(0, LIMIT - used), "gw-ratelimit-reset": int(left * 1000) + 1}
                if used > LIMIT:
                    venue.refused += 1
                    return self.say(429, {"code": "429000", "msg": "Too many requests"}, headers)
                if what == "candles":
                    rows = venue.candles(q["symbol"], int(q["startAt"]), int(q.get("endAt") or 10**11))
                    return self.say(200, {"code": "200000", "data": rows}, headers)
                if what == "symbols":
                    return self.say(200, {"code": "200000", "data": venue.symbols()}, headers)
                return self.say(200, {"code": "200000", "data": {"ticker": [], "time": 0} if what == "allTickers" else []}, headers)
            finally:
                with venue.lock:
                    venue.flying -= 1

        def say(self, status, answer, headers):
            text = json.dumps(answer).encode()
            self.send_response(status)
            for name, value in ({"Content-Type": "application/json", "Content-Length": len(text)} | headers).items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(text)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.request_queue_size = True, 64
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def carnet(*words):
    done = CliRunner().invoke(main, list(words))
    return done.exit_code, done.stdout, done.output


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARNET_RUN__DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CARNET_RUN__REPORTS", str(tmp_path / "reports"))
    return tmp_path


def test_a_venue_of_hundreds_is_scanned_once_and_nothing_is_asked_twice(home):
    venue = Venue()
    with serve(venue) as url:
        (home / "settings.ini").write_text(SETTINGS.format(address=url))
        code, out, said = carnet("scan", "--json")
        assert code == 0, said
        first, asked = json.loads(out), dict(venue.calls)
        # ... each symbol once, never more under way than allowed, and the venue never had to refuse
        assert asked["candles"] == SYMBOLS and asked["symbols"] == 1
        assert 1 < venue.most <= 16 and venue.refused == 0
        assert first["symbols"] == SYMBOLS and first["calls"]["stored"] == 0 and first["calls"]["saved"] == 0
        assert len(first["items"]) == OLD and len(first["left_out"]) == SYMBOLS - OLD and "40 bars" in first["left_out"]["C200/USDT"]
        assert {i["side"] for i in first["items"]} <= {"buy", "sell", "hold"} and first["note"] == "", "both stages saw every symbol with a past"
        assert set(first["timings"]) == {"markets", "bars", "rules", "primary model", "meta-model"}
        assert [i["rank"] for i in first["items"]] == list(range(1, OLD + 1))
        # ... again, with nothing new
        code, out, said = carnet("scan", "--json")
        assert code == 0, said
        second = json.loads(out)
        assert sum(venue.calls.values()) - sum(asked.values()) <= 0.03 * (SYMBOLS + 1), "at least 97 % of the calls are saved"
        assert second["calls"]["saved"] >= 0.97 and second["calls"]["stored"] == SYMBOLS and second["model_kept"]
        assert (second["items"], second["left_out"], second["as_of"]) == (first["items"], first["left_out"], first["as_of"])
        # ... a day's run of the profile finds its bars there
        before = venue.calls["candles"]
        code, _, said = carnet("scan", "--symbol", "C000/USDT", "--symbol", "C001/USDT")
        assert code == 0 and venue.calls["candles"] == before, said
        assert re.search(r"2 of 2 symbols from the store", said) and "100.0\u00a0% of the calls saved" in said
        nothing = "kucoin lists nothing that is priced in EUR; it lists USDT (210) and BTC (1): choose with --quote"
        for words, sentence in ((("--quote", "EUR"), nothing), (("--symbol", "C00/USDT"), "does not know 'C00/USDT'; did you mean")):
            code, _, said = carnet("scan", *words)
            assert code == 1 and sentence in said, said


def test_a_symbol_that_fails_is_left_out_and_a_venue_that_is_away_is_a_sentence(home):
    venue = Venue()
    broken = venue.candles
    venue.candles = lambda symbol, start, end: [["x"]] if symbol == "C003-USDT" else broken(symbol, start, end)
    with serve(venue) as url:
        (home / "settings.ini").write_text(SETTINGS.format(address=url))
        code, out, said = carnet("scan", "--json", *[w for n in range(6) for w in ("--symbol", f"C{n:03d}/USDT")])
        assert code == 0, said
        found = json.loads(out)
        assert list(found["left_out"]) == ["C003/USDT"] and len(found["items"]) == 5
    (home / "settings.ini").write_text(SETTINGS.format(address="http://127.0.0.1:9"))
    code, out, said = carnet("scan")
    assert code == 1 and "cannot be reached" in said and not out.strip()


def test_the_page_and_the_api_show_the_scan_and_who_may_start_one(home):
    from trading.dashboard.components import Viewer
    from trading.dashboard.screens_analysis import forecasts_screen
    from trading.services.queries_analytics import newest_scan
    from trading.services.workspace import Workspace

    (home / "settings.ini").write_text("[run]\nprofile = sample-coins\n\n[forecast]\nwindow = 900\nhorizons = 5\n")
    place = Workspace(home / "data", home / "reports", home / "settings.ini")
    assert "carnet scan --profile sample-coins" in newest_scan(place)["missing"]
    code, _, said = carnet("scan", "--top", "3")
    assert code == 0 and "28 symbols" in said, said
    found = newest_scan(place, count=3)
    assert len(found["items"]) == 3 and found["words"][0] in said
    for role, kinds in (("trader", ["form", "text", "table", "folded"]), ("viewer", ["text", "table", "folded"])):
        section = next(s for s in forecasts_screen(place, Viewer("tom", role)) if s.key == "scan")
        assert [kind for kind, _ in section.parts] == kinds
        facts = dict(section.parts[-1][1]["facts"])
        assert facts["Symbols"] == "28" and "Calls saved" in facts and {"markets", "bars", "rules"} <= set(facts)
