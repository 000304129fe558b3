"""Talk to the MetaTrader bridge with nothing but requests: an example to read, run and copy.

    carnet mt5-bridge --simulate --account 1 --zone Europe/Athens     # in one window, with MT5_BRIDGE_KEY set
    MT5_BRIDGE_KEY=... python mt5_client.py http://127.0.0.1:8228 1   # in another, with the same key

Every request is signed. An order has an id of yours: if no answer comes, ask for that id and never send the order again.
"""

import hashlib
import hmac
import json
import os
import sys
import time
from urllib.parse import urlencode

import requests


class Bridge:
    "One bridge, one account."

    def __init__(self, url: str, key: str, account: int):
        self.url, self.key, self.account = url.rstrip("/"), key, account

    def ask(self, method: str, path: str, query: dict | None = None, body: dict | None = None):
        "Send one signed request and return the answer; what the bridge refuses is raised with its sentence."
        full = path + ("?" + urlencode(query) if query else "")
        content = json.dumps(body).encode() if body is not None else b""
        at = str(int(time.time()))
        text = b"\n".join([at.encode(), method.encode(), full.encode(), content])
        head = {"X-Time": at, "X-Sign": hmac.new(self.key.encode(), text, hashlib.sha256).hexdigest(), "Content-Type": "application/json"}
        answer = requests.request(method, self.url + full, data=content, headers=head, timeout=30)
        if answer.status_code != 200:
            raise RuntimeError(f"{answer.status_code}: {answer.json().get('detail')}")
        return answer.json()

    def order(self, client_order_id: str, symbol: str, side: str, amount: str, **more: str) -> dict:
        "Place an order once; amounts and prices are texts, units of the asset and quote currency per unit."
        order = {"client_order_id": client_order_id, "symbol": symbol, "side": side, "amount": amount, "type": "market", **more}
        try:
            return self.ask("POST", "/order", body={"account": self.account, "order": order})
        except requests.RequestException:  # nobody knows whether it arrived: ask, never send again
            return self.ask("GET", "/order", {"client_order_id": client_order_id, "symbol": symbol})


def main(url: str, account: int) -> None:
    bridge = Bridge(url, os.environ["MT5_BRIDGE_KEY"], account)
    state = bridge.ask("GET", "/health")
    print("bridge:", "ready" if state["ok"] else state["problem"])
    symbol = bridge.ask("GET", "/symbols")[0]["symbol"]
    last = float(next(iter(bridge.ask("GET", "/ticks", {"symbols": symbol}).values()))["bid"])
    print("bid of", symbol, last)
    run = format(int(time.time()), "x")
    bought = bridge.order(f"long-{run}", symbol, "buy", "10000", stop_loss=f"{last * 0.98:.5f}", take_profit=f"{last * 1.02:.5f}")
    print("long:", bought["status"], bought["filled"], "at", bought["average"])
    again = bridge.ask("GET", "/order", {"client_order_id": f"long-{run}", "symbol": symbol})
    print("looked up:", again["status"], again["filled"])
    print("positions:", {p["symbol"]: p["amount"] for p in bridge.ask("GET", "/positions")})
    closed = bridge.order(f"close-{run}", symbol, "sell", "10000")
    print("closed:", closed["status"], closed["filled"])
    sold = bridge.order(f"short-{run}", symbol, "sell", "10000", stop_loss=f"{last * 1.02:.5f}")
    print("short:", sold["status"], sold["filled"])
    print("positions:", {p["symbol"]: p["amount"] for p in bridge.ask("GET", "/positions")})
    back = bridge.order(f"cover-{run}", symbol, "buy", "10000")
    print("covered:", back["status"], back["filled"], "positions:", bridge.ask("GET", "/positions"))


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]))
    except (RuntimeError, requests.RequestException) as error:
        sys.exit(f"Error: {error}")
