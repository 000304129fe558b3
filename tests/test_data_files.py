"""Files of prices: what is whole is read to the last bit, what is torn is refused and stores nothing."""

import numpy as np
import pandas as pd
import pytest

from trading.core.bars import bars_from
from trading.core.datasets import sample_bars
from trading.core.errors import BadInput
from trading.core.resources import share_path
from trading.data.delta_store import BarStore
from trading.data.import_files import import_file
from trading.data.price_files import read_bars_file


@pytest.fixture(scope="module")
def index() -> pd.DataFrame:
    return sample_bars("indices")[["open", "high", "low", "close", "volume"]].xs("NASDAQ", axis=1, level=1)


@pytest.mark.parametrize("sep", [",", ";", "\t"])
@pytest.mark.parametrize("times", ["%Y-%m-%d", "%d/%m/%Y", "%Y.%m.%d", "%Y-%m-%dT%H:%M:%SZ", "epoch"])
def test_twenty_years_come_back_to_the_last_bit(tmp_path, index, sep, times):
    table = index.reset_index()
    table["timestamp"] = index.index.as_unit("s").asi8 if times == "epoch" else index.index.strftime(times)
    table.to_csv(tmp_path / "x.csv", sep=sep, index=False)
    assert read_bars_file(tmp_path / "x.csv", "NASDAQ")["close"]["NASDAQ"].to_numpy().tobytes() == index["close"].to_numpy().tobytes()


def test_zipped_and_gzipped_files_are_opened(tmp_path, index):
    truth = index.head(50)
    for name, how in (("x.csv.gz", "gzip"), ("x.zip", {"method": "zip", "archive_name": "x.csv"})):
        truth.to_csv(tmp_path / name, compression=how)
        assert read_bars_file(tmp_path / name, "A")["high"]["A"].tolist() == truth["high"].tolist()


def test_a_file_cut_at_any_byte_is_refused_or_loses_whole_rows_only(tmp_path):
    rows = np.random.default_rng(3).uniform(100, 200, (8, 5)).round(2)
    rows[:, 1], rows[:, 2] = rows[:, :4].max(axis=1), rows[:, :4].min(axis=1)
    text = "".join(f"{1704153600 + n * 86400},{','.join(map(str, r))},17\n" for n, r in enumerate(rows))
    (tmp_path / "whole.csv").write_text(text)
    whole = read_bars_file(tmp_path / "whole.csv", "A")
    refused = 0
    for cut in range(len(text)):
        (tmp_path / "cut.csv").write_text(text[:cut])
        try:
            found = read_bars_file(tmp_path / "cut.csv", "A")
        except BadInput:
            refused += 1
        else:
            assert found.equals(whole.iloc[:len(found)]), cut
    assert refused > 0.9 * len(text)


def test_a_refused_file_leaves_the_store_as_it_was(tmp_path, index):
    store = BarStore(tmp_path / "bars")
    index.head(100).to_csv(tmp_path / "x.csv")
    version = import_file(tmp_path / "x.csv", store, "NASDAQ").version
    text = (tmp_path / "x.csv").read_text().splitlines(keepends=True)
    for change in (["nonsense,1,2,3,4,5\n"], [text[-1].replace(",", ";")], [text[-1][:15]]):
        (tmp_path / "y.csv").write_text("".join(text[:-1] + change))
        with pytest.raises(BadInput):
            import_file(tmp_path / "y.csv", store, "NASDAQ")
    assert store.version == version and len(store.versions()) == 1


def test_what_the_cleaner_removed_is_reported(tmp_path, index):
    dirty = index.head(300).copy()
    dirty.iloc[150, dirty.columns.get_loc("close")] *= -1
    dirty.to_csv(tmp_path / "x.csv")
    report = import_file(tmp_path / "x.csv", BarStore(tmp_path / "bars"), "NASDAQ")
    assert any(r.symbol == "NASDAQ" and r.timestamp == dirty.index[150] for r in report.repairs)


def test_many_symbols_in_one_parquet_file(tmp_path):
    file = share_path("samples", "coins_1d.parquet")
    rows = pd.read_parquet(file)
    truth = bars_from({s: g.set_index("timestamp") for s, g in rows.groupby("symbol", sort=False)})
    found = read_bars_file(file)
    assert found["close"].shape == truth["close"].shape and found["close"].sum().sum() == pytest.approx(truth["close"].sum().sum(), rel=1e-12)
    assert import_file(file, BarStore(tmp_path / "bars"), source="binance").rows == len(rows)
