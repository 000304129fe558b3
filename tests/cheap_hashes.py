"A password hash with the least cost, so that a thousand guesses take no minute."

from contextlib import contextmanager

from trading.security import credentials


@contextmanager
def cheaply(monkeypatch):
    "Hash passwords with the least cost for a while."
    from argon2 import PasswordHasher

    hasher = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
    credentials._nobody.cache_clear()
    monkeypatch.setattr(credentials, "_hasher", lambda: hasher)
    yield
    credentials._nobody.cache_clear()
