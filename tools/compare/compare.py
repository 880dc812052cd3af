"""Seconds per AdamW step of paramstore and of each baseline, in turns, under one memory limit. See README.md."""

import argparse
import json
import os
import shutil
import statistics
import tempfile
from pathlib import Path

import environment
from check import check
from programs import (
    BASELINE_DISK_BYTES, BASELINES, DISK_BYTES, OURS,
    Cgroup, Died, Program, build_baselines, build_ours, command, count,
)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=count, default=count("20M"), help="parameters, e.g. 700M")
    parser.add_argument("--memory", type=count, default=count("64MiB"), help="bytes for parameters and state, e.g. 2GiB")
    parser.add_argument("--allowance", type=count, default=count("512MiB"),
                        help="bytes beside --memory in the limit of each program: interpreter, libraries, gradient")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds")
    parser.add_argument("--warmup", type=int, default=2, help="rounds before them, which write every file once")
    parser.add_argument("--only", nargs="+", choices=BASELINES, default=BASELINES, help="the baselines to run")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads that compute")
    parser.add_argument("--no-commit", action="store_true", help="neither commits nor syncs: for states that fit memory")
    parser.add_argument("--pairwise", action="store_true", help="one baseline at a time even where all would fit")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="where files are made")
    parser.add_argument("--out", type=Path, help="a JSON file for every single value")
    parser.add_argument("--check", action="store_true", help="compare what the programs compute, and measure nothing")
    return parser.parse_args()


class Runner:
    """One program under its limit, with its files in a folder of its own."""

    def __init__(self, name, args, executable, root):
        self.name, self.folder = name, root / name
        self.folder.mkdir()
        self.values, self.failure, self.program = [], None, None
        self.cgroup, self.limit = limit(name, args.memory + args.allowance)
        start = command(name, executable, params=args.params, memory=args.memory,
                        directory=self.folder, threads=args.threads)
        self.attempt(lambda: self.start(start, root))

    def start(self, start, root):
        self.program = Program(start, root / f"{self.name}.log", self.cgroup)
        self.program.ready()

    def attempt(self, action):
        """Runs an action unless the program has failed before; a death is kept for the report."""
        if self.failure is None:
            try:
                return action()
            except Died as died:
                self.failure = str(died)
                print(f"{self.name} failed: {died}")
        return None

    def step(self, line, round_number):
        value = self.attempt(lambda: self.program.ask(line))
        if value:
            self.values.append({"round": round_number, **value})
        return value

    def end(self):
        self.program.quit()
        if self.cgroup:
            self.cgroup_peak_bytes = self.cgroup.peak_bytes()
            self.cgroup.remove()
        shutil.rmtree(self.folder)

    def report(self):
        return {
            "limit": self.limit,
            "failure": self.failure,
            "cgroup_peak_bytes": self.cgroup_peak_bytes if self.cgroup else None,
            "values": self.values,
        }


def limit(name, limit_bytes):
    try:
        return Cgroup(name, limit_bytes), f"memory cgroup of {limit_bytes} bytes"
    except OSError as error:
        return None, f"none: no memory cgroup can be made here ({error})"


def in_turns(args, executable, baselines, root):
    """Runs ours, A, ours, B, ... for every round, and gives the report of this group."""
    runners, pairs = {}, []
    try:
        for name in (OURS, *baselines):
            runners[name] = Runner(name, args, executable, root)
        take_turns(args, runners, baselines, pairs)
    finally:
        for runner in runners.values():
            runner.end()
    return {"programs": {name: runner.report() for name, runner in runners.items()}, "pairs": pairs}


def take_turns(args, runners, baselines, pairs):
    line = "step" if args.no_commit else "step commit"
    for number in range(-args.warmup, args.rounds):
        for name in baselines:
            ours = runners[OURS].step(line, number)
            theirs = runners[name].step(line, number)
            if ours and theirs:
                pairs.append({"round": number, "baseline": name, "ours_s": ours["step_s"],
                              "step_s": theirs["step_s"], "sync_s": theirs["sync_s"]})
                print(describe_pair(pairs[-1]), flush=True)


def describe_pair(pair):
    kind = "warm-up" if pair["round"] < 0 else f"round {pair['round']}"
    return (f"{kind}: {OURS} {pair['ours_s']:.3f} s, {pair['baseline']} {pair['step_s']:.3f} s "
            f"and {pair['sync_s']:.3f} s to sync")


def groups(args):
    """All baselines together where disk and memory hold them, else one by one."""
    def disk(names):
        in_files = 0 if args.params * BASELINE_DISK_BYTES <= args.memory else BASELINE_DISK_BYTES
        return int(1.02 * args.params * (DISK_BYTES[OURS] + in_files * len(names))) + (1 << 26)

    def memory(names):
        return (args.memory + args.allowance) * (1 + len(names))

    free = shutil.disk_usage(args.dir).free
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + reclaimable_bytes()
    print(f"disk: all together need {gb(disk(args.only))}, a pair {gb(disk(args.only[:1]))}, free {gb(free)}; "
          f"memory: {gb(memory(args.only))} or {gb(memory(args.only[:1]))}, available {gb(available)}")
    if not args.pairwise and disk(args.only) <= free and memory(args.only) <= available:
        return [list(args.only)]
    if disk(args.only[:1]) > free or memory(args.only[:1]) > available:
        raise SystemExit("not enough for a pair; free some, or give smaller --params or --memory, or another --dir")
    print("running pairwise: paramstore beside one baseline at a time")
    return [[name] for name in args.only]


def reclaimable_bytes():
    return int(environment.field("/proc/meminfo", "Cached").split()[0]) * 1024


def gb(number):
    return f"{number / 1e9:.1f} GB"


def spread(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def table(args, result_groups):
    print("\nmedian s per step; Mparam/s with sync; ratios are baseline / paramstore of neighbouring steps, median (least to")
    print("greatest): above 1, paramstore is faster.")
    print("Nothing commits or syncs.\n" if args.no_commit else
          "A step of paramstore includes its commit; the sync of a baseline writes back its page cache, no more.\n")
    print(f"{'program':<20} {'step s':>8} {'sync s':>8} {'Mparam/s':>9} {'ratio of steps':>22} {'ratio with sync':>22} "
          f"{'peak RSS MB':>12}")
    for group in result_groups:
        for name, program in group["programs"].items():
            print(row(args, name, program, group["pairs"]))


def row(args, name, program, pairs):
    values = [value for value in program["values"] if value["round"] >= 0]
    if not values:
        return f"{name:<20} no measured step: {program['failure']}"
    step = statistics.median(value["step_s"] for value in values)
    sync = statistics.median(value.get("sync_s", 0) for value in values)
    peak = max(value["peak_rss_bytes"] for value in values) / 1e6
    mine = [pair for pair in pairs if pair["baseline"] == name and pair["round"] >= 0]
    steps = spread([pair["step_s"] / pair["ours_s"] for pair in mine]) if mine else ""
    synced = spread([(pair["step_s"] + pair["sync_s"]) / pair["ours_s"] for pair in mine]) if mine else ""
    failure = f"  then failed: {program['failure']}" if program["failure"] else ""
    return (f"{name:<20} {step:>8.3f} {sync:>8.3f} {args.params / (step + sync) / 1e6:>9.1f} {steps:>22} {synced:>22} "
            f"{peak:>12.0f}{failure}")


def main():
    args = arguments()
    executable = build_ours()
    build_baselines(args.only)
    with tempfile.TemporaryDirectory(prefix="paramstore-compare-", dir=args.dir) as root:
        if args.check:
            raise SystemExit(check(args, executable, Path(root)))
        results = [in_turns(args, executable, names, Path(root)) for names in groups(args)]
    table(args, results)
    print(f"\nmemory limit: {results[0]['programs'][OURS]['limit']}")
    if args.out:
        settings = {name: str(value) for name, value in vars(args).items()}
        record = {"environment": environment.describe(args.dir), "settings": settings, "groups": results}
        args.out.write_text(json.dumps(record, indent=1) + "\n")
        print(f"every value: {args.out}")


if __name__ == "__main__":
    main()
