"""Import, export and statistics of `paramstore` beside raw copies and reads of the same bytes, in turns.

    python exchange.py --params 130M --rounds 7 --dir /scratch --out exchange.json

A model of one tensor a layer with AdamW's state, in shards of safetensors. Each round, with the page cache of all files
dropped before each of them: a raw copy of the shards, an import, a copy, an export with state, a raw read, statistics of
parameters and moments. Copy and read are direct, of 4 MiB, with the number of threads that was fastest in a search. Both
sides end durable. A ratio is limit / ours, of neighbours.
"""

import argparse
import json
import mmap
import os
import random
import shutil
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import environment
import programs

PIECE = 4 << 20
LAYERS = 16
PLANES = ("", "exp_avg.", "exp_avg_sq.")


def header(names, elements):
    """Of a safetensors file of these tensors, and of their steps."""
    entries, offset = {}, 0
    for name in names:
        for plane in PLANES:
            entries[plane + name] = {"dtype": "F32", "shape": [elements], "data_offsets": [offset, offset + 4 * elements]}
            offset += 4 * elements
        entries["step." + name] = {"dtype": "I64", "shape": [], "data_offsets": [offset, offset + 8]}
        offset += 8
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def make(directory, params, shards):
    """Positive floats of random fractions; the first bytes differ from piece to piece."""
    elements = params // LAYERS // 4096 * 4096
    piece = bytearray(random.Random(1).randbytes(4 * elements))
    piece[3::4] = b"\x3c" * elements
    paths = []
    for shard in range(shards):
        names = [f"layer.{i:02}.weight" for i in range(shard, LAYERS, shards)]
        paths.append(directory / f"model-{shard + 1:05}-of-{shards:05}.safetensors")
        with open(paths[-1], "wb") as file:
            file.write(header(names, elements))
            for at in range(len(names)):
                for plane in range(len(PLANES)):
                    piece[0:2] = bytes((at, plane))
                    file.write(piece)
                file.write((3).to_bytes(8, "little"))
            os.fsync(file.fileno())
    return paths, elements * LAYERS


def drop(paths):
    """Out of the page cache, file by file, so that it needs no privilege."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def files(path):
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]


def raw(sources, target, threads):
    """Seconds to read the sources, and to write them to a new file where there is a target, durable."""
    ranges = [(path, at) for path in sources for at in range(0, path.stat().st_size, PIECE)]
    sizes = [min(PIECE, path.stat().st_size - at) for path, at in ranges]
    start = time.perf_counter()
    opened = {path: os.open(path, os.O_RDONLY | os.O_DIRECT) for path in sources}
    out = None
    if target:
        out = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_DIRECT, 0o600)
        os.posix_fallocate(out, 0, len(ranges) * PIECE)

    def worker(first):
        memory = mmap.mmap(-1, PIECE)
        for number in range(first, len(ranges), threads):
            path, at = ranges[number]
            got = os.preadv(opened[path], [memory], at)
            assert got == sizes[number], (path, at, got)
            if out is not None:
                os.pwritev(out, [memory], number * PIECE)

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(worker, first) for first in range(threads)]:
            done.result()
    if out is not None:
        os.fsync(out)
        os.close(out)
    for fd in opened.values():
        os.close(fd)
    return time.perf_counter() - start


def ours(executable, *arguments):
    """Seconds and peak resident bytes of a command."""
    start = time.perf_counter()
    process = subprocess.Popen([executable, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{arguments[0]} failed with status {process.returncode}")
    return seconds, usage.ru_maxrss * 1024


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def round_of(executable, shards, directory, memory, threads):
    store, out, copy = directory / "store", directory / "out", directory / "copy"
    for path in (store, out, copy):
        remove(path)
    result = {}

    def take(name, limit, command):
        drop(shards + (files(store) if store.exists() else []))
        limit_s = raw(*limit, threads)
        remove(copy)
        drop(shards + (files(store) if store.exists() else []))
        seconds, peak = ours(executable, *command)
        result[name] = {"limit_s": limit_s, "s": seconds, "ratio": limit_s / seconds, "peak_rss_bytes": peak}

    take("import", (shards, copy), ("import", store, *shards, "--optimizer", "adamw", "--memory", memory))
    take("export", (shards, copy), ("export", store, out, "--with-state", "--memory", memory))
    take("stats", (shards, None), ("inspect", store, "--tensors", "--stats"))
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=programs.count, default=programs.count("130M"))
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory", type=programs.count, default=programs.count("256MiB"))
    parser.add_argument("--executable", type=Path, required=True, help="target/release/paramstore")
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    directory = arguments.dir / "exchange"
    directory.mkdir()
    try:
        shards, params = make(directory, arguments.params, arguments.shards)
        search = {}
        for threads in (1, 2, 4, 8):
            drop(shards)
            search[threads] = raw(shards, directory / "copy", threads)
            remove(directory / "copy")
        threads = min(search, key=search.get)
        rounds = []
        for number in range(arguments.rounds):
            rounds.append(round_of(arguments.executable, shards, directory, arguments.memory, threads))
            print(number, {name: round(of["ratio"], 2) for name, of in rounds[-1].items()}, flush=True)
    finally:
        shutil.rmtree(directory)
    median = lambda name, key: statistics.median(of[name][key] for of in rounds)
    summary = {name: {key: median(name, key) for key in rounds[0][name]} for name in rounds[0]}
    report = {
        **environment.describe(arguments.dir),
        "params": params,
        "bytes": 12 * params,
        "shards": arguments.shards,
        "memory_bytes": arguments.memory,
        "copy_threads": threads,
        "copy_search_s": search,
        "median": summary,
        "rounds": rounds,
    }
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    for name, of in summary.items():
        print(f"{name:7} {of['s']:.2f} s, limit {of['limit_s']:.2f} s, ratio {of['ratio']:.2f}, peak {of['peak_rss_bytes'] / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
