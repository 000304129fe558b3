"""A small exchange on this machine that speaks Binance's spot REST, checks signatures, and misbehaves on request."""

import hashlib
import hmac
import json
import threading
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

KEY, SECRET = "public-key", "private-secret"
DAY = 86_400_000
FIRST = 1_704_067_200_000  # 2024-01-01
PAIRS = {"BTCUSDT": ("BTC", "USDT", 40_000.0), "ETHUSDT": ("ETH", "USDT", 2_500.0), "BNBUSDT": ("BNB", "USDT", 300.0)}


class Exchange:
    """State and faults; `faults` maps a path to a list of fault names, used up one per call."""

    def __init__(self, days: int = 700):
        self.faults: dict[str, list[str]] = {}
        self.calls: Counter = Counter()
        self.balances = {"USDT": 100_000.0, "BTC": 1.0}
        self.orders: list[dict] = []
        self.trades: list[dict] = []
        self.days = days
        self.delay = 0.0  # seconds that every answer takes
        self.page = 1000  # most trades in one answer
        self.pairs = dict(PAIRS)
        self.flying: Counter = Counter()  # requests being answered, by address without time and signature
        self.doubled: list[str] = []  # of these, those that were asked again before they were answered
        self.skew = 0  # milliseconds by which the venue's clock is ahead
        self.lock = threading.Lock()

    def fault(self, path: str, *names: str) -> None:
        self.faults.setdefault(path, []).extend(names)

    def next_fault(self, path: str) -> str:
        with self.lock:
            return self.faults[path].pop(0) if self.faults.get(path) else ""

    def klines(self, symbol: str, start: int, limit: int) -> list:
        base = self.pairs[symbol][2]
        first = max(0, -(-(start - FIRST) // DAY))
        rows = []
        for n in range(first, min(self.days, first + limit)):
            close = base * (1 + 0.1 * ((n * 7919) % 100) / 100)
            prices = [f"{close * factor:.2f}" for factor in (0.99, 1.01, 0.98, 1)]
            rows.append([FIRST + n * DAY, *prices, "12.5", FIRST + (n + 1) * DAY - 1, "1", 1, "1", "1", "0"])
        return rows

    def new_order(self, q: dict) -> tuple[int, object]:
        if any(o["clientOrderId"] == q["newClientOrderId"] and o["status"] == "NEW" for o in self.orders):
            return 400, {"code": -2010, "msg": "Duplicate order sent."}
        base, quote, price = self.pairs[q["symbol"]]
        amount = float(q["quantity"])
        market = q["type"] == "MARKET"
        if q["side"] == "BUY" and amount * price > self.balances.get(quote, 0):
            return 400, {"code": -2010, "msg": "Account has insufficient balance for requested action."}
        order = {
            "symbol": q["symbol"], "orderId": len(self.orders) + 1, "orderListId": -1, "clientOrderId": q["newClientOrderId"],
            "transactTime": FIRST, "time": FIRST, "updateTime": FIRST, "price": q.get("price", "0"), "origQty": q["quantity"],
            "executedQty": q["quantity"] if market else "0", "cummulativeQuoteQty": str(amount * price) if market else "0",
            "status": "FILLED" if market else "NEW", "timeInForce": "GTC", "type": q["type"], "side": q["side"], "fills": [],
        }
        self.orders.append(order)
        if market:
            sign = 1 if q["side"] == "BUY" else -1
            self.balances[base] = self.balances.get(base, 0) + sign * amount
            self.balances[quote] -= sign * amount * price
            self.trades.append({
                "symbol": q["symbol"], "id": len(self.trades) + 1, "orderId": order["orderId"], "price": str(price), "qty": q["quantity"],
                "quoteQty": str(amount * price), "commission": "0.001", "commissionAsset": "BNB", "time": FIRST + 5 * DAY,
                "isBuyer": q["side"] == "BUY", "isMaker": False, "isBestMatch": True,
            })
        return 200, order

    def find(self, q: dict) -> dict | None:
        ours = q.get("origClientOrderId")
        return next((o for o in reversed(self.orders) if o["clientOrderId"] == ours or str(o["orderId"]) == q.get("orderId")), None)

    def signed(self, raw: str, q: dict, headers) -> tuple[int, object] | None:
        if headers.get("X-MBX-APIKEY") != KEY:
            return 401, {"code": -2015, "msg": "Invalid API-key, IP, or permissions for action."}
        body, _, signature = raw.rpartition("&signature=")
        if hmac.new(SECRET.encode(), body.encode(), hashlib.sha256).hexdigest() != signature:
            return 400, {"code": -1022, "msg": "Signature for this request is not valid."}
        if abs(time.time() * 1000 + self.skew - int(q["timestamp"])) > 10_000:
            return 400, {"code": -1021, "msg": "Timestamp for this request is outside of the recvWindow."}
        return None

    def answer(self, method: str, path: str, raw: str, headers) -> tuple[int, object]:
        q = {k: v[0] for k, v in parse_qs(raw).items()}
        if path == "/api/v3/exchangeInfo":
            return 200, {"timezone": "UTC", "serverTime": FIRST, "rateLimits": [], "symbols": [market(s, *p[:2]) for s, p in self.pairs.items()]}
        if path == "/api/v3/time":
            return 200, {"serverTime": int(time.time() * 1000 + self.skew)}
        if path == "/api/v3/klines":
            return 200, self.klines(q["symbol"], int(q.get("startTime", FIRST)), int(q.get("limit", 500)))
        if path in ("/api/v3/ticker/24hr", "/api/v3/ticker/price"):
            wanted = json.loads(q["symbols"]) if "symbols" in q else [q["symbol"]] if "symbol" in q else list(self.pairs)
            return 200, [{"symbol": s, "lastPrice": str(self.pairs[s][2]), "price": str(self.pairs[s][2]), "closeTime": FIRST} for s in wanted]
        if path == "/api/v3/depth":
            price = self.pairs[q["symbol"]][2]
            return 200, {"lastUpdateId": 1, "bids": [[f"{price * (1 - n / 1000):.2f}", "0.5"] for n in range(1, 6)],
                         "asks": [[f"{price * (1 + n / 1000):.2f}", "0.5"] for n in range(1, 6)]}
        if refused := self.signed(raw, q, headers):
            return refused
        if path == "/api/v3/account":
            return 200, {"balances": [{"asset": a, "free": str(v), "locked": "0"} for a, v in self.balances.items()], "uid": 1}
        if path == "/api/v3/order" and method == "POST":
            return self.new_order(q)
        if path == "/api/v3/order":
            order = self.find(q)
            if order is None:
                code, text = (-2013, "Order does not exist.") if method == "GET" else (-2011, "Unknown order sent.")
                return 400, {"code": code, "msg": text}
            if method == "DELETE":
                order["status"] = "CANCELED"
            return 200, order
        if path == "/api/v3/openOrders":
            return 200, [o for o in self.orders if o["status"] == "NEW"]
        if path == "/api/v3/myTrades":
            first = int(q.get("startTime", 0))
            return 200, [t for t in self.trades if t["symbol"] == q["symbol"] and t["time"] >= first][:self.page]
        return 404, {"code": -1, "msg": f"no such path {path}"}


def market(symbol: str, base: str, quote: str) -> dict:
    return {
        "symbol": symbol, "status": "TRADING", "baseAsset": base, "quoteAsset": quote, "baseAssetPrecision": 8, "quotePrecision": 8,
        "quoteAssetPrecision": 8, "orderTypes": ["LIMIT", "MARKET"], "isSpotTradingAllowed": True, "permissions": ["SPOT"],
        "permissionSets": [["SPOT"]], "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1000000", "tickSize": "0.01"},
            {"filterType": "LOT_SIZE", "minQty": "0.00001", "maxQty": "9000", "stepSize": "0.00001"},
            {"filterType": "NOTIONAL", "minNotional": "5", "applyMinToMarket": True},
        ],
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def _serve(self, method: str) -> None:
        exchange, parts = self.server.exchange, urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        raw = parts.query or self.rfile.read(length).decode()
        path = parts.path
        exchange.calls[f"{method} {path}"] += 1
        question = f"{method} {path}?" + "&".join(p for p in raw.split("&") if not p.startswith(("timestamp", "signature")))
        with exchange.lock:
            exchange.flying[question] += 1
            if exchange.flying[question] > 1:
                exchange.doubled.append(question)
        try:
            self._answer(exchange, method, path, raw)
        finally:
            with exchange.lock:
                exchange.flying[question] -= 1

    def _answer(self, exchange: Exchange, method: str, path: str, raw: str) -> None:
        fault = exchange.next_fault(f"{method} {path}")
        if fault == "drop-before":
            self.close_connection = True
            self.connection.close()
            return
        with exchange.lock:
            status, body = exchange.answer(method, path, raw, self.headers)
        if exchange.delay:
            time.sleep(exchange.delay)
        if fault == "slow":
            self.connection.settimeout(60)  # until the client has lost its patience
            with suppress(OSError):
                self.connection.recv(1)
        text = json.dumps(body)
        if fault == "drop-after":
            self.close_connection = True
            self.connection.close()
            return
        if fault.isdigit():
            status, text = int(fault), json.dumps({"code": -1003 if fault in ("418", "429") else -1000, "msg": "told to fail"})
        if fault == "html":
            text = "<html><body>please sign in</body></html>"
        if fault == "null-rows":
            text = json.dumps([*body[:2], [None] * 12])
        if fault == "short-row":
            text = json.dumps([*body[:2], body[2][:3]])
        if fault == "double-rows":
            text = json.dumps([row for row in body for _ in range(2)])
        if fault == "empty":
            text = "{}"
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if fault == "html" else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self._serve("GET")

    def do_POST(self):
        self._serve("POST")

    def do_DELETE(self):
        self._serve("DELETE")


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Stay quiet when a client has gone away; that is what the tests provoke."""


class Server:
    """Run an `Exchange` on a free port of this machine."""

    def __init__(self, days: int = 700):
        self.exchange = Exchange(days)
        self.http = _Http(("127.0.0.1", 0), _Handler)
        self.http.exchange = self.exchange
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()
