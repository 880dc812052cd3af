"""DeepSpeed's asynchronous I/O and CPU Adam, pipelined: sub-group k+1 is read and k-1 written while k is computed."""

import os

from baseline import (
    BETA1, BETA2, EPS, FIRST_VALUE, LR, PLANES, WEIGHT_DECAY,
    Baseline, arguments, gradient, protocol_channel, serve,
)

# The best of those tried. Single submission, no overlap of events, depths of 8 and 128 and four threads were slower;
# two threads were faster in two runs of three, within what the disk drifted.
BLOCK_BYTES = 1 << 20
QUEUE_DEPTH = 32
SINGLE_SUBMIT = False
OVERLAP_EVENTS = True
AIO_THREADS = 1
BUFFERS = 3


class Queue:
    """One aio_handle; `wait` may be called with nothing under way, which the handle does not allow."""

    def __init__(self, builder):
        self.handle = builder.aio_handle(BLOCK_BYTES, QUEUE_DEPTH, SINGLE_SUBMIT, OVERLAP_EVENTS, AIO_THREADS)
        self.pending = 0

    def submit(self, operation, buffer, path, offset_bytes):
        status = getattr(self.handle, operation)(buffer, path, offset_bytes)
        if status != 0:
            raise RuntimeError(f"{operation} of {path} at {offset_bytes} returned {status}")
        self.pending += 1

    def wait(self):
        if self.pending:
            completed = self.handle.wait()
            if completed != self.pending:
                raise RuntimeError(f"{completed} of {self.pending} operations completed")
            self.pending = 0


class DeepSpeedPipelined(Baseline):
    def prepare(self):
        import torch
        from deepspeed.ops.op_builder import AsyncIOBuilder, CPUAdamBuilder

        torch.set_num_threads(self.args.threads)
        self.adam = CPUAdamBuilder().load(verbose=False)
        self.adam.create_adam(0, LR, BETA1, BETA2, EPS, WEIGHT_DECAY, True, False)
        self.gradient = torch.from_numpy(gradient(self.chunk))
        if self.in_memory:
            self.state = [torch.zeros(self.elements) for _ in PLANES]
            self.state[0].fill_(FIRST_VALUE)
            return
        builder = AsyncIOBuilder().load(verbose=False)
        self.reader, *self.writers = (Queue(builder) for _ in range(3))
        locked = self.reader.handle.new_cpu_locked_tensor(BUFFERS * len(PLANES) * self.chunk, torch.empty(0))
        self.buffers = locked.view(BUFFERS, len(PLANES), self.chunk)
        self.allocate()
        self.write_first_values()

    def write_first_values(self):
        self.buffers[0].zero_()
        self.buffers[0][0].fill_(FIRST_VALUE)
        for start, length in self.chunks():
            self.transfer("async_pwrite", self.writers[0], self.buffers[0], start, length)
            self.writers[0].wait()

    def transfer(self, operation, queue, buffer, start, length):
        for plane, values in zip(PLANES, buffer):
            queue.submit(operation, values[:length], self.path(plane), start * 4)

    def update(self):
        if self.in_memory:
            for start, length in self.chunks():
                self.compute([plane.narrow(0, start, length) for plane in self.state])
            return
        groups = list(self.chunks())
        self.transfer("async_pread", self.reader, self.buffers[0], *groups[0])
        for k, (start, length) in enumerate(groups):
            self.reader.wait()
            writer = self.writers[k % 2]
            writer.wait()  # for k-2, whose buffer k+1 takes
            if k + 1 < len(groups):
                self.transfer("async_pread", self.reader, self.buffers[(k + 1) % BUFFERS], *groups[k + 1])
            buffer = self.buffers[k % BUFFERS]
            self.compute(buffer[:, :length])
            self.transfer("async_pwrite", writer, buffer, start, length)
        for writer in self.writers:
            writer.wait()

    def compute(self, planes):
        param, exp_avg, exp_avg_sq = planes
        grad = self.gradient[: len(param)]
        self.adam.adam_update(
            0, self.step, LR, BETA1, BETA2, EPS, WEIGHT_DECAY, True, param, grad, exp_avg, exp_avg_sq
        )

    def dump(self, directory):
        if self.in_memory:
            return self.dump_arrays(directory, [plane.numpy() for plane in self.state])
        return self.dump_files(directory)


if __name__ == "__main__":
    channel = protocol_channel()
    args = arguments()
    # Read when OpenMP starts, with the first import of torch; the built extension has an OpenMP of its own.
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    serve(DeepSpeedPipelined(args), channel)
