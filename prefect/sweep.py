"""A sweep on a Dask cluster: the symbols are shared out among its workers, and the results come back as one table.

Nothing is decided here: the question comes in as parameters, `trading.backtest.sweep` answers it.
"""

from pathlib import Path

import pandas as pd
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect_dask import DaskTaskRunner

CLUSTER = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}


@task(cache_policy=NO_CACHE, persist_result=False, retries=1)
def sweep_symbol(bars: pd.DataFrame, strategy: str, grid: dict, metrics: list[str], costs: dict) -> pd.DataFrame:
    "Try every combination on one symbol; one thread, because each worker of the cluster is one."
    from trading.backtest import strategies
    from trading.backtest.sweep import sweep

    return sweep(bars, getattr(strategies, strategy), grid, metrics, **costs, workers=1, progress=False)


@flow(name="sweep", task_runner=DaskTaskRunner(cluster_kwargs=CLUSTER), validate_parameters=False, persist_result=False)
def sweep_flow(
    strategy: str = "MaCross",
    grid: dict | None = None,
    metrics: tuple[str, ...] = ("total_return", "sharpe", "max_drawdown"),
    costs: dict | None = None,
    market: str = "indices",
    results: str | None = None,
) -> pd.DataFrame:
    "Sweep a strategy over a sample market; `results` names a Parquet file to write. `with_options(task_runner=…)` takes another cluster."
    from trading.core.bars import symbols_of
    from trading.core.datasets import sample_bars

    bars = sample_bars(market)
    grid = {"fast": list(range(5, 55, 5)), "slow": list(range(60, 210, 10))} if grid is None else grid
    parts = [sweep_symbol.submit(bars.loc[:, (slice(None), [s])], strategy, grid, list(metrics), costs or {}) for s in symbols_of(bars)]
    table = pd.concat([part.result() for part in parts]).sort_index()
    if results is not None:
        Path(results).parent.mkdir(parents=True, exist_ok=True)
        table.reset_index().to_parquet(results)
    return table


if __name__ == "__main__":
    print(sweep_flow().sort_values("sharpe").tail(10))
