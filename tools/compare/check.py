"""Whether every program computes the same AdamW: a benchmark of a wrong computation is worth nothing."""

import numpy

from baseline import PLANES
from programs import OURS, Died, Program, command

PARAMS = 1_000_000
STEPS = 3
LIMIT_PARAM = 1e-5
# Relative. DeepSpeed computes 1 - beta2 in f32, which is 1.3e-5 off; a wrong beta would be off by more than 1e-3.
LIMIT_MOMENTS = 1e-4
# The first streams the state from disk, the second keeps it in memory.
MEMORIES = (4 << 20, 64 << 20)


def check(args, executable, root):
    """Prints the greatest differences to ours after three steps; returns the exit status, 1 where one is too great."""
    failed = False
    for memory in MEMORIES:
        ours = planes_after(OURS, memory, args, executable, root)
        for name in args.only:
            try:
                theirs = planes_after(name, memory, args, executable, root)
            except Died as died:
                print(f"{name} in {memory >> 20} MiB: {died}")
                failed = True
                continue
            differences = [difference(*pair) for pair in zip(PLANES, ours, theirs)]
            equal = differences[0] < LIMIT_PARAM and max(differences[1:]) < LIMIT_MOMENTS
            failed |= not equal
            words = ", ".join(f"{plane} {value:.1e}" for plane, value in zip(PLANES, differences))
            print(f"{name} in {memory >> 20} MiB: {words}: {'equal' if equal else 'DIFFERENT'}")
    return int(failed)


def planes_after(name, memory, args, executable, root):
    folder = root / f"{name}-{memory}"
    dumped = folder / "dumped"
    dumped.mkdir(parents=True)
    start = command(name, executable, params=PARAMS, memory=memory, directory=folder, threads=args.threads)
    program = Program(start, folder / "log").ready()
    for _ in range(STEPS):
        program.ask("step commit")
    program.ask(f"dump {dumped}")
    program.quit()
    return [numpy.fromfile(dumped / f"{plane}.f32", numpy.float32) for plane in PLANES]


def difference(plane, ours, theirs):
    """The greatest absolute difference of parameters; of moments, which are small, relative to the greatest of ours."""
    if len(ours) != PARAMS or len(theirs) != PARAMS:
        raise ValueError(f"{plane}: {len(ours)} and {len(theirs)} elements, not {PARAMS}")
    scale = 1 if plane == "param" else numpy.abs(ours).max()
    return float(numpy.abs(ours - theirs).max() / scale)
