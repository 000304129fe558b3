"""CoinTracking and CoinGecko against servers of this machine that check signatures, nonces, keys and pages."""

import hashlib
import hmac
import json
import re
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner

from trading.cli.main import main
from trading.core.errors import BadInput, VenueError, VenueUnreachable
from trading.venues.coingecko import coingecko_prices
from trading.venues.cointracking import CoinTracking

KEY, SECRET = "public-key", "private-secret"
COINS = [f"coin-{n:03d}" for n in range(600)]


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def say(self, status, body):
        text = body if isinstance(body, str) else json.dumps(body)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def do_POST(self):
        state, body = self.server.state, self.rfile.read(int(self.headers["Content-Length"]))
        form = {k: v[0] for k, v in parse_qs(body.decode()).items()}
        state["forms"].append(form)
        good = hmac.new(SECRET.encode(), body, hashlib.sha512).hexdigest()
        if state["fault"]:
            return self.say(*state["fault"])
        if self.headers["Key"] != KEY or not hmac.compare_digest(self.headers["Sign"], good):
            return self.say(200, {"success": 0, "error": "ERR_AUTH", "error_msg": "Invalid API key or signature"})
        if int(form["nonce"]) <= state["nonce"]:
            return self.say(200, {"success": 0, "error": "ERR_NONCE", "error_msg": "Nonce must be greater than the last one"})
        state["nonce"] = int(form["nonce"])
        return self.say(200, {"success": 1, "method": form["method"], "account_currency": "USD", "details": {
            "BTC": {"amount": "0.50000000", "coin": "BTC", "value_fiat": "21000"}, "ETH2": {"amount": "3.1", "coin": "ETH"},
            "DUST": {"amount": "0", "coin": "DUST"}}})

    def do_GET(self):
        state, parts = self.server.state, urlsplit(self.path)
        q = {k: v[0] for k, v in parse_qs(parts.query).items()}
        state["gets"].append((parts.path, q, dict(self.headers)))
        if state["fault"]:
            return self.say(*state["fault"])
        if parts.path == "/simple/price":
            known = {"bitcoin": 42000.5, "ethereum": 2500, "pepe": 0.00000123, "dead": None}
            return self.say(200, {i: {q["vs_currencies"]: known[i]} for i in q["ids"].split(",") if i in known})
        if parts.path == "/coins/markets":
            size, page = int(q["per_page"]), int(q["page"])
            if size > 250:
                return self.say(422, {"error": "per_page too large"})
            some = [c for c in COINS if c in q["ids"].split(",")] if "ids" in q else COINS
            rows = some[(page - 1) * size:page * size]
            return self.say(200, [{"id": c, "symbol": c[-3:], "name": c, "current_price": 1.5, "market_cap": 10, "total_volume": None,
                                   "price_change_percentage_24h": -2.5} for c in rows])
        return self.say(404, {"error": "no such path"})


@pytest.fixture
def server():
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    http.state = {"forms": [], "gets": [], "nonce": 0, "fault": None}
    http.url = f"http://127.0.0.1:{http.server_port}"
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield http
    http.shutdown()
    http.server_close()


def api(server, now=None, **change):
    at = now or [datetime(2024, 5, 3, tzinfo=UTC)]
    return CoinTracking(**{"api_key": KEY, "secret": SECRET, "url": server.url + "/api/v1/", "clock": lambda: at[0]} | change)


def test_the_signature_is_accepted_and_the_balance_read(server):
    assert api(server).fetch_balance() == {"BTC": Decimal("0.50000000"), "ETH": Decimal("3.1")}
    assert server.state["forms"][0]["method"] == "getBalance"


def test_the_command_keeps_what_cointracking_tells(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trading.venues.cointracking.CoinTracking", partial(CoinTracking, url=server.url + "/api/v1/"))
    for name, value in {"COINTRACKING_API_KEY": KEY, "COINTRACKING_API_SECRET": SECRET, "CARNET_RUN__DATA": str(tmp_path / "data")}.items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(main, ["holdings", "import", "--from", "cointracking"])
    assert done.exit_code == 0, (done.output, done.exception)
    listed = CliRunner().invoke(main, ["holdings", "list"]).output
    assert re.search(r"BTC.*\b0\.5", listed) and re.search(r"ETH.*\b3\.1", listed) and "DUST" not in listed, listed
    monkeypatch.setenv("COINTRACKING_API_KEY", "another")
    refused = CliRunner().invoke(main, ["holdings", "import", "--from", "cointracking"])
    assert refused.exit_code == 1 and "Invalid API key" in refused.output + refused.stderr


def test_the_nonce_rises_even_within_one_millisecond(server):
    account = api(server)
    for _ in range(5):
        account.fetch_balance()
    nonces = [int(f["nonce"]) for f in server.state["forms"]]
    assert nonces == sorted(set(nonces)) and len(nonces) == 5


def test_the_twenty_first_call_of_an_hour_is_not_made(server):
    now = [datetime(2024, 5, 3, tzinfo=UTC)]
    account = api(server, now)
    for _ in range(20):
        account.fetch_balance()
        now[0] += timedelta(minutes=1)
    with pytest.raises(VenueUnreachable, match="20 calls an hour are allowed and were made; the next is possible in 40 min"):
        account.fetch_balance()
    assert len(server.state["forms"]) == 20
    now[0] += timedelta(minutes=41)
    assert account.fetch_balance()


def test_a_wrong_secret_is_said_and_not_printed(server):
    with pytest.raises(VenueError, match="the balance was refused: Invalid API key or signature") as said:
        api(server, secret="another-secret").fetch_balance()
    assert "another-secret" not in str(said.value) and "another-secret" not in repr(api(server, secret="another-secret"))


@pytest.mark.parametrize(("fault", "kind", "words"), [
    ((200, {"success": 0, "error": "ERR", "error_msg": "Too many calls"}), VenueError, "Too many calls.*20 times an hour"),
    ((200, "<html>please sign in</html>"), VenueError, "no JSON"),
    ((200, {"success": 1}), VenueError, "without details"),
    ((429, {}), VenueUnreachable, "slow down"),
    ((503, {}), VenueUnreachable, "fails at the moment"),
    ((401, {}), VenueError, "key was not accepted"),
])
def test_a_bad_answer_is_one_sentence(server, fault, kind, words):
    server.state["fault"] = fault
    with pytest.raises(kind, match=words) as said:
        api(server).fetch_balance()
    assert "\n" not in str(said.value) and SECRET not in str(said.value)


@pytest.mark.parametrize(("options", "header"), [({}, None), ({"api_key": "demo-1"}, "x-cg-demo-api-key"),
                                                 ({"api_key": "paid-1", "pro": True}, "x-cg-pro-api-key")])
def test_prices_come_keyless_with_a_demo_key_and_with_a_paid_one(server, options, header):
    prices = coingecko_prices({"BTC": "bitcoin", "PEPE": "pepe", "GONE": "dead", "NEW": "unknown"}, url=server.url, **options)
    assert prices == {"BTC": Decimal("42000.5"), "PEPE": Decimal("0.00000123")}
    headers = {k.lower(): v for k, v in server.state["gets"][0][2].items()}
    assert [h for h in headers if h.startswith("x-cg")] == ([header] if header else []) and (not header or headers[header] == options["api_key"])


@pytest.mark.parametrize(("fault", "kind", "words"), [((200, [1]), VenueError, "form they should have"),
                                                      ((429, {}), VenueUnreachable, "slow down"), ((200, "<html>"), VenueError, "no JSON")])
def test_bad_pages_are_refused(server, fault, kind, words):
    server.state["fault"] = fault
    with pytest.raises(kind, match=words):
        coingecko_prices({"BTC": "bitcoin"}, url=server.url)
    with pytest.raises(BadInput, match="no coins were named"):
        coingecko_prices({}, url=server.url)
