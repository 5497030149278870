"""PyTorch: its convolutions without autograd, in both memory formats; its recurrent layers, trained with autograd.

Its prepared convolution is oneDNN's, with the weights and the activations already in that library's blocked layouts.
"""

from ..problems import PARAMETERS
from ..protocol import serve
from . import Variant, as_state, listed, methods


def conv(problem, pass_, operands):
    """conv2d, or the one operator that computes any of its gradients."""
    import torch

    torch.set_grad_enabled(False)
    stride, padding, dilation, output_padding = ([size, size] for size in (problem.stride, problem.padding, 1, 0))
    needs = [pass_ in ("backward", "backward_data"), pass_ in ("backward", "backward_weights"), pass_ == "backward"]

    def variant(memory_format):
        x, w, dy = (torch.from_numpy(operands[name]).contiguous(memory_format=memory_format)
                    for name in ("x", "w", "dy"))
        b = torch.from_numpy(operands["b"])
        if pass_ == "forward":
            return Variant(lambda: torch.conv2d(x, w, b, stride, padding, dilation, problem.groups),
                           lambda y: [y.numpy()])
        backward = torch.ops.aten.convolution_backward.default
        bias_sizes = [problem.K] if needs[2] else None
        return Variant(lambda: backward(dy, x, w, bias_sizes, stride, padding, dilation, False, output_padding,
                                        problem.groups, needs),
                       lambda gradients: [gradient.numpy() for gradient in gradients if gradient is not None])

    variants = {"channels_first": variant(torch.contiguous_format), "channels_last": variant(torch.channels_last)}
    if pass_ == "forward" and operands["x"].dtype == "float32" and torch.backends.mkldnn.is_available():
        variants["mkldnn"] = blocked(problem, operands)
    return variants


def blocked(problem, operands):
    """The module in oneDNN's layouts, which that library knows for float32."""
    import torch

    module = torch.nn.Conv2d(problem.C, problem.K, problem.kernel, problem.stride, problem.padding,
                             groups=problem.groups).eval()
    module.load_state_dict({"weight": torch.from_numpy(operands["w"]), "bias": torch.from_numpy(operands["b"])})
    prepared, x = torch.utils.mkldnn.to_mkldnn(module), torch.from_numpy(operands["x"]).to_mkldnn()
    return Variant(lambda: prepared(x), lambda y: [y.to_dense().numpy()], prepared=True)


def rnn(problem, pass_, operands):
    """The layer, and for inference of a single step also the cell; training is the layer and its autograd."""
    import torch

    training = pass_ == "training"
    torch.set_grad_enabled(training)
    tensors = {name: torch.from_numpy(array) for name, array in operands.items()}
    x, dy, *first = (tensors[name] for name in tensors if name not in PARAMETERS)

    def module(kind, suffix):
        made = getattr(torch.nn, kind)(problem.I, problem.H, dtype=x.dtype)
        made.load_state_dict({name + suffix: tensors[name] for name in PARAMETERS})
        return made

    def arrays(y, others):
        return [y.numpy(), *(other.numpy() for other in listed(others))]

    layer = module(problem.cell, "_l0")
    parts = [part[None].requires_grad_(training) for part in first]
    state = as_state(parts)
    if training:
        sources = [x.requires_grad_(), *(getattr(layer, f"{name}_l0") for name in PARAMETERS), *parts]

        def train():
            y, _ = layer(x, state)
            return y, torch.autograd.grad(y, sources, dy)

        return {"layer": Variant(train, lambda result: arrays(result[0].detach(), result[1]))}
    variants = {"layer": Variant(lambda: layer(x, state), lambda result: arrays(*result))}
    if problem.T == 1:
        cell, row, before = module(f"{problem.cell}Cell", ""), x[0], as_state(first)
        variants["cell"] = Variant(lambda: cell(row, before), lambda after: arrays(listed(after)[0], after))
    return variants


def load(threads):
    """The methods of the process."""
    import torch
    import torch.utils.mkldnn

    torch.set_num_threads(threads)
    return methods(torch.__version__, {"conv": conv, "rnn": rnn})


if __name__ == "__main__":
    serve(load)
