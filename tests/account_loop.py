"""The account of the backtest once more, in plain Python: one position is one object, one bar is one pass of a loop, nothing is compiled.

It says what `trading.backtest.account` promises and shares no line with it; tests hold the two equal to 1e-9.
"""

from dataclasses import dataclass, field
from math import isnan

NEVER = float("nan")


@dataclass
class Position:
    "What is held of one symbol."

    side: int
    units: float
    entry: float
    began: int  # bar
    best: float
    first: float  # units at the beginning
    stop: float | None
    target: float | None
    paid: float  # fees of what is still held
    done: int = 0  # parts sold
    sure: str = "all"  # what of the entry's bar came after the entry for certain: all, down or up


@dataclass
class Loop:
    "One account; `rules` are those of `TradeRules`, `account` those of `AccountRules`, plain numbers and lists of lists."

    costs: dict
    rules: dict
    account: dict
    cash: float = 0.0
    held: dict[int, Position] = field(default_factory=dict)
    resting: dict[int, dict] = field(default_factory=dict)
    orders: list = field(default_factory=list)
    trades: list = field(default_factory=list)
    values: list = field(default_factory=list)
    dead: bool = False

    # ------------------------------------------------------------------ arithmetic

    def slipped(self, price: float, buys: bool) -> float:
        return price + (1 if buys else -1) * abs(price) * self.costs["slippage"]

    def fee(self, units: float, price: float) -> float:
        return abs(units * price) * self.costs["fees"] + self.costs["fixed_fees"]

    def order(self, n: int, t: int, delta: float, price: float, fee: float, why: str, stop=None, target=None) -> None:
        "Change a position by `delta` units, close what it closes and open what is beyond."
        self.cash -= delta * price + fee
        self.orders.append((t, n, delta, price, fee, why))
        old = self.held.get(n)
        left = delta
        if old and old.side * delta < 0:
            out = min(abs(delta), old.units)
            inside, outside = old.paid * out / old.units, fee * out / abs(delta)
            gain = old.side * out * (price - old.entry) - inside - outside
            self.trades.append((n, old.side, out, old.began, old.entry, t, price, inside + outside, gain, why, False))
            old.paid -= inside
            old.units -= out
            left = delta + old.side * out
            if old.units <= 1e-12 * abs(delta):
                del self.held[n]
            if abs(left) <= 1e-12 * abs(delta):
                return
        if n in self.held:
            p, more = self.held[n], abs(left)
            p.entry = (p.entry * p.units + price * more) / (p.units + more)
            p.units, p.paid = p.units + more, p.paid + fee
            p.first = max(p.first, p.units)
        else:
            side = 1 if left > 0 else -1
            self.held[n] = Position(side, abs(left), price, t, price, abs(left), stop, target, fee * abs(left) / abs(delta))

    def leave(self, n: int, t: int, price: float, why: str, share: float = 1.0) -> None:
        p = self.held[n]
        at = self.slipped(price, p.side < 0)
        delta = -p.side * p.units * share
        if why in ("signal", "rebalance") and (abs(delta) < self.costs["min_size"] or (delta < 0 < at and -delta * at < self.fee(delta, at))):
            return
        self.order(n, t, delta, at, self.fee(delta, at), why)

    def equity(self, prices) -> float:
        return self.cash + sum(p.side * p.units * prices[n] for n, p in self.held.items())

    def gross(self, prices) -> float:
        return sum(abs(p.units * prices[n]) for n, p in self.held.items())

    # ------------------------------------------------------------------ one bar

    def run(self, bars: list[dict], asks: list[dict], clock: list[int]) -> None:
        "Go through bars: each a dict of lists by symbol (fill, open, high, low, close); `asks` what was decided for each."
        self.cash = self.costs["cash"]
        before = [0.0] * len(bars[0]["close"])
        for t, (bar, ask) in enumerate(zip(bars, asks, strict=True)):
            if not self.dead:
                self.one(t, bar, ask, clock, before)
            value = self.equity(bar["close"])
            if value <= 0 and not self.dead:
                for n, p in sorted(self.held.items()):
                    self.order(n, t, -p.side * p.units, bar["close"][n], 0.0, "liquidation")
                self.dead, self.cash, value = True, 0.0, 0.0
            self.values.append(value)
            before = bar["close"]

    def one(self, t, bar, ask, clock, before) -> None:
        begin = [o if not isnan(o) else b for o, b in zip(bar["open"], before, strict=True)]
        trades = [not isnan(x) for x in bar["fill"]]
        owed = self.account.get("carry")
        if owed:
            for n, p in self.held.items():
                self.cash -= p.units * abs(begin[n]) * owed[t][n][0 if p.side > 0 else 1]
        for n in sorted(n for n in self.held if self.account["ends"][n] == t):
            p = self.held[n]
            self.order(n, t, -p.side * p.units, before[n] * self.account["payout"], 0.0, "delisted")
        self.resting = {n: x for n, x in self.resting.items() if self.account["ends"][n] != t}
        if owed and self.cash < 0:
            self.cash += self.cash * owed[t][0][2]
        self.margin(t, begin, trades)
        start = dict(enumerate(begin))
        if self.costs["fill"] == "close":
            self.within(t, bar, trades, start, clock)
            self.decided(t, bar, ask, clock, before, trades)
        else:
            self.decided(t, bar, ask, clock, before, trades)
            self.within(t, bar, trades, start, clock)
        if self.rules["hopeful"] and self.equity(bar["close"]) > 0:
            self.margin(t, bar["close"], trades)

    def margin(self, t, prices, trades) -> None:
        "Liquidate at these prices when the margin is used up."
        if self.equity(prices) < self.account["keep"] * self.gross(prices):
            for n in sorted(n for n in self.held if trades[n]):
                self.leave(n, t, prices[n], "liquidation")
                self.resting.pop(n, None)

    def decided(self, t, bar, ask, clock, before, trades) -> None:
        limit = self.rules.get("hold_time"), self.rules.get("hold_bars")
        for n, p in sorted(self.held.items()):
            if trades[n] and ((limit[0] and clock[t] - clock[p.began] >= limit[0]) or (limit[1] and t - p.began >= limit[1])):
                self.leave(n, t, bar["fill"][n], "time")
        marks = [f if not isnan(f) else b for f, b in zip(bar["fill"], before, strict=True)]
        if ask.get("weights"):
            self.rebalance(t, marks, trades, ask["weights"])
        entries = {}
        for n, wish in sorted(ask.get("wishes", {}).items()):
            if not trades[n]:
                continue
            now = self.held[n].side if n in self.held else 0
            side = 1 if "entry" in wish else -1 if "short_entry" in wish else 0
            out = (now > 0 and ({"exit", "short_entry"} & wish)) or (now < 0 and ({"short_exit", "entry"} & wish))
            side = 0 if side == now else side
            if side == 0 and (now or {"exit", "short_exit"} & wish):
                self.resting.pop(n, None)
            if side and self.rules["entry"] != "market":
                self.resting[n] = {"side": side, "level": self.level(t, n, side), "since": t, "first": None} | self.way(t, n)
                side = 0
            if out and not side:
                self.leave(n, t, bar["fill"][n], "signal")
            if side:
                entries[n] = side
                self.resting.pop(n, None)
        if entries:
            self.enter(t, bar, marks, entries)

    def level(self, t, n, side) -> float:
        price = self.rules["price"][t][n]
        return price + side * abs(price) * self.rules["offset"]

    def way(self, t, n) -> dict:
        return {k: self.rules[k][t][n] if self.rules.get(k) is not None else None for k in ("size", "stop", "target")}

    def cost(self, way, equity, fixed, free, flat) -> float:
        if self.rules.get("risk"):
            cost = self.rules["risk"] * equity / way["stop"] * (1 + self.costs["fees"]) + fixed
        elif way["size"] < 0:  # an equal part of what is free for each symbol that is flat
            cost = free / flat
        else:
            cost = way["size"] * equity
        return cost if cost > 0 else 0.0

    def enter(self, t, bar, marks, entries) -> None:
        equity, gross, fixed = self.cash, 0.0, self.costs["fixed_fees"]
        for n, p in self.held.items():
            if n in entries:  # turned in one order
                at = self.slipped(bar["fill"][n], entries[n] > 0)
                equity += p.side * p.units * at - p.units * abs(at) * self.costs["fees"] - fixed
            else:
                equity, gross = equity + p.side * p.units * marks[n], gross + abs(p.units * marks[n])
        room = max(equity * self.account["leverage"] - gross, 0.0)
        flat = sum(1 for n, x in enumerate(bar["listed"]) if x and (n not in self.held or n in entries))
        cost = {n: self.cost(self.way(t, n), equity, 0.0 if n in self.held else fixed, equity - gross, flat) for n in entries}
        fits = min(1.0, room / sum(cost.values())) if sum(cost.values()) > 0 else 1.0
        for n, side in sorted(entries.items()):
            at = self.slipped(bar["fill"][n], side > 0)
            now = self.held[n].units if n in self.held else 0.0
            more = max((cost[n] * fits - (0.0 if now else fixed)) / (1 + self.costs["fees"]), 0.0) / abs(at)
            delta = side * (now + more)
            fee = self.fee(delta, at)
            if delta == 0 or abs(delta) < self.costs["min_size"] or (delta < 0 < at and -delta * at < fee):
                continue
            way = self.way(t, n)
            self.order(n, t, delta, at, fee, "signal", way["stop"], way["target"])

    def rebalance(self, t, marks, trades, weights) -> None:
        value = self.equity(marks)
        units = {n: (self.held[n].side * self.held[n].units if n in self.held else 0.0) for n in weights}
        todo = sorted((w * value - units[n] * marks[n], n) for n, w in weights.items() if trades[n])
        for _, n in todo:
            delta = weights[n] * value / marks[n] - units[n]
            if abs(delta * marks[n]) <= 1e-12 * abs(value):
                continue
            at = self.slipped(marks[n], delta > 0)
            if delta > 0:
                free = (self.cash + (self.account["leverage"] - 1) * value - self.costs["fixed_fees"]) / (1 + self.costs["fees"])
                delta = min(delta, free / abs(at))
                if delta <= 0:
                    continue
            fee = self.fee(delta, at)
            if abs(delta) < self.costs["min_size"] or (delta < 0 < at and -delta * at < fee):
                continue
            self.order(n, t, delta, at, fee, "rebalance")

    # ------------------------------------------------------------------ inside the bar

    def within(self, t, bar, trades, start, clock) -> None:
        for n in sorted(self.resting):
            if trades[n] and n not in self.held:
                self.reach(t, bar, n, start)
        if not self.rules["hopeful"]:
            self.worst(t, bar, trades, start)
        for n in sorted(self.held):
            if not trades[n]:
                continue
            if self.rules["hopeful"]:
                self.profit(t, bar, n, start, clock)
                if n in self.held:
                    self.stopped(t, bar, n, start)
            elif not self.stopped(t, bar, n, start):
                self.profit(t, bar, n, start, clock)
            if n in self.held:
                p = self.held[n]
                doubtful = p.sure == ("down" if p.side > 0 else "up")  # the best of the bar may have come before the entry
                seen = bar["close"][n] if doubtful else bar["high"][n] if p.side > 0 else bar["low"][n]
                p.best = max(p.best, seen) if p.side > 0 else min(p.best, seen)
                p.sure = "all"

    def reach(self, t, bar, n, start) -> None:
        "Fill a resting entry when the bar comes to its price."
        order = self.resting[n]
        order["first"] = t if order["first"] is None else order["first"]
        if t - order["first"] >= self.rules["valid"]:
            del self.resting[n]
            return
        limit, side, level = self.rules["entry"] == "limit", order["side"], order["level"]
        falls = limit == (side > 0)
        if not (bar["low"][n] <= level if falls else bar["high"][n] >= level):
            return
        at_once = bar["open"][n] <= level if falls else bar["open"][n] >= level
        price = bar["open"][n] if at_once else level
        del self.resting[n]
        equity, gross = self.equity(start), self.gross(start)
        flat = sum(1 for k, x in enumerate(bar["listed"]) if x and k not in self.held)
        cost = min(self.cost(order, equity, self.costs["fixed_fees"], equity - gross, flat), equity * self.account["leverage"] - gross)
        value = (cost - self.costs["fixed_fees"]) / (1 + self.costs["fees"])
        at = price if limit else self.slipped(price, side > 0)
        if value <= 0 or value / abs(at) < self.costs["min_size"]:
            return
        delta = side * value / abs(at)
        self.order(n, t, delta, at, self.fee(delta, at), "signal", order["stop"], order["target"])
        self.held[n].sure = "all" if at_once else ("down" if side > 0 else "up") if limit else ("up" if side > 0 else "down")
        start[n] = price

    def floor(self, p: Position) -> float | None:
        if p.stop is None:
            return None
        base = p.best if self.rules["trailing"] else p.entry
        return base - p.side * abs(base) * p.stop

    def worst(self, t, bar, trades, start) -> None:
        "Walk everything to the worst of the bar at once; what comes first on the way happens first."
        while self.held:
            def spare(way):
                prices = {n: start[n] + (way * (bar["low" if p.side > 0 else "high"][n] - start[n]) if trades[n] else 0.0)
                          for n, p in self.held.items()}
                return self.equity(prices) - self.account["keep"] * self.gross(prices)

            if spare(1.0) >= 0 or not (self.cash < 0 or any(p.side < 0 for p in self.held.values()) or self.account["negative"]):
                return
            when, beyond, first = 0.0, 1.0, None
            for _ in range(80):  # halve the way until it is exact
                middle = (when + beyond) / 2
                when, beyond = (middle, beyond) if spare(middle) > 0 else (when, middle)
            for n, p in sorted(self.held.items()):
                floor, low = self.floor(p), bar["low" if p.side > 0 else "high"][n]
                if trades[n] and floor is not None and (low - floor) * p.side <= 0:
                    way = max(0.0, (floor - start[n]) / (low - start[n])) if low != start[n] else 0.0
                    if way <= when:
                        when, first = way, n
            if first is None or not self.stopped(t, bar, first, start):
                for n in sorted(n for n in self.held if trades[n]):
                    low = bar["low" if self.held[n].side > 0 else "high"][n]
                    self.leave(n, t, start[n] + when * (low - start[n]), "liquidation")
                    self.resting.pop(n, None)
                return

    def stopped(self, t, bar, n, start) -> bool:
        p = self.held[n]
        floor = self.floor(p)
        if floor is None:
            return False
        hit = bar["low"][n] <= floor if p.side > 0 else bar["high"][n] >= floor
        if self.rules["hopeful"] and p.sure == ("up" if p.side > 0 else "down"):  # the worst may have come before the entry
            hit = hit and (bar["close"][n] <= floor if p.side > 0 else bar["close"][n] >= floor)
        if hit:
            why = "trailing" if self.rules["trailing"] and p.best != p.entry else "stop"
            self.leave(n, t, min(start[n], floor) if p.side > 0 else max(start[n], floor), why)
        return hit

    def profit(self, t, bar, n, start, clock) -> None:
        p = self.held[n]
        doubtful = p.sure == ("down" if p.side > 0 else "up") and not self.rules["hopeful"]

        def comes_to(level):
            best = bar["close"][n] if doubtful else bar["high"][n] if p.side > 0 else bar["low"][n]
            return p.side * best >= p.side * level

        def beyond(level):
            return max(start[n], level) if p.side > 0 else min(start[n], level)

        for k, (gain, share) in enumerate(self.rules["partial"]):
            level = p.entry + p.side * abs(p.entry) * gain
            if k == p.done and comes_to(level):
                p.done = k + 1
                self.leave(n, t, beyond(level), "partial", min(1.0, share * p.first / p.units))
                if n not in self.held:
                    return
        roof, why = (p.entry + p.side * abs(p.entry) * p.target, "target") if p.target is not None else (None, "target")
        for age, gain in self.rules["steps"]:
            level = p.entry + p.side * abs(p.entry) * gain
            if clock[t] - clock[p.began] >= age and (roof is None or p.side * level < p.side * roof):
                roof, why = level, "step"
        if roof is not None and comes_to(roof):
            self.leave(n, t, beyond(roof), why)
