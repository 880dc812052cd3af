"""What the baselines share: arguments, hyperparameters, files, the gradient, and the line protocol."""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy

PLANES = ("param", "exp_avg", "exp_avg_sq")
LR, BETA1, BETA2, EPS, WEIGHT_DECAY = 1e-3, 0.9, 0.999, 1e-8, 0.1
FIRST_VALUE = 0.5
STATE_BYTES = 12  # of one parameter: three planes of f32
CHUNK_MAX = 16 << 20
ALIGN = 1024  # elements: files are padded to 4 KiB, which direct I/O needs


def arguments():
    parser = argparse.ArgumentParser(description="Speaks the line protocol of README.md.")
    parser.add_argument("--params", type=int, required=True, help="number of parameters")
    parser.add_argument("--memory", type=int, required=True, help="bytes for parameters and state")
    parser.add_argument("--dir", type=Path, required=True, help="an empty directory for the files")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads that compute")
    parser.add_argument("--sparse", action="store_true", help="let the library make the files, allocate nothing")
    return parser.parse_args()


def chunk_elements(memory):
    """The largest power of two of which three chunks of three planes fit the memory, at most CHUNK_MAX."""
    fitting = max(memory // (3 * STATE_BYTES), ALIGN)
    return min(1 << (fitting.bit_length() - 1), CHUNK_MAX)


def gradient(elements):
    """The same in every program: element i of any chunk has one value, never 0, in every step."""
    return ((numpy.arange(elements) & 1023).astype(numpy.float32) - numpy.float32(511.5)) * numpy.float32(1e-4)


def bias_corrections(step):
    return 1 - BETA1**step, 1 - BETA2**step


class Baseline:
    """A program without commits. Subclasses give `prepare`, `update` and, where the state stays in memory, `dump`."""

    def __init__(self, args):
        self.args = args
        self.elements = -(-args.params // ALIGN) * ALIGN
        self.chunk = chunk_elements(args.memory)
        self.in_memory = args.params * STATE_BYTES <= args.memory
        self.step = 0

    def path(self, plane):
        return str(self.args.dir / f"{plane}.f32")

    def allocate(self):
        """Makes files that cannot run out of disk later, as a store does. A sparse run leaves that to the library."""
        if self.args.sparse:
            return
        for plane in PLANES:
            with open(self.path(plane), "wb") as file:
                os.posix_fallocate(file.fileno(), 0, self.elements * 4)

    def chunks(self):
        for start in range(0, self.elements, self.chunk):
            yield start, min(self.chunk, self.elements - start)

    def sync(self):
        """Writes back what the page cache holds, so that no program leaves work to the next one's turn."""
        if self.in_memory:
            return
        for plane in PLANES:
            with open(self.path(plane), "rb") as file:
                os.fdatasync(file.fileno())

    def take_step(self, commit):
        self.step += 1
        start = time.perf_counter()
        self.update()
        stepped = time.perf_counter()
        if commit:
            self.sync()
        return {
            "step_s": stepped - start,
            "sync_s": time.perf_counter() - stepped,
            "step": self.step,
            "peak_rss_bytes": peak_rss_bytes(),
        }

    def dump_arrays(self, directory, arrays):
        for plane, array in zip(PLANES, arrays):
            array[: self.args.params].tofile(Path(directory) / f"{plane}.f32")
        return {"dumped": directory}

    def dump_files(self, directory):
        files = [numpy.memmap(self.path(plane), numpy.float32, "r") for plane in PLANES]
        return self.dump_arrays(directory, files)


def peak_rss_bytes():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


def protocol_channel():
    """Standard output for the protocol alone: what libraries print goes to standard error."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return channel


def serve(baseline, channel):
    baseline.prepare()
    print("ready", file=channel)
    for line in sys.stdin:
        match line.split():
            case ["step"]:
                answer = baseline.take_step(commit=False)
            case ["step", "commit"]:
                answer = baseline.take_step(commit=True)
            case ["dump", directory]:
                answer = baseline.dump(directory)
            case ["quit"]:
                return
            case _:
                raise SystemExit(f"unknown line {line!r}; known: step, step commit, dump DIR, quit")
        print(json.dumps(answer), file=channel)
