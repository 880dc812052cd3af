"""What a result was measured on: versions, processor, memory, file system, date."""

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from programs import HERE


def describe(directory):
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": field("/proc/cpuinfo", "model name"),
        "cpus": os.cpu_count(),
        "memory": field("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "file_system": output("stat", "--file-system", "--format=%T", str(directory)),
        "paramstore": output("git", "describe", "--always", "--dirty", "--tags"),
        "rustc": output("rustc", "--version"),
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "deepspeed", "numpy")},
    }


def field(file, name):
    for line in Path(file).read_text().splitlines():
        if line.startswith(name):
            return line.split(":", 1)[1].strip()
    return "unknown"


def output(*command):
    try:
        return subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown ({error})"


def version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
