"""Starts programs that speak the line protocol, under a memory cgroup where the machine offers one."""

import json
import os
import re
import selectors
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
OURS = "paramstore"
BASELINES = ("deepspeed_pipelined", "torch_mmap", "numpy_memmap")
DISK_BYTES = {OURS: 24}  # of one parameter: two homes; the baselines have one
BASELINE_DISK_BYTES = 12
UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


class Died(Exception):
    """A program ended before it answered; the message says how."""


def count(text):
    """A number with a unit: 700M, 2GiB."""
    found = re.fullmatch(r"(\d+)([A-Za-z]*)", text)
    if not found or found[2].upper() not in UNITS:
        raise ValueError(f"{text!r} is not a number such as 700M, 2GiB or 64MiB")
    return int(found[1]) * UNITS[found[2].upper()]


def build_ours():
    """Builds the Rust program and returns its path."""
    command = ["cargo", "build", "--release", "--locked", "--message-format=json-render-diagnostics"]
    built = subprocess.run(command, cwd=HERE, stdout=subprocess.PIPE, text=True, check=True)
    messages = (json.loads(line) for line in built.stdout.splitlines())
    return next(message["executable"] for message in messages if message.get("executable"))


def build_baselines(names):
    """Has DeepSpeed compile its extensions now: under a memory limit its compiler would need hours."""
    if "deepspeed_pipelined" in names:
        # ninja, which it calls, is beside the interpreter: found there even if the environment is not activated.
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        build = ("from deepspeed.ops.op_builder import AsyncIOBuilder, CPUAdamBuilder; "
                 "[builder().load(verbose=False) for builder in (AsyncIOBuilder, CPUAdamBuilder)]")
        subprocess.run([sys.executable, "-c", build], stdout=sys.stderr, check=True)


def command(name, executable, *, params, memory, directory, threads, extra=()):
    start = [executable] if name == OURS else [sys.executable, str(HERE / f"{name}.py")]
    sizes = ["--params", str(params), "--memory", str(memory), "--threads", str(threads)]
    return start + sizes + ["--dir", str(directory), *extra]


class Program:
    """A running program. What it prints beside the protocol goes to `log`."""

    def __init__(self, arguments, log, cgroup=None):
        self.log = Path(log)
        with open(self.log, "w") as errors:
            self.process = subprocess.Popen(
                arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                preexec_fn=cgroup.enter if cgroup else None,
            )

    def send(self, line):
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Died(self.ending()) from None

    def receive(self, timeout_s=3600):
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(timeout_s):
                self.kill()
                raise Died(f"no answer within {timeout_s} s")
        line = self.process.stdout.readline()
        if not line:
            raise Died(self.ending())
        return line.strip()

    def ready(self):
        line = self.receive()
        if line != "ready":
            raise Died(f"printed {line!r} where ready was expected; see {self.log}")
        return self

    def ask(self, line):
        self.send(line)
        return json.loads(self.receive())

    def ending(self):
        code = self.process.wait()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        last = self.log.read_text(errors="replace").strip().splitlines()[-1:]
        return f"{how}; {last[0].strip()}" if last else how

    def kill(self):
        self.process.kill()
        self.process.wait()

    def quit(self):
        """Asks the program to end, and ends it where it does not."""
        try:
            self.send("quit")
            self.process.wait(timeout=60)
        except (Died, subprocess.TimeoutExpired):
            self.kill()


class Cgroup:
    """A child of this process's memory cgroup, with a limit. Raises OSError where none can be made."""

    def __init__(self, name, limit_bytes):
        parent, version = own_memory_cgroup()
        self.folder = parent / f"paramstore-compare-{os.getpid()}-{name}"
        limit, self.peak_file = {
            1: ("memory.limit_in_bytes", "memory.max_usage_in_bytes"),
            2: ("memory.max", "memory.peak"),
        }[version]
        self.folder.mkdir()
        try:
            (self.folder / limit).write_text(str(limit_bytes))
        except OSError:
            self.folder.rmdir()
            raise

    def enter(self):
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def peak_bytes(self):
        file = self.folder / self.peak_file
        return int(file.read_text()) if file.exists() else None

    def remove(self):
        self.folder.rmdir()


def own_memory_cgroup():
    """The folder of this process's memory cgroup, and whether it is of version 1 or 2."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for _, mount, kind, options, *_ in mounts:
            if kind == "cgroup" and controllers == "memory" and "memory" in options.split(","):
                return below(mount, path), 1
    for _, mount, kind, *_ in mounts:
        if kind == "cgroup2" and "memory" in Path(mount, "cgroup.controllers").read_text().split():
            path = Path("/proc/self/cgroup").read_text().rpartition("0::")[2].strip()
            return below(mount, path), 2
    raise OSError("no memory controller is mounted")


def below(mount, path):
    """A container may see its own cgroup as the root of the mount."""
    folder = Path(mount, path.lstrip("/"))
    return folder if folder.is_dir() else Path(mount)
