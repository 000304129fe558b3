"A large corpus for the leak detector: 37 kinds of planted leaks and twenty kinds of clean look-alikes, each in several variants."

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from scipy.signal import butter, detrend, filtfilt
from sklearn.cluster import KMeans

FIELDS = ("open", "high", "low", "close", "volume")


def one(b, field="close"):
    return b[field].iloc[:, 0].astype(float)


def ret(b, n=1):
    return one(b).pct_change(n)


LEAKY: dict[str, tuple[Callable, tuple]] = {  # kind → (maker of a pipeline from a variant, variants)
    "shift": (lambda k: lambda b: ret(b).shift(-k), (1, 2, 3, 5, 10, 21, 40)),
    "field ahead": (lambda f: lambda b: one(b, f).shift(-1), FIELDS),
    "ratio in a bar ahead": (lambda p: lambda b: (one(b, p[0]) / one(b, p[1])).shift(-1), [(a, b) for a in FIELDS[:4] for b in FIELDS[:4] if a < b]),
    "centred window": (lambda n: lambda b: one(b).rolling(n, center=True).mean(), (3, 5, 11, 21, 51)),
    "backward fill": (lambda q: lambda b: one(b).where(ret(b) > ret(b).rolling(50).quantile(q)).bfill(), (0.3, 0.5, 0.7, 0.8, 0.9)),
    "whole-sample z-score": (lambda f: lambda b: (one(b, f) - one(b, f).mean()) / one(b, f).std(), FIELDS),
    "whole-sample rank": (lambda f: lambda b: one(b, f).rank(pct=True), FIELDS),
    "whole-sample quantile": (lambda q: lambda b: (ret(b) > ret(b).quantile(q)).astype(int), (0.1, 0.25, 0.5, 0.75, 0.9, 0.95)),
    "interpolation": (lambda n: lambda b: one(b).where(np.arange(len(b)) % n == 0).interpolate(), (2, 3, 5, 10, 20)),
    "extreme to come": (lambda n: lambda b: one(b)[::-1].rolling(n).max()[::-1] / one(b) - 1, (3, 5, 10, 20, 60)),
    "label joined left": (lambda n: lambda b: one(b).resample(n).last().reindex(b.index, method="ffill"), ("3D", "5D", "7D", "14D", "21D")),
    "smoothed both ways": (lambda s: lambda b: (one(b).ewm(span=s).mean() + one(b)[::-1].ewm(span=s).mean()[::-1]) / 2, (3, 5, 10, 20, 50)),
    "only in one regime": (lambda n: lambda b: ret(b).where(one(b) < one(b).rolling(n).mean(), ret(b).shift(-1)), (10, 20, 40, 60, 100)),
    "only after a fall": (lambda q: lambda b: ret(b).where(ret(b) > ret(b).expanding(50).quantile(q), ret(b).shift(-1)), (0.02, 0.05, 0.1, 0.2, 0.3)),
    "winner of the end": (
        lambda n: (
            lambda b: (
                b["close"].pct_change()[[b["close"].iloc[-n:].sum().idxmax()]].set_axis(["best"], axis=1) * len(b.columns)
                + (one(b) > one(b).iloc[-n:].mean()).to_numpy()[:, None]
            )
        ),
        (5, 20, 60, 100, 200),
    ),
    "column by what came": (
        lambda n: lambda b: pd.DataFrame({f"{'up' if one(b).iloc[-1] > one(b).iloc[-n] else 'down'} {one(b).iloc[-1]:.4f}": ret(b)}),
        (2, 5, 10, 30, 60),
    ),
    "place of the extreme": (
        lambda f: lambda b: pd.Series(np.arange(len(b)) >= int(getattr(one(b), f)()), b.index).astype(int),
        ("argmin", "argmax"),
    ),
    "bars that are left": (lambda n: lambda b: pd.Series(np.arange(len(b))[::-1] < n, b.index).astype(int), (1, 2, 5, 10, 30)),
    "scale of the end": (lambda n: lambda b: one(b) / one(b).iloc[-n], (1, 2, 5, 10, 20)),
    "frequencies": (
        lambda n: lambda b: pd.Series(np.fft.irfft(np.where(np.arange(len(b) // 2 + 1) < n, np.fft.rfft(one(b).to_numpy()), 0), len(b)), b.index),
        (5, 10, 20, 40, 80),
    ),
    "other symbol ahead": (lambda k: lambda b: b["close"].iloc[:, 1].pct_change().shift(-k), (1, 2, 5, 10)),
    "polynomial of all": (
        lambda n: lambda b: pd.Series(np.polyval(np.polyfit(np.arange(len(b)), one(b), n), np.arange(len(b))), b.index),
        (1, 2, 3, 4, 5),
    ),
    "sign ahead": (lambda k: lambda b: (one(b).shift(-k) > one(b)).astype(int), (1, 2, 3, 5, 10)),
    "volume to come": (lambda n: lambda b: one(b, "volume")[::-1].rolling(n).sum()[::-1], (2, 3, 5, 10, 20)),
    "mean to come": (lambda n: lambda b: ret(b).rolling(n).mean().shift(-n), (2, 3, 5, 10, 20)),
    "minimum of all": (lambda f: lambda b: one(b, f) - one(b, f).min(), FIELDS),
    "principal part": (
        lambda k: lambda b: pd.Series(np.linalg.svd(b["close"].pct_change().fillna(0).to_numpy(), full_matrices=False)[0][:, k], b.index),
        (0, 1),
    ),
    "difference ahead": (lambda n: lambda b: one(b).diff(-n), (1, 3, 10)),
    "mean of its month": (lambda f: lambda b: one(b).groupby(b.index.tz_localize(None).to_period(f)).transform("mean"), ("W", "M", "Q")),
    "mean of its weekday": (lambda f: lambda b: one(b, f).groupby(b.index.dayofweek).transform("mean"), ("close", "volume")),
    "share of the whole": (lambda f: lambda b: one(b, f).cumsum() / one(b, f).sum(), ("close", "volume")),
    "classes of all": (lambda n: lambda b: pd.qcut(ret(b).fillna(0), n, labels=False, duplicates="drop"), (4, 10)),
    "between the ends": (lambda f: lambda b: (one(b, f) - one(b, f).min()) / (one(b, f).max() - one(b, f).min()), ("close", "volume")),
    "without its trend": (lambda kind: lambda b: pd.Series(detrend(one(b).to_numpy(), type=kind), b.index), ("linear", "constant")),
    "filtered there and back": (lambda f: lambda b: pd.Series(filtfilt(*butter(2, f), one(b).to_numpy()), b.index), (0.05, 0.1, 0.3)),
    "nearest report": (
        lambda d: (
            lambda b: pd.merge_asof(
                one(b).rename("a").reset_index(), one(b)[::10].rename("b").reset_index(), on="timestamp", direction=d
            ).set_index("timestamp")["b"]
        ),
        ("forward", "nearest"),
    ),
    "groups of all days": (
        lambda n: lambda b: pd.Series(KMeans(n, n_init=1, random_state=0).fit_predict(ret(b).fillna(0).to_frame().to_numpy()), b.index).astype(float),
        (2, 3),
    ),
}
CLEAN: dict[str, tuple[Callable, tuple]] = {
    "shift": (lambda k: lambda b: ret(b).shift(k), (0, 1, 2, 5, 20)),
    "ratio in a bar": (lambda p: lambda b: one(b, p[0]) / one(b, p[1]), [(a, b) for a in FIELDS[:4] for b in FIELDS[:4] if a < b]),
    "window": (lambda n: lambda b: one(b).rolling(n).mean(), (3, 5, 20, 60, 100)),
    "forward fill": (lambda q: lambda b: one(b).where(ret(b) > ret(b).rolling(50).quantile(q)).ffill(), (0.3, 0.5, 0.7, 0.8, 0.9)),
    "expanding z-score": (lambda f: lambda b: (one(b, f) - one(b, f).expanding().mean()) / one(b, f).expanding(5).std(), FIELDS),
    "expanding rank": (lambda f: lambda b: one(b, f).expanding().rank(pct=True), FIELDS),
    "rolling quantile": (lambda q: lambda b: (ret(b) > ret(b).rolling(60).quantile(q)).astype(int), (0.1, 0.25, 0.5, 0.75, 0.9)),
    "extreme so far": (lambda n: lambda b: one(b).rolling(n).max() / one(b) - 1, (3, 5, 10, 20, 60)),
    "label joined right": (
        lambda n: lambda b: one(b).resample(n, label="right", closed="right").last().shift(1).reindex(b.index, method="ffill"),
        ("3D", "5D", "7D", "14D", "21D"),
    ),
    "smoothed one way": (lambda s: lambda b: one(b).ewm(span=s).mean(), (3, 5, 10, 20, 50)),
    "regime": (lambda n: lambda b: ret(b).where(one(b) < one(b).rolling(n).mean(), 0.0), (10, 20, 40, 60, 100)),
    "calendar": (
        lambda f: lambda b: pd.Series(getattr(b.index, f), b.index).astype(float) + 0 * one(b),
        ("dayofweek", "month", "day", "quarter", "is_month_end"),
    ),
    "winner so far": (lambda n: lambda b: b["close"].pct_change(n).rank(axis=1), (5, 20, 60, 100, 120)),
    "bars since the high": (lambda n: lambda b: one(b).rolling(n).apply(np.argmax, raw=True), (5, 10, 20, 40, 60)),
    "scale of the beginning": (lambda n: lambda b: one(b) / one(b).iloc[n], (0, 1, 2, 5, 10)),
    "other symbol": (lambda k: lambda b: b["close"].iloc[:, 1].pct_change().shift(k), (0, 1, 2, 5, 10)),
    "volume so far": (lambda n: lambda b: one(b, "volume").rolling(n).sum(), (2, 3, 5, 10, 20)),
    "drawdown": (lambda f: lambda b: one(b, f) / one(b, f).cummax() - 1, FIELDS),
    "slope of the past": (lambda n: lambda b: one(b).rolling(n).cov(pd.Series(np.arange(len(b), dtype=float), b.index)), (5, 10, 20, 40, 60)),
    "mean of the past": (lambda n: lambda b: ret(b).rolling(n).mean().shift(1), (2, 3, 5, 10, 20)),
}


def pipelines(of: dict[str, tuple[Callable, tuple]]) -> Iterator[tuple[str, Callable]]:
    "Yield name and pipeline of each variant."
    for kind, (maker, variants) in of.items():
        for variant in variants:
            yield f"{kind} {variant}", maker(variant)
