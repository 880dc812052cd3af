"""`paramstore bench rows` and the same workload on key-value stores, in turns, under one memory limit. See README.md."""

import argparse
import json
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import environment
from programs import HERE, Cgroup, count, own_memory_cgroup

OURS = "paramstore"
SYSTEMS = ("rocksdb", "lmdb", "redb")
MODES = ("synced", "unsynced")
BATCHES_BEFORE_KILL = 4
# A table that is compared whole, row by row, after each kill.
KILLED = {"rows": 200_000, "batch": 8192, "memory": 64 << 20}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("turns", nargs="*", help=f"in this order: {OURS}, {', '.join(SYSTEMS)}")
    parser.add_argument("--rows", type=count, default=count("10M"))
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--batch", type=int, default=65_536)
    parser.add_argument("--zipf", type=float, default=1.05, help="0 for uniform draws")
    parser.add_argument("--memory", type=count, default=count("1GiB"))
    parser.add_argument("--allowance", type=count, default=count("256MiB"),
                        help="bytes beside --memory in the limit of each program: gradients, gathered rows, code")
    parser.add_argument("--warm-up", type=int, default=60)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=100, help="a key-value store begins no step after so many, "
                        "neither of the warm-up nor of what is measured")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--kills", type=int, default=0, help="instead: kill each system so often, in each mode")
    parser.add_argument("--program", default=HERE / "kv/target/release/paramstore-compare-kv", help="the built kv/")
    parser.add_argument("--paramstore", default=HERE / "../../target/release/paramstore", help="the built command")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="where files are made")
    parser.add_argument("--out", type=Path, help="a JSON file; what it has already is kept")
    args = parser.parse_args()
    if unknown := set(args.turns) - {OURS, *SYSTEMS}:
        parser.error(f"unknown: {', '.join(unknown)}")
    return args


def limited(name, command, limit_bytes):
    """Runs a command in a memory cgroup; its JSON, and what is known of its memory."""
    cgroup = Cgroup(name, limit_bytes)
    try:
        ended = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, preexec_fn=cgroup.enter)
        peak = cgroup.peak_bytes()
    finally:
        drop_cache(cgroup)
        cgroup.remove()
    found = json.loads(ended.stdout) if ended.returncode == 0 else {"failure": f"ended with {ended.returncode}"}
    return {"turn": name, "limit_bytes": limit_bytes, "cgroup_peak_bytes": peak, **found}


def drop_cache(cgroup):
    """Version 1 keeps the pages of files that are gone; the folder can be removed either way."""
    file = cgroup.folder / "memory.force_empty"
    if own_memory_cgroup()[1] == 1 and file.exists():
        try:
            file.write_text("0")
        except OSError:
            pass


def ours(args, folder):
    return [args.paramstore, "bench", "rows", "--rows", args.rows, "--dim", args.dim, "--batch", args.batch,
            "--zipf", args.zipf, "--optimizer", "sparseadam", "--memory", args.memory, "--lookahead", 1,
            "--warm-up", args.warm_up, "--steps", args.steps, "--dir", folder, "--json"]


def theirs(args, command, name, folder, modes=None, **settings):
    words = [args.program, command, "--system", name, "--dir", folder / name, "--dim", args.dim, "--zipf", args.zipf]
    settings = {"rows": args.rows, "batch": args.batch, "memory": args.memory, **settings}
    return words + [word for key, value in settings.items() for word in (f"--{key}", value)] + [
        "--modes", ",".join(modes or args.modes)]


def measure(args, name, root):
    folder = root / "run"
    folder.mkdir()
    steps = {"warm-up": args.warm_up, "steps": args.steps, "seconds": args.seconds}
    command = ours(args, folder) if name == OURS else theirs(args, "run", name, folder, **steps)
    found = limited(name, command, args.memory + args.allowance)
    shutil.rmtree(folder)
    print(describe(name, found), flush=True)
    return found


def describe(name, found):
    if "failure" in found:
        return f"{name}: {found['failure']}"
    if name == OURS:
        drawn = found["batch"] / statistics.median(found["step_s"])
        return row(name, "committed", found["rows_per_s"], drawn, found["bytes_written_per_row"], 0)
    return "\n".join(row(name, mode["mode"], mode["rows_per_s"], mode["rows_per_s_median"],
                         mode["bytes_written_per_row"], mode["disk_bytes_written_per_row"])
                     + f"   {found['disk_bytes'] / 1e9:.1f} GB on disk" for mode in found["modes"])


def row(name, mode, total, median, written, disk):
    return (f"{name:<12} {mode:<10} {total:>10,.0f} drawn rows/s, median {median:>10,.0f}; written for each distinct row "
            f"{written:>7,.0f} bytes, by the disk's account {disk:>7,.0f}")


def kill(args, name, mode, root, chance):
    """Kills the program in a batch after some, at a random time, and compares what is left with every batch's state."""
    folder = root / "kill"
    folder.mkdir()
    command = theirs(args, "until-killed", name, folder, [mode], **KILLED)
    program = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    for _ in range(BATCHES_BEFORE_KILL):
        last = json.loads(program.stdout.readline())
    wait_s = chance.uniform(0.05, 0.95) * last["step_s"]
    time.sleep(wait_s)
    program.kill()
    # What it said before it died counts as acknowledged.
    for line in program.stdout.read().splitlines():
        last = json.loads(line)
    program.wait()
    judge = theirs(args, "judge", name, folder, [mode], **KILLED, acknowledged=last["committed"])
    judged = subprocess.run(list(map(str, judge)), capture_output=True, text=True)
    found = json.loads(judged.stdout) if judged.returncode == 0 else {"failure": judged.stderr.strip()}
    shutil.rmtree(folder)
    found = {"system": name, "mode": mode, "killed_after_s": wait_s, **found}
    print(killed_row(found), flush=True)
    return found


def killed_row(found):
    start = f"{found['system']:<8} {found['mode']:<9} killed after {1e3 * found['killed_after_s']:>6.1f} ms: "
    if "failure" in found:
        return start + found["failure"]
    whole = found["whole_after_batch"]
    state = "MIXED" if whole is None else f"whole, as after batch {whole}"
    return start + f"batch {found['acknowledged']} acknowledged, {state}, its mark says {found['mark']}"


def save(args, key, found):
    if not args.out:
        return
    kept = json.loads(args.out.read_text()) if args.out.exists() else {}
    machine = environment.describe(args.dir)
    machine = {name: value for name, value in machine.items() if name not in ("torch", "deepspeed", "numpy")}
    settings = {name: value for name, value in vars(args).items()
                if name not in ("program", "paramstore", "dir", "out", "turns")}
    kept.setdefault("runs", []).append({"environment": machine, "settings": settings, key: found})
    args.out.write_text(json.dumps(kept, indent=1) + "\n")


def main():
    args = arguments()
    chance = random.Random(1)
    with tempfile.TemporaryDirectory(prefix="paramstore-kv-", dir=args.dir) as root:
        root = Path(root)
        for name in args.turns or (OURS, *SYSTEMS):
            if args.kills == 0:
                save(args, "measured", measure(args, name, root))
            elif name != OURS:
                found = [kill(args, name, mode, root, chance) for mode in args.modes for _ in range(args.kills)]
                save(args, "killed", found)


if __name__ == "__main__":
    main()
