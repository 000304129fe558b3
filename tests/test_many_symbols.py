"A market of more symbols than a byte can number, through import and daily run as a user does it."

import numpy as np
import pandas as pd
from click.testing import CliRunner

from trading.cli.main import main
from trading.pipeline.run_record import find_run

MANY, BARS = 140, 900


def test_a_market_of_a_hundred_and_forty_symbols_is_imported_and_run(tmp_path, monkeypatch):
    rng, days, names = np.random.default_rng(1), pd.bdate_range(end="2024-12-31", periods=BARS, tz="UTC"), [f"S{n:03}" for n in range(MANY)]
    moves = rng.normal(0.0003, 0.009, (BARS, 1)) + rng.normal(0, 0.011, (BARS, MANY))
    closes = pd.DataFrame(50 * np.exp(np.cumsum(moves, axis=0)), days, names).round(4)
    rows = closes.rename_axis("time").reset_index().melt("time", var_name="symbol", value_name="close")
    rows.assign(open=rows["close"], high=rows["close"], low=rows["close"], volume=1000.0).to_parquet(tmp_path / "bars.parquet", index=False)
    market = f"source = file\nsymbols = {', '.join(names)}\ntimeframe = 1d\nstart = {days[0]:%Y-%m-%d}\nas_of = 2024-12-31\ncurrency = USD\n"
    more = "[trade]\nstarting_cash = 10000000\n[forecast]\nhorizons = 1, 5, 20\n[allocate]\nwindow = 252\n"
    (tmp_path / "settings.ini").write_text(f"[run]\nprofile = big\n{more}[big:market]\n{market}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for words in (["import", "bars.parquet"], ["run"]):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, done.output
    run = find_run(tmp_path / "reports", "last")
    assert len(run.read("orders")) == MANY and (run.folder / "index.html").exists()
    # what was forecast of the last fifth of the past is held against what came, as a plain walk over the closes finds it
    judged, rises = run.read("accuracy"), np.log(closes).diff(1).shift(-1)
    assert set(judged.index) == {1, 5, 20} and 0 < judged.loc[1, "rmse_naive"] < 2 * float(rises.stack().std())
    assert abs(judged.loc[1, "rmse_naive"] / float(rises.iloc[BARS // 2:].stack().std()) - 1) < 0.03
