"A scan over imported files: the folder of a person who has no venue lists its own symbols."

import numpy as np
import pandas as pd
from click.testing import CliRunner

from trading.cli.main import main


def carnet(*words):
    said = CliRunner().invoke(main, list(words))
    return said.exit_code, said.output


def test_what_was_imported_is_scanned_and_an_empty_store_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARNET_RUN__DATA", str(tmp_path / "data"))
    market = "[mine:market]\nsource = file\nsymbols = AAA\ncurrency = USD\nstart = 2022-01-01\n"
    (tmp_path / "settings.ini").write_text(f"[run]\nprofile = mine\n\n{market}")
    code, said = carnet("scan")
    assert code == 1 and "has no imported bars; 'carnet import FILE' stores some" in said
    days = pd.bdate_range("2022-01-03", periods=300)
    for n, name in enumerate(("AAA", "BBB", "CCC")):
        close = 100 * np.exp(np.cumsum(np.random.default_rng(n).normal(0.0005, 0.01, len(days))))
        table = pd.DataFrame({"Date": days.date, "Open": close, "High": close * 1.01, "Low": close * 0.99, "Close": close, "Volume": 1000})
        table.to_csv(f"{name}_1d.csv", index=False)
    code, said = carnet("import", "AAA_1d.csv", "BBB_1d.csv", "CCC_1d.csv")
    assert code == 0 and "AAA_1d.csv: AAA, bars of 1d, 300 bars new" in said, said
    code, said = carnet("scan")
    assert code == 0 and "3 symbols, 3 judged, 0 left out" in said and "nobody was asked" in said, said
    code, said = carnet("scan", "--symbol", "DDD")
    assert code == 1 and "does not know 'DDD'" in said, said
