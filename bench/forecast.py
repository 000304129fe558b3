"Measure the forecast stage: fitting, predicting, held-out accuracy. One JSON line per figure."

import json
import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "2")


def median_time(work, times: int = 3) -> float:
    "Return the median seconds of some calls, after one that warms up."
    work()
    took = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def say(figure: str, value: float, unit: str, rival: str = "", rival_value: float | None = None) -> None:
    "Print one figure, beside a rival where there is one."
    ratio = None if not rival_value else round(value / rival_value, 3)
    line = {"figure": figure, "value": round(value, 4), "unit": unit, "rival": rival, "rival_value": rival_value, "ratio": ratio}
    print(json.dumps(line), flush=True)


def main() -> None:
    "Measure."
    from trading.core.sample import sample_bars
    from trading.forecast.models import HorizonForecaster, accuracy, hold_out

    code = "import time; t = time.perf_counter(); import trading.forecast.models; print(time.perf_counter() - t)"
    bare = "import time; t = time.perf_counter(); import pandas; print(time.perf_counter() - t)"
    took = [statistics.median(float(subprocess.check_output([sys.executable, "-c", c])) for _ in range(3)) for c in (code, bare)]
    say("forecast: import models", took[0], "s", "import pandas alone", round(took[1], 4))
    bars = sample_bars("stocks")
    say("forecast: fit ridge, 20 stocks x 8313 days x 3 horizons", median_time(lambda: HorizonForecaster().fit(bars)), "s")
    model = HorizonForecaster().fit(bars)
    say("forecast: predict one day, 20 stocks x 3 horizons", median_time(lambda: model.predict(bars)), "s")
    held = hold_out(HorizonForecaster(), bars, n_splits=5)
    say("forecast: score 5 held-out stretches", median_time(lambda: accuracy(held), 1), "s")
    for horizon, row in accuracy(held).iterrows():
        say(f"forecast: coverage of the 90 % interval, {horizon} bars, held out", row["coverage_90"], "share", "nominal", 0.9)
        say(f"forecast: rmse, {horizon} bars, held out", row["rmse"], "log return", f"naive ({row['rival']})", round(row["rmse_naive"], 4))


if __name__ == "__main__":
    main()
