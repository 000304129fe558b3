"A live market on this machine: the paper exchange, served in Binance's shape, with bars up to yesterday and faults on demand."

import json
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
from papermill.exceptions import PapermillExecutionError

from trading.core.bars import bars_from
from trading.core.instruments import Instrument
from trading.testing.binance_server import Counter, SignatureCheck, make_exchange, served
from trading.venues.paper.costs import TradingCosts
from trading.venues.paper.exchange import PaperVenue
from trading.venues.paper.matching import QuoteFeed

KEYS = {"BINANCE_API_KEY": "public-key", "BINANCE_SECRET": "private-secret-of-the-test"}
SYMBOLS = ("AAA/USDT", "BBB/USDT", "CCC/USDT", "DDD/USDT")
SETTINGS = """
[run]
profile = loop
mode = live

[loop:market]
source = ccxt
venue = binance
symbols = {symbols}
currency = USDT
start = {start}
calendar = 24/7
max_age_hours = 72

[loop:forecast]
window = 1000
horizons = 1, 5

[loop:allocate]
window = 120
every = 60

[loop:limits]
max_weight = 0.40
max_group_weight = 1.0
max_var_95 = 0.30
max_drawdown = 0.50
max_daily_loss = 0.10

[loop:risk_levels]
medium = max_weight 0.35, volatility 0.40, max_drawdown 0.60, min_cash 0.05

[loop:groups]
Coins = {symbols}

[loop:execution]
settle_seconds = 0.05
pause_seconds = 3600

[loop:live]
address = {address}
"""


def make_bars(days: int = 1000) -> pd.DataFrame:
    "Make days of a quiet market that end yesterday."
    dice, end = np.random.default_rng(5), pd.Timestamp(datetime.now(UTC)).normalize()
    index = pd.date_range(end=end - pd.Timedelta(days=1), periods=days, freq="D")
    frames = {}
    for n, symbol in enumerate(SYMBOLS):
        close = 10.0 * (n + 1) * np.exp(np.cumsum(dice.normal(0.0004, 0.012, days)))
        close = close.round(4)
        start = np.append(close[0], close[:-1])
        top, low = np.maximum(close, start) * 1.002, np.minimum(close, start) * 0.998
        frames[symbol] = pd.DataFrame({"open": start, "high": top.round(4), "low": low.round(4), "close": close, "volume": 1e5}, index=index)
    return bars_from(frames)


class Place:
    "The exchange: its paper venue, its prices, its address, and what goes wrong."

    def __init__(self, bars: pd.DataFrame, funds: dict[str, Decimal], fee_in: str = "", others: dict[str, str] | None = None, **costs):
        self.bars, self.uid, self.requests = bars, 1, []
        self.fault = lambda method, path: None  # 'lost': carried out and not answered; 'refused': 503 and not carried out
        self.prices = {s: Decimal(repr(float(bars["close"][s].iloc[-1]))) for s in SYMBOLS}
        self.prices |= {s: Decimal(p) for s, p in (others or {}).items()}  # traded there, and none of the profile's symbols
        markets = {s: Instrument(s, Decimal("0.001"), Decimal("0.0001"), min_cost=Decimal(5)) for s in self.prices}
        clock = lambda: datetime.now(UTC)  # noqa: E731
        costs = TradingCosts(**{"fee_rate": Decimal("0.001"), "half_spread_bp": Decimal(1), "slippage_bp": Decimal(1)} | costs)
        self.venue = PaperVenue(QuoteFeed(lambda s, t: self.prices.get(s)), clock, markets, costs, funds, "USDT", fee_in=fee_in)
        place = self

        class Numbered(Counter):
            def account(self, asked):
                return super().account(asked) | {"uid": place.uid}

            def klines(self, asked):
                "A minute of what is only traded, not planned: the price as it is."
                if asked.get("interval") != "1m":
                    return super().klines(asked)
                start, price = -(-int(asked.get("startTime", 0)) // 60_000) * 60_000, f"{place.prices[self.symbol(asked)]:f}"
                return [[start, *[price] * 4, "50", start + 59_999, "0", 0, "0", "0", "0"]]

        self.app = make_exchange(Numbered(self.venue, clock, bars), SignatureCheck(*KEYS.values()))

    async def __call__(self, scope, receive, send):
        "Pass a request to the exchange, or do to it what the fault says."
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        method, path = scope["method"], scope["path"].rpartition("/")[2]
        self.requests.append((method, path))
        fault = self.fault(method, path)
        if fault != "refused":
            told = []

            async def keep(message):
                told.append(message)

            await self.app(scope, receive, keep if fault else send)
        if fault:
            await send({"type": "http.response.start", "status": 503, "headers": [(b"content-type", b"text/html")]})
            await send({"type": "http.response.body", "body": b"<html>busy</html>"})
        return None


@contextmanager
def market(bars: pd.DataFrame, funds: dict[str, str] | None = None, **more):
    "Serve the exchange with some cash and a coin."
    place = Place(bars, {"USDT": Decimal(20_000), "AAA": Decimal(600)} | {a: Decimal(n) for a, n in (funds or {}).items()}, **more)
    with served(place) as place.url:
        yield place
    place.venue.close()


def write_settings(home: Path, address: str, bars: pd.DataFrame) -> None:
    "Write the settings of the profile 'loop'."
    text = SETTINGS.format(symbols=", ".join(SYMBOLS), address=address, start=(bars.index[0] - timedelta(days=1)).date())
    (home / "settings.ini").write_text(text)


class HereKernel:
    "Executes a run notebook in this process, as the kernel of a run would."

    def execute(self, notebook: Path, output: Path, parameters: dict, *_) -> None:
        names = {"display": lambda *_: None}
        for number, cell in enumerate(json.loads(notebook.read_text())["cells"]):
            if cell["cell_type"] != "code":
                continue
            source = "".join(cell["source"]).rstrip().removesuffix(";")
            try:
                exec(compile(source, f"{notebook.name}:{number}", "exec"), names)  # noqa: S102
            except Exception as error:
                raise PapermillExecutionError(number, number, source, type(error).__name__, str(error), []) from error
            if "parameters" in cell["metadata"].get("tags", []):
                names |= parameters
