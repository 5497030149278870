"""PyTorch: its operators, without autograd, in both memory formats."""

from ..protocol import serve
from . import methods


def conv(problem, pass_, operands):
    """conv2d, or the one operator that computes any of its gradients."""
    import torch

    stride, padding, dilation, output_padding = ([size, size] for size in (problem.stride, problem.padding, 1, 0))
    needs = [pass_ in ("backward", "backward_data"), pass_ in ("backward", "backward_weights"), pass_ == "backward"]

    def variant(memory_format):
        x, w, dy = (torch.from_numpy(operands[name]).contiguous(memory_format=memory_format)
                    for name in ("x", "w", "dy"))
        b = torch.from_numpy(operands["b"])
        if pass_ == "forward":
            return (lambda: torch.conv2d(x, w, b, stride, padding, dilation, problem.groups),
                    lambda y: [y.numpy()])
        backward = torch.ops.aten.convolution_backward.default
        bias_sizes = [problem.K] if needs[2] else None
        return (lambda: backward(dy, x, w, bias_sizes, stride, padding, dilation, False, output_padding,
                                 problem.groups, needs),
                lambda gradients: [gradient.numpy() for gradient in gradients if gradient is not None])

    return {"channels_first": variant(torch.contiguous_format), "channels_last": variant(torch.channels_last)}


def load(threads):
    """The methods of the process."""
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    return methods(torch.__version__, {"conv": conv})


if __name__ == "__main__":
    serve(load)
