"How long one core works on a plan for 2,000 holdings."

import json
import statistics
import time
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np

from trading.core.instruments import Instrument
from trading.execution.plan import PlanConstraints, make_plan


def inputs(assets: int) -> tuple:
    "Make what a plan is made of, for so many holdings: the arguments of make_plan."
    rng = np.random.default_rng(0)
    symbols = [f"S{n:04d}" for n in range(assets)]
    prices = {s: round(float(p), 2) for s, p in zip(symbols, rng.uniform(1, 500, assets), strict=True)}
    holdings = {s: Decimal(int(n)) / 100 for s, n in zip(symbols, rng.integers(0, 100_000, assets), strict=True)}
    targets = dict(zip(symbols, rng.dirichlet(np.ones(assets)) * 0.99, strict=True))
    markets = {s: Instrument(s, amount_step=Decimal("0.01"), price_step=Decimal("0.00000001")) for s in symbols}
    rules = PlanConstraints(fee_rate=Decimal("0.001"), min_trade=Decimal(10), min_cash=Decimal("0.01"))
    return "bench", datetime(2024, 5, 3, tzinfo=UTC), holdings, Decimal(10_000), targets, prices, markets, rules, "USD"


def main(assets: int = 2000, rounds: int = 9) -> None:
    "Print the median processor time of make_plan, which other work on the machine does not disturb."
    given, spent = inputs(assets), []
    for _ in range(rounds):
        start = time.process_time()
        plan = make_plan(*given)
        spent.append(time.process_time() - start)
    median = statistics.median(spent)
    name = f"plan for {assets} holdings, {len(plan.actions)} actions"
    figure = {"figure": name, "value": round(median * 1000, 1), "unit": "ms of one core"}
    print(json.dumps(figure | {"rival": "required", "rival_value": 100, "ratio": round(0.1 / median, 2)}))


if __name__ == "__main__":
    main()
