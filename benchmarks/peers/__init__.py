"""The libraries, one file each, convrnn among them: all run, and are timed, as processes of the same kind.

A file is the name of the package it measures. It holds a function for every operator it knows, ::

    def conv(problem, pass_, operands): -> {variant: (call, results)}

where `operands` are the problem's in the canonical layout, ``call()`` is what is timed and nothing else (a plain call:
a new result, nothing prepared but the arrays themselves), and ``results(call())`` are NumPy arrays in the canonical
layout. It ends with ``serve(lambda threads: methods(version, {"conv": conv}))``; the package is imported in there,
because it may be missing. What a library cannot do has no variants.
"""

import pkgutil

from .. import measure, problems

#: The other libraries there are files for.
OTHERS = tuple(module.name for module in pkgutil.iter_modules(__path__) if module.name != measure.OURS)


def methods(version, operators):
    """What a library's process answers: version, prepare, time."""
    calls = {}

    def prepare(operator, pass_, problem, dtype):
        """Makes the variants of a case; returns the signature of what each of them computes."""
        calls.clear()
        if operator not in operators:
            return {}
        parsed = problems.parse(operator, problem)
        variants = operators[operator](parsed, pass_, parsed.operands(dtype))
        calls.update({variant: call for variant, (call, _) in variants.items()})
        return {variant: measure.signature(results(call())) for variant, (call, results) in variants.items()}

    def time(variant, seconds, least):
        return measure.repetitions(calls[variant], seconds, least)

    return {"version": lambda: version, "prepare": prepare, "time": time}
