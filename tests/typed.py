"The command as a person types it: in this process and folder, in another folder, or as a process of its own; and a profile of planted prices for it."

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from trading.cli.main import main
from trading.core.errors import TradingError
from trading.core.prefork import FIXED, python_command

CARNET = [sys.executable, "-c", "from trading.cli.main import main; main(prog_name='carnet')"]
SYMBOLS = ["KO", "XOM", "GE", "PFE"]


def carnet(*words) -> tuple[int, str]:
    "Type a command in the folder of now; return its exit code and what it said. What is no sentence of ours fails the test."
    done = CliRunner().invoke(main, list(map(str, words)))
    assert done.exception is None or isinstance(done.exception, (SystemExit, TradingError)), done.exception
    return done.exit_code, done.output + (str(done.exception) if isinstance(done.exception, TradingError) else "")


def carnet_at(home: Path, *words, **more: str) -> tuple[int, str]:
    "Type a command in a folder whose data and reports lie in it, with nothing else set; `more` are variables."
    env = {k: None for k in os.environ if k.startswith("CARNET_")}
    env |= {"CARNET_RUN__DATA": str(home / "data"), "CARNET_RUN__REPORTS": str(home / "reports")}
    with contextlib.chdir(home):
        done = CliRunner(env=env | more).invoke(main, list(words))
    assert "unexpected" not in done.output and "Traceback" not in done.output, done.output
    return done.exit_code, done.output


def carnet_alone(home: Path, *words: str, code: int = 0, **more: str) -> str:
    "Start the command as a process in a folder; return what it said, in both streams."
    environ = {k: v for k, v in os.environ.items() if not k.startswith("CARNET_")} | FIXED | more
    done = subprocess.run([*python_command(*CARNET[1:]), *words], cwd=home, capture_output=True, text=True, timeout=550, env=environ)
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def planted_settings(as_of: str = "", **sections: str) -> str:
    "Return the settings of a profile that trades four symbols on imported prices; `sections` are lines by name."
    lines = {"forecast": "window = 900\nhorizons = 1", "allocate": "window = 250", "limits": "max_weight = 0.40"} | sections
    market = f"source = file\nvenue = file\nsymbols = {', '.join(SYMBOLS)}\nstart = 2015-01-01" + (f"\nas_of = {as_of}" if as_of else "")
    groups = "Consumer = KO, PFE\nEnergy = XOM\nIndustrials = GE"
    parts = {"run": "profile = planted", "planted:market": market, "planted:groups": groups} | lines
    return "".join(f"[{name}]\n{text}\n" for name, text in parts.items())
