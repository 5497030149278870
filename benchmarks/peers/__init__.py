"""The libraries, one file each, convrnn among them: all run, and are timed, as processes of the same kind.

A file is the name of the package it measures. It holds a function for every operator it knows, ::

    def conv(problem, pass_, operands): -> {name: Variant(call, results)}

where `operands` are the problem's in the canonical layout, ``call()`` is what is timed and nothing else, and
``results(call())`` are NumPy arrays in the canonical layout and order: for a recurrent layer y, then the last state or
the gradients of x, of the parameters and of the first state. It ends with ``serve(lambda threads: methods(version,
{"conv": conv}))``; the package is imported in there, because it may be missing. What a library cannot do has no
variants.
"""

import pkgutil
from collections.abc import Callable
from typing import NamedTuple

from .. import measure, problems

#: The other libraries there are files for.
OTHERS = tuple(module.name for module in pkgutil.iter_modules(__path__) if module.name != measure.OURS)


class Variant(NamedTuple):
    """A way in which a library does a case.

    A plain call gets arrays and returns new ones, and nothing was prepared but what a user has anyway: arrays, layers.
    A prepared one knew the weights before (constants of a compiled model, a frozen layer), or has buffers bound to it.
    Plain is compared with plain; ours prepared with all there is.
    """

    call: Callable
    results: Callable
    prepared: bool = False


def as_state(parts):
    """The state of a recurrent layer: h, or (h, c)."""
    return parts[0] if len(parts) == 1 else tuple(parts)


def listed(state):
    """The arrays of a state, or of any results of which there may be one."""
    return state if isinstance(state, tuple) else (state,)


def methods(version, operators):
    """What a library's process answers: version, prepare, time."""
    calls = {}

    def prepare(operator, pass_, problem, dtype):
        """Makes the variants of a case; says of each whether it is prepared, and the signature of what it computes."""
        calls.clear()
        if operator not in operators:
            return {}
        parsed = problems.parse(operator, problem)
        variants = operators[operator](parsed, pass_, parsed.operands(dtype))
        calls.update({name: variant.call for name, variant in variants.items()})
        return {name: {"prepared": variant.prepared, "signature": measure.signature(variant.results(variant.call()))}
                for name, variant in variants.items()}

    def time(variant, seconds, least):
        return measure.repetitions(calls[variant], seconds, least)

    return {"version": lambda: version, "prepare": prepare, "time": time}
