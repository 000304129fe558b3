"The sample markets as profiles: every symbol has its terms, its bars and its section, and what a run needs is there without a network."

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from trading.core.errors import BadSettings
from trading.core.settings import load_settings
from trading.pipeline.factory import groups_of, market_source, source_note
from trading.pipeline.instruments import InstrumentHistory, fetch_instruments
from trading.pipeline.launch import resolve_as_of
from trading.services.queries_portfolio import section_of

NOW = datetime(2026, 1, 2, tzinfo=UTC)
PROFILES = {"sample-coins": (27, "long-term crypto"), "sample-coins-1h": (6, "long-term crypto"), "sample-forex": (3, "forex"),
            "sample-etfs": (6, "etfs")}  # fmt: skip


@pytest.mark.parametrize("profile", PROFILES)
def test_every_symbol_has_terms_and_a_bar_in_which_the_orders_of_the_day_are_filled(profile, tmp_path):
    settings = load_settings(profile, {"run.data": str(tmp_path)}, environ={})
    number, section = PROFILES[profile]
    found, said = fetch_instruments(settings, NOW)
    assert list(found) == list(settings.market.symbols) and len(found) == number and not said
    assert all(i.taker_fee is not None and i.calendar and i.currency == settings.market.currency for i in found.values())
    when, source = resolve_as_of(None, settings, NOW), market_source(settings)
    for symbol in settings.market.symbols:
        bars = source.fetch_ohlcv(symbol, settings.market.timeframe)
        assert bars.index[-1].to_pydatetime() >= when, f"{symbol} has no bar after {when}"
    assert {section_of(settings, s) for s in settings.market.symbols} - {"memecoins"} == {section}
    assert set(groups_of(settings)) == set(settings.market.symbols) and "Sample data" in source_note(settings)
    kept = InstrumentHistory(tmp_path, source.name).versions()
    assert len(kept) == 1 and kept[0]["instruments"] == found


def test_prices_of_coins_lie_on_the_grid_that_their_terms_name():
    settings = load_settings("sample-coins", environ={})
    source = market_source(settings)
    terms = source.load_markets()
    for symbol in settings.market.symbols:
        for price in source.fetch_ohlcv(symbol)["close"].iloc[-30:]:
            assert Decimal(repr(price)) % terms[symbol].price_step == 0


def test_a_sample_market_that_is_unknown_is_named_with_the_nearest():
    with pytest.raises(BadSettings, match="did you mean 'coins'"):
        load_settings(overrides={"market.venue": "coin"}, environ={})
