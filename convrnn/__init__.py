"""Convolution and recurrence for NumPy arrays, forward and backward, in C.

Letters, the same in code, documentation and benchmarks: N batch, C in-channels, K out-channels, D H W image, KD KH KW
kernel, OD OH OW output, T time, I input size, H hidden size. A gradient is d + the tensor: dx, dw, db, dy. What forward
keeps for backward is the cache.

Array functions stand in `conv` and `pool`, layers around them in `layers`, and the formulas they compute, in loops, in
`reference`.
"""

try:
    from . import _core as _core
except ImportError as error:
    from importlib.util import find_spec

    if find_spec(f"{__name__}._core") is not None:
        raise
    raise ImportError(
        f"convrnn._core is not built for this Python in {__path__[0]}: run 'pip install -e .' in the folder above it, "
        "or, to use a convrnn that is installed, start Python elsewhere") from error

from . import losses, optimizers
from ._version import __version__
from .autoregressive import AR, LatentAR
from .conv import (conv1d, conv1d_backward, conv2d, conv2d_backward, conv3d, conv3d_backward, conv_algorithm,
                   conv_output_shape, conv_transpose1d, conv_transpose1d_backward, conv_transpose2d,
                   conv_transpose2d_backward, conv_transpose3d, conv_transpose3d_backward)
from .layers import (AvgPool2d, Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, Embedding, Flatten, Layer,
                     Linear, MaxPool2d, ReLU, Sequential, Sigmoid, Tanh)
from .pool import (avg_pool1d, avg_pool1d_backward, avg_pool2d, avg_pool2d_backward, max_pool1d, max_pool1d_backward,
                   max_pool2d, max_pool2d_backward)
from .recurrent import gru, gru_backward, lstm, lstm_backward, rnn, rnn_backward
from .recurrent_layers import GRU, LSTM, RNN
from .runtime import (get_include, get_num_threads, isa, num_threads, register_threadpoolctl, set_num_threads,
                      show_config)

__all__ = [
    "AR", "GRU", "LSTM", "RNN", "AvgPool2d", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d",
    "Embedding", "Flatten", "LatentAR", "Layer", "Linear", "MaxPool2d", "ReLU", "Sequential", "Sigmoid", "Tanh",
    "__version__", "avg_pool1d", "avg_pool1d_backward", "avg_pool2d", "avg_pool2d_backward", "conv1d",
    "conv1d_backward", "conv2d", "conv2d_backward", "conv3d", "conv3d_backward", "conv_algorithm", "conv_output_shape",
    "conv_transpose1d", "conv_transpose1d_backward", "conv_transpose2d", "conv_transpose2d_backward",
    "conv_transpose3d", "conv_transpose3d_backward", "get_include", "get_num_threads", "gru", "gru_backward", "isa",
    "losses", "lstm", "lstm_backward", "max_pool1d", "max_pool1d_backward", "max_pool2d", "max_pool2d_backward",
    "num_threads", "optimizers", "register_threadpoolctl", "rnn", "rnn_backward", "set_num_threads", "show_config",
]
