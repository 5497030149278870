"""ncnn: float32 inference of one image or one sequence, a network of one layer, so all its variants are prepared.

It has no batch, so a convolution of many images is a loop over them. Of a 3x3 convolution it also runs the algorithms
that it chooses from: Winograd's of two sizes, and none.
"""

import tempfile
from pathlib import Path

import numpy as np

from ..problems import GATES
from ..protocol import serve
from . import Variant, methods

#: Which of its convolution algorithms a variant may use, by the size of Winograd's tiles.
ALGORITHMS = {"default": (23, 43, 63), "winograd43": (43,), "winograd23": (23,), "direct": ()}

#: Its order of the gates (i f o g; r z n), as positions in PyTorch's (i f g o; r z n).
GATE_ORDER = {"RNN": (0,), "LSTM": (0, 1, 3, 2), "GRU": (0, 1, 2)}


def network(layer, tops, parameters, weights, threads, tiles=ALGORITHMS["default"]):
    """A net of one layer, whose inputs and outputs are blobs of their own.

    `parameters` are those of the text format, by number; `weights` the bytes of the model file.
    """
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_packed", "use_bf16_storage",
                   "use_vulkan_compute"):
        setattr(net.opt, option, False)
    net.opt.use_winograd_convolution = bool(tiles)
    for tile in (23, 43, 63):
        setattr(net.opt, f"use_winograd{tile}_convolution", tile in tiles)
    bottoms = ["x", *(f"first_{name}" for name in tops[1:])]
    lines = ["7767517", f"{len(bottoms) + 1} {len(bottoms) + len(tops)}",
             *(f"Input {name} 0 1 {name}" for name in bottoms),
             " ".join([layer, "layer", f"{len(bottoms)} {len(tops)}", *bottoms, *tops,
                       *(f"{number}={value}" for number, value in parameters.items())])]
    with tempfile.TemporaryDirectory() as folder:
        text, model = Path(folder, "text"), Path(folder, "model")
        text.write_text("\n".join(lines) + "\n")
        model.write_bytes(weights)
        if net.load_param(str(text)) or net.load_model(str(model)):
            raise RuntimeError(f"{layer} was not loaded")

    def run(*inputs):
        extractor = net.create_extractor()
        for name, array in zip(bottoms, inputs, strict=True):
            extractor.input(name, array)
        return [extractor.extract(name)[1] for name in tops]

    return run


def flagged(array):
    """A weight in the model file: a word that says float32, and the numbers."""
    return bytes(4) + np.ascontiguousarray(array).tobytes()


def layers(threads):
    """The operators, with so many threads."""
    import ncnn

    def conv(problem, pass_, operands):
        if pass_ != "forward" or operands["x"].dtype != "float32":
            return {}
        parameters = {0: problem.K, 1: problem.kernel, 3: problem.stride, 4: problem.padding, 5: 1,
                      6: operands["w"].size}
        kind = "Convolution" if problem.groups == 1 else "ConvolutionDepthWise"
        if problem.groups > 1:
            parameters[7] = problem.groups
        weights = flagged(operands["w"]) + operands["b"].tobytes()
        images = [ncnn.Mat(image).clone() for image in operands["x"]]  # else views, which own nothing

        def variant(tiles):
            run = network(kind, ["y"], parameters, weights, threads, tiles)
            return Variant(lambda: [run(image)[0] for image in images],
                           lambda outputs: [np.stack([np.array(output) for output in outputs])], prepared=True)

        has_choice = (problem.kernel, problem.stride, problem.groups) == (3, 1, 1)
        return {name: variant(tiles) for name, tiles in ALGORITHMS.items() if has_choice or name == "default"}

    def rnn(problem, pass_, operands):
        if pass_ == "training" or operands["x"].dtype != "float32" or problem.B != 1:
            return {}
        weight_ih, weight_hh = (gates(operands[f"weight_{name}"], problem) for name in ("ih", "hh"))
        states = [name for name in ("h", "c") if name in operands]
        inputs = [ncnn.Mat(array).clone() for array in (operands["x"][:, 0], *(operands[name] for name in states))]
        run = network(problem.cell, ["y", *states], {0: problem.H, 1: weight_ih.size, 2: 0},
                      flagged(weight_ih) + flagged(biases(problem, operands)) + flagged(weight_hh), threads)
        return {"layer": Variant(lambda: run(*inputs), lambda outputs: rnn_results(outputs, problem), prepared=True)}

    return {"conv": conv, "rnn": rnn}


def gates(array, problem):
    """The gates as blocks (G, H, ...), in its order."""
    blocks = array.reshape(GATES[problem.cell], problem.H, *array.shape[1:])
    return blocks[list(GATE_ORDER[problem.cell])]


def biases(problem, operands):
    """The sums of both biases, but of the GRU's new gate, whose recurrent one r is applied to, each of them."""
    ih, hh = (gates(operands[f"bias_{name}"], problem) for name in ("ih", "hh"))
    return np.concatenate([ih[:2] + hh[:2], ih[2:], hh[2:]]) if problem.cell == "GRU" else ih + hh


def rnn_results(outputs, problem):
    """y and the last state."""
    y, *state = (np.array(output) for output in outputs)
    return [y.reshape(problem.T, 1, problem.H), *(part.reshape(1, problem.H) for part in state)]


def load(threads):
    """The methods of the process."""
    import ncnn

    return methods(ncnn.__version__, layers(threads))


if __name__ == "__main__":
    serve(load)
