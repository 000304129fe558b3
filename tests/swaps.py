"Settings of a profile of perpetuals, for the tests on paper and with real orders."

COINS = ("AAA", "BBB", "CCC", "DDD")
SYMBOLS = [f"{c}/USDT:USDT" for c in COINS]


def long_short_settings(profile: str, market: str, leverage: float, mode: str = "paper", horizons: str = "1", margin: str = "", **more: str) -> str:
    "Write a settings file of a long and short profile; `market`, `margin` and `more` are lines of sections."
    limits = "max_leverage = 1.5\nmax_weight = 0.6\nmax_group_weight = 1.0\nmax_net = 1\nmax_turnover = 3\n"
    sections = {
        "market": market,
        "margin": f"leverage = {leverage}\n{margin}",
        "allocate": "policy = long short\nwindow = 260\nrisk_level = very high\n",
        "forecast": f"window = 900\nhorizons = {horizons}\n",
        "limits": limits + "max_var_95 = 0.5\nmax_drawdown = 0.9\nmax_daily_loss = 0.9\n",
        **more,
    }
    return f"[run]\nprofile = {profile}\nmode = {mode}\n" + "".join(f"[{profile}:{name}]\n{lines}" for name, lines in sections.items())
