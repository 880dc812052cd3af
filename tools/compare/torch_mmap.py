"""PyTorch's fused AdamW over file-backed tensors (torch.from_file), a chunk at a time."""

import torch

from baseline import (
    BETA1, BETA2, EPS, FIRST_VALUE, LR, PLANES, WEIGHT_DECAY,
    Baseline, arguments, gradient, protocol_channel, serve,
)


class TorchMmap(Baseline):
    def prepare(self):
        torch.set_num_threads(self.args.threads)
        if self.in_memory:
            self.state = [torch.zeros(self.elements) for _ in PLANES]
        else:
            self.allocate()
            self.state = [torch.from_file(self.path(plane), shared=True, size=self.elements) for plane in PLANES]
        self.state[0].fill_(FIRST_VALUE)
        self.gradient = torch.from_numpy(gradient(self.chunk))

    @torch.no_grad()
    def update(self):
        steps = torch.tensor(float(self.step))
        for start, length in self.chunks():
            param, exp_avg, exp_avg_sq = (plane.narrow(0, start, length) for plane in self.state)
            # What torch.optim.AdamW(fused=True).step() calls.
            torch._fused_adamw_(
                [param], [self.gradient[:length]], [exp_avg], [exp_avg_sq], [], [steps],
                lr=LR, beta1=BETA1, beta2=BETA2, weight_decay=WEIGHT_DECAY, eps=EPS, amsgrad=False, maximize=False,
            )

    def dump(self, directory):
        return self.dump_arrays(directory, [plane.numpy() for plane in self.state])


if __name__ == "__main__":
    serve(TorchMmap(arguments()), protocol_channel())
