"""Install locked packages into the environment of this interpreter: with uv where there is one, which is several times as fast, else with pip.

uv reads the indexes, files and certificates that pip is configured with. Whatever goes wrong with it, pip does the work.
`install.py --uv pip compile …` runs uv itself, configured the same way.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

OPTIONS = {  # of pip, by the option of uv
    "index-url": "--default-index",
    "extra-index-url": "--index",
    "find-links": "--find-links",
    "trusted-host": "--allow-insecure-host",
}


def pip_settings(listing: str) -> dict[str, list[str]]:
    "Read what `pip config list` prints; the value of an environment variable goes before that of a file."
    found = {}
    for line in listing.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.strip().rpartition(".")
        if section in ("global", "install") and key in found.get(":env:", {}):
            continue
        found.setdefault(section, {})[key] = value.strip().strip("'\"").replace("\\n", " ").split()
    return found.get("global", {}) | found.get("install", {}) | found.get(":env:", {})


def uv_command(settings: dict[str, list[str]]) -> tuple[list[str], dict[str, str]]:
    "Return uv's options and environment for what pip is told."
    options = [word for key, option in OPTIONS.items() for value in settings.get(key, []) for word in (option, value)]
    if settings.get("no-index", ["false"])[0].lower() in ("1", "true", "yes", "on"):
        options.append("--no-index")
    if len(settings.get("extra-index-url", [])):
        options += ["--index-strategy", "unsafe-best-match"]  # pip takes the newest of all indexes too
    environment = dict(os.environ)
    if settings.get("cert"):
        environment["SSL_CERT_FILE"] = settings["cert"][0]
    return options, environment


def main(words: list[str]) -> int:
    "Do what the words say and return the exit code."
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    uv = next((p for p in (shutil.which("uv"), Path(sys.executable).parent / "uv") if p and Path(p).exists()), None)
    listing = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=False).stdout if uv else ""
    options, environment = uv_command(pip_settings(listing))
    if words[:1] == ["--uv"]:
        if uv is None:
            print("Error: uv is not installed: pip install uv", file=sys.stderr)
            return 1
        return subprocess.run([str(uv), *words[1:], *options], env=environment, check=False).returncode
    if uv is not None:
        command = [str(uv), "pip", "install", "--quiet", "--no-deps", "--python", sys.executable, *options, *words]
        if subprocess.run(command, env=environment, check=False, capture_output=True).returncode == 0:
            return 0
    return subprocess.run([*pip, "--quiet", "install", "--no-deps", "--no-compile", *words], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
