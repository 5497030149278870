"""Demonstrations on real data: ``python -m convrnn demo [part ...]``.

A part is a function ``run(out, *, epochs, seed)``: it prints what it measured and writes its pictures into the folder
`out`. It needs the packages of the extra ``convrnn[demo]`` and no network.
"""

from . import digits, gradients, series, text

PARTS = {"digits": digits.run, "text": text.run, "series": series.run, "gradients": gradients.run}
"""The parts by name, in the order in which they run."""
