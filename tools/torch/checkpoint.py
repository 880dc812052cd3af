"""PyTorch checkpoints to safetensors with optimizer state by name, as `paramstore import` reads it, and back.

    python checkpoint.py to run.pt run.safetensors [--names names.txt]
    python checkpoint.py from run.safetensors run.pt

A checkpoint is a dict with a model's state_dict (`model`, `state_dict`, `model_state_dict`, or the dict itself) and perhaps an
optimizer's (`optimizer`, `optimizer_state_dict`). Buffers that are floats (`running_mean`) look like parameters: freeze them when
importing (`--freeze running_`). A checkpoint is read with weights_only=True: no code of it is run. Needs torch and
safetensors.
"""

import argparse
import sys

MODEL = ("model", "model_state_dict", "state_dict")
OPTIMIZER = ("optimizer", "optimizer_state_dict")


def first(checkpoint, keys):
    return next((checkpoint[key] for key in keys if isinstance(checkpoint.get(key), dict)), None)


def names_of(model, optimizer, given):
    """The name of each number that the optimizer has for a parameter."""
    groups = optimizer["param_groups"]
    numbers = [number for group in groups for number in group["params"]]
    if given is not None:
        names = given
    elif all("param_names" in group for group in groups):
        names = [name for group in groups for name in group["param_names"]]
    else:
        names = [name for name, tensor in model.items() if tensor.is_floating_point()]
    if len(names) != len(numbers):
        sys.exit(
            f"{len(numbers)} parameters in the optimizer, {len(names)} names: give --names FILE, "
            "one a line in the order in which the optimizer got its parameters"
        )
    # Groups are lists of their own, and numbers count in the order in which the optimizer was given them.
    return dict(zip(numbers, names)) if given is None else dict(zip(sorted(numbers), names))


def flatten(checkpoint, given):
    """All tensors of a checkpoint by the names that they get in the file."""
    import torch

    model = first(checkpoint, MODEL) or checkpoint
    tensors = {name: value for name, value in model.items() if isinstance(value, torch.Tensor)}
    optimizer = first(checkpoint, OPTIMIZER)
    if optimizer is None:
        return tensors
    names, steps = names_of(tensors, optimizer, given), []
    for number, state in optimizer["state"].items():
        name = names[number]
        if name not in tensors:
            sys.exit(f"the optimizer has state of {name!r}, which the model does not have")
        for key, value in state.items():
            if value is None:
                continue
            if key == "step":
                steps.append(int(value))
                value = torch.tensor(int(value), dtype=torch.int64)
            elif isinstance(value, float):
                value = torch.tensor(value, dtype=torch.float32)
            elif value.dim() and value.shape != tensors[name].shape:
                sys.exit(f"{key} of {name!r} has shape {tuple(value.shape)}: give --names FILE")
            tensors[f"{key}.{name}"] = value
    if steps:
        tensors["step"] = torch.tensor(max(steps), dtype=torch.int64)
    return tensors


def nest(tensors):
    """The checkpoint that such a file stands for."""
    import torch

    model, state = {}, {}
    for name, tensor in tensors.items():
        key, dot, of = name.partition(".")
        if dot and of in tensors:
            is_step = key == "step"
            state.setdefault(of, {})[key] = tensor.to(torch.float32) if is_step else tensor
        elif name != "step":
            model[name] = tensor
    checkpoint = {"model": model}
    if state:
        # Trained tensors have state; those that no step has updated yet have none in PyTorch.
        names = [name for name in model if name in state]
        used = {number: state[name] for number, name in enumerate(names) if state[name].get("step", 1) != 0}
        group = {"params": list(range(len(names))), "param_names": names}
        checkpoint["optimizer"] = {"state": used, "param_groups": [group]}
    if "step" in tensors:
        checkpoint["step"] = int(tensors["step"])
    return checkpoint


def separate(tensors):
    """Tensors of their own memory: the format has no two names for one."""
    seen, result = set(), {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        result[name] = tensor.contiguous().clone() if place in seen else tensor.contiguous()
        seen.add(place)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("direction", choices=["to", "from"])
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--names", help="file with a name on each line, in the order of the optimizer's parameters")
    arguments = parser.parse_args()

    import torch
    from safetensors.torch import load_file, save_file

    if arguments.direction == "from":
        torch.save(nest(load_file(arguments.source)), arguments.target)
        return
    names = None
    if arguments.names:
        with open(arguments.names) as file:
            names = file.read().split()
    checkpoint = torch.load(arguments.source, map_location="cpu", weights_only=True)
    save_file(separate(flatten(checkpoint, names)), arguments.target, metadata={"format": "pt"})


if __name__ == "__main__":
    main()
