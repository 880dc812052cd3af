"""What each program leaves behind after SIGKILL in mid-step, and on a full disk. See README.md."""

import argparse
import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy

import environment
from baseline import BETA1, BETA2, FIRST_VALUE, LR, PLANES, STATE_BYTES, WEIGHT_DECAY, chunk_elements, gradient
from programs import BASELINES, DISK_BYTES, OURS, Died, Program, build_baselines, build_ours, command, count

STEPS_BEFORE_KILL = 3
FULL_DISK_STEPS = 3
# Of what the program's files need in the end.
FULL_DISK_SHARE = 0.6


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=count, default=count("20M"), help="parameters, e.g. 20M")
    parser.add_argument("--memory", type=count, default=count("64MiB"), help="bytes for parameters and state")
    parser.add_argument("--kills", type=int, default=5, help="kills of each program, at random times")
    parser.add_argument("--seed", type=int, default=1, help="of the random times")
    parser.add_argument("--only", nargs="+", choices=(OURS, *BASELINES), default=(OURS, *BASELINES))
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads that compute")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="where files are made")
    parser.add_argument("--out", type=Path, help="a JSON file for all findings")
    args = parser.parse_args()
    if args.params * STATE_BYTES <= args.memory:
        parser.error("the state fits --memory, so that the baselines would have no files; give less memory")
    return args


class Subject:
    """One program, how to start it in a folder, and how to look at what it left."""

    def __init__(self, name, args, executable):
        self.name, self.args, self.executable = name, args, executable

    def start(self, folder, log, *extra):
        start = command(self.name, self.executable, params=self.args.params, memory=self.args.memory,
                        directory=folder, threads=self.args.threads, extra=extra)
        return Program(start, log)

    def left(self, folder, log):
        """The planes that a new process finds, and what is known beside them."""
        if self.name != OURS:
            return read_planes(folder, self.args.params), {}
        program = self.start(folder, log, "--open").ready()
        digest = program.ask("digest")
        with tempfile.TemporaryDirectory(dir=self.args.dir) as dumped:
            program.ask(f"dump {dumped}")
            planes = read_planes(dumped, self.args.params)
        program.quit()
        return planes, digest


def read_planes(folder, params):
    """The elements that the files hold; those beyond a file's end are NaN."""
    planes = []
    for plane in PLANES:
        values = numpy.full(params, numpy.nan, numpy.float32)
        path = Path(folder) / f"{plane}.f32"
        found = numpy.fromfile(path, numpy.float32, params) if path.exists() else values[:0]
        values[: len(found)] = found
        planes.append(values)
    return planes


def steps_of(planes, chunk):
    """For each plane the step of every element, which a constant gradient shows; -1 where it is none."""
    grad = numpy.resize(gradient(chunk), len(planes[0]))
    expected = (param_at(grad), exp_avg_at(grad), exp_avg_sq_at(grad))
    return [whole_steps(plane, value_at) for plane, value_at in zip(planes, expected)]


def param_at(grad):
    """A constant gradient makes every AdamW step one of the learning rate against its sign, after the decay."""
    decay = 1 - LR * WEIGHT_DECAY

    def value(step):
        return FIRST_VALUE * decay**step - numpy.sign(grad) * LR * (1 - decay**step) / (1 - decay)
    return value


def exp_avg_at(grad):
    return lambda step: grad * (1 - BETA1**step)


def exp_avg_sq_at(grad):
    return lambda step: grad * grad * (1 - BETA2**step)


def whole_steps(values, value_at):
    """The step whose value is within a hundredth of the distance to the next step's."""
    steps = numpy.full(len(values), -1, numpy.int8)
    for step in range(STEPS_BEFORE_KILL + 3):
        expected = value_at(step)
        near = numpy.abs(values - expected) < 0.01 * numpy.abs(value_at(step + 1) - expected)
        steps[near] = step
    return steps


def judge(planes, chunk):
    """Shares of values by step, over all planes; and of elements whose planes are not of one step."""
    steps = steps_of(planes, chunk)
    shares = shares_of(numpy.concatenate(steps))
    torn = numpy.mean((steps[0] != steps[1]) | (steps[0] != steps[2]))
    return {
        "shares": shares,
        "shares_of_planes": dict(zip(PLANES, map(shares_of, steps))),
        "torn_elements": float(torn),
        "verdict": "whole" if len(shares) == 1 else "mixed",
    }


def shares_of(steps):
    found, counts = numpy.unique(steps, return_counts=True)
    return {("none" if step < 0 else str(step)): int(n) / len(steps) for step, n in zip(found, counts)}


def reference_digests(subject, root):
    """The digest of every step of a run that nothing disturbs."""
    folder = make(root / "reference")
    program = subject.start(folder, root / "log").ready()
    digests = {}
    for _ in range(STEPS_BEFORE_KILL + 1):
        program.ask("step commit")
        answer = program.ask("digest")
        digests[answer["step"]] = answer["digest"]
    program.quit()
    shutil.rmtree(folder)
    return digests


def kill_in_step(subject, root, number, chance):
    """Kills the program at a random time within its fourth step, and looks."""
    folder = make(root / f"{subject.name}-kill-{number}")
    program = subject.start(folder, root / "log").ready()
    values = [program.ask("step commit") for _ in range(STEPS_BEFORE_KILL)]
    # The last step before: the first ones also allocate.
    wait_s = chance.uniform(0.05, 0.95) * values[-1]["step_s"]
    program.send("step commit")
    time.sleep(wait_s)
    program.kill()
    planes, known = subject.left(folder, root / "log")
    shutil.rmtree(folder)
    return {"program": subject.name, "killed_after_s": wait_s, **judge(planes, chunk_elements(subject.args.memory)), **known}


def kills(subjects, args, root):
    print(f"\nSIGKILL at a random time within step {STEPS_BEFORE_KILL + 1}; all steps before were committed, or synced\n")
    print(f"{'program':<20} {'after s':>8} {'found':<8} {'share of values by step':<36} {'torn elements':>13}")
    chance, findings = random.Random(args.seed), []
    for subject in subjects:
        digests = reference_digests(subject, root) if subject.name == OURS else {}
        for number in range(args.kills):
            found = kill_in_step(subject, root, number, chance)
            if digests:
                found["digest_is_of_step"] = next((k for k, d in digests.items() if d == found["digest"]), None)
            findings.append(found)
            print(kill_row(found), flush=True)
    return findings


def kill_row(found):
    row = (f"{found['program']:<20} {found['killed_after_s']:>8.3f} {found['verdict']:<8} "
           f"{by_step(found['shares']):<36} {found['torn_elements']:>13.1%}")
    if "digest" in found:
        step = found["digest_is_of_step"]
        whole = f"that of step {step} in an undisturbed run" if step else "THAT OF NO STEP"
        row += f"  digest {found['digest'][:12]}: {whole}"
    return row


def by_step(shares):
    return ", ".join(f"{step}: {share:.1%}" for step, share in shares.items())


class SmallDisk:
    """An ext4 image of a size, mounted while the context lasts. Raises OSError or CalledProcessError where it cannot."""

    def __init__(self, root, size_bytes):
        self.image, self.folder, self.size = root / "image", root / "mounted", size_bytes

    def __enter__(self):
        self.folder.mkdir(exist_ok=True)
        with open(self.image, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, self.size)
        # Few inodes, no journal and no reserve: nearly all of it is for data.
        run("mkfs.ext4", "-q", "-F", "-m", "0", "-N", "64", "-O", "^has_journal", str(self.image))
        self.mount()
        return self

    def mount(self):
        run("mount", "-o", "loop", str(self.image), str(self.folder))

    def mount_again(self):
        """Shows what is on the disk, without what the page cache still has."""
        run("umount", str(self.folder))
        self.mount()

    def __exit__(self, *_):
        run("umount", str(self.folder))
        self.image.unlink()


def run(*command):
    subprocess.run(command, check=True, capture_output=True, text=True)


def full_disk(subject, root, extra):
    per_parameter = DISK_BYTES.get(subject.name, STATE_BYTES)
    with SmallDisk(root, int(FULL_DISK_SHARE * per_parameter * subject.args.params)) as disk:
        folder = make(disk.folder / "run")
        reported, done = run_until_full(subject.start(folder, root / "log", *extra))
        disk.mount_again()
        found = look(subject, folder, root)
        return {"program": subject.name, "allocation": "sparse" if extra else "ahead",
                "reported": reported.replace(str(folder), "..."), "steps_reported_done": done, **found}


def run_until_full(program):
    """What the program said, and how many steps it said were done."""
    done = 0
    try:
        program.ready()
        for done in range(1, FULL_DISK_STEPS + 1):
            program.ask("step commit")
        program.quit()
        return "success", done
    except Died as died:
        stage = f"in step {done}" if done else "while making files"
        return f"{stage}: {died}", max(done - 1, 0)


def look(subject, folder, root):
    try:
        planes, known = subject.left(folder, root / "log")
    except Died as died:
        return {"shares": {}, "torn_elements": 0.0, "verdict": "no store", "opening": str(died)}
    return {**judge(planes, chunk_elements(subject.args.memory)), **known}


def full_disks(subjects, root):
    print(f"\na disk of {FULL_DISK_SHARE:.0%} of what the files need; {FULL_DISK_STEPS} steps asked; looked at after mounting again\n")
    print(f"{'program':<20} {'files':<7} {'done':>4} {'found':<8} {'share of values by step':<36} reported")
    findings = []
    for subject in subjects:
        for extra in ((), ("--sparse",)) if subject.name == OURS else (("--sparse",),):
            found = full_disk(subject, root, extra)
            findings.append(found)
            print(f"{found['program']:<20} {found['allocation']:<7} {found['steps_reported_done']:>4} {found['verdict']:<8} "
                  f"{by_step(found['shares']):<36} {found['reported']}", flush=True)
    return findings


def make(folder):
    folder.mkdir(parents=True)
    return folder


def main():
    args = arguments()
    executable = build_ours()
    build_baselines(args.only)
    subjects = [Subject(name, args, executable) for name in args.only]
    with tempfile.TemporaryDirectory(prefix="paramstore-faults-", dir=args.dir) as root:
        results = {"kill": kills(subjects, args, Path(root))}
        try:
            results["full_disk"] = full_disks(subjects, Path(root))
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"full disk: skipped, a small ext4 image cannot be mounted here (needs root, mkfs.ext4 and loop "
                  f"devices): {error} {getattr(error, 'stderr', '')}")
    if args.out:
        settings = {name: str(value) for name, value in vars(args).items()}
        record = {"environment": environment.describe(args.dir), "settings": settings, **results}
        args.out.write_text(json.dumps(record, indent=1) + "\n")
        print(f"every finding: {args.out}")


if __name__ == "__main__":
    main()
