"""AdamW over numpy.memmap, a piece at a time, with preallocated temporaries."""

import numpy

from baseline import (
    BETA1, BETA2, EPS, FIRST_VALUE, LR, PLANES, WEIGHT_DECAY,
    Baseline, arguments, bias_corrections, gradient, protocol_channel, serve,
)

# Pieces whose operands stay in a core's cache: NumPy passes over them a dozen times.
PIECE = 32 << 10


class NumpyMemmap(Baseline):
    def prepare(self):
        if self.in_memory:
            self.state = [numpy.zeros(self.elements, numpy.float32) for _ in PLANES]
        else:
            self.allocate()
            mode = "w+" if self.args.sparse else "r+"
            self.state = [numpy.memmap(self.path(plane), numpy.float32, mode, shape=self.elements) for plane in PLANES]
        self.state[0][:] = FIRST_VALUE
        self.gradient = gradient(self.chunk)
        self.temporaries = numpy.empty((2, PIECE), numpy.float32)

    def update(self):
        correction1, correction2 = bias_corrections(self.step)
        for start, length in self.chunks():
            for first in range(0, length, PIECE):
                piece = slice(start + first, start + min(first + PIECE, length))
                planes = [plane[piece] for plane in self.state]
                grad = self.gradient[first : first + len(planes[0])]
                self.adamw(planes, grad, LR / correction1, correction2**-0.5)

    def adamw(self, planes, grad, step_size, inverse_root2):
        param, exp_avg, exp_avg_sq = planes
        a, b = self.temporaries[:, : len(grad)]
        param *= numpy.float32(1 - LR * WEIGHT_DECAY)
        exp_avg *= numpy.float32(BETA1)
        exp_avg += numpy.multiply(grad, numpy.float32(1 - BETA1), out=a)
        exp_avg_sq *= numpy.float32(BETA2)
        numpy.multiply(grad, grad, out=a)
        a *= numpy.float32(1 - BETA2)
        exp_avg_sq += a
        numpy.sqrt(exp_avg_sq, out=a)
        a *= numpy.float32(inverse_root2)
        a += numpy.float32(EPS)
        numpy.divide(exp_avg, a, out=b)
        b *= numpy.float32(step_size)
        param -= b

    def dump(self, directory):
        return self.dump_arrays(directory, self.state)


if __name__ == "__main__":
    serve(NumpyMemmap(arguments()), protocol_channel())
