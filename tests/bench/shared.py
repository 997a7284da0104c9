"""What the programs of this folder share: the peers' environment, the machine, tables."""

import hashlib
import os
import pathlib
import platform
import re
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
REQUIREMENTS = HERE / "peers/requirements.txt"


def enter_environment():
    """Goes on in the peers' environment, which is made when it is missing or older than its requirements."""
    folder = ROOT / "target/peers-venv"
    python = folder / "bin/python"
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    mark = folder / "requirements.sha256"
    if not (mark.is_file() and mark.read_text(encoding="utf-8") == digest):
        say(f"installing the peers into {folder.relative_to(ROOT)} (once, some minutes)")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", REQUIREMENTS], check=True, stdout=sys.stderr)
        mark.write_text(digest, encoding="utf-8")
    if pathlib.Path(sys.prefix).resolve() != folder.resolve():
        os.execv(python, [python, *sys.argv])


def say(text):
    print(text, file=sys.stderr, flush=True)


def output(*line):
    done = subprocess.run(list(map(str, line)), capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def machine():
    info = pathlib.Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", info.read_text(encoding="utf-8")) if info.is_file() else None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model[1] if model else platform.processor(), "cores": os.cpu_count(), "memory_gib": round(memory / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "when": time.strftime("%Y-%m-%d"),
    }


def locked(crate):
    """The version of a crate that we build with."""
    lock = (ROOT / "Cargo.lock").read_text(encoding="utf-8")
    return re.search(rf'name = "{crate}"\nversion = "([^"]+)"', lock)[1]


def pinned():
    """The peers' versions by their names."""
    wanted = (line.strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines())
    return dict(line.split("==") for line in wanted if "==" in line)


def size_text(value):
    return f"{value / 1e6:.1f} MB" if value >= 1e6 else f"{value / 1e3:.0f} kB"


def markdown(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])
