"""The process: threads, instruction set, configuration, and the folder of the C header."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from . import _core
from ._version import __version__
from .arguments import integer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import SupportsIndex


def set_num_threads(n: SupportsIndex) -> None:
    """Lets calls use up to n threads, the calling one included; 1 ends the idle ones. Results do not depend on it."""
    _core.set_num_threads(integer("n", n, 1))


def get_num_threads() -> int:
    """The number of threads a call may use.

    At first CONVRNN_NUM_THREADS, else OMP_NUM_THREADS, else the processors this process may run on.
    """
    return _core.get_num_threads()


@contextlib.contextmanager
def num_threads(n: SupportsIndex) -> Iterator[None]:
    """Sets the number of threads for a block, for the whole process.

    Examples
    --------
    >>> import convrnn as cr
    >>> with cr.num_threads(1):
    ...     cr.get_num_threads()
    1
    """
    before = get_num_threads()
    set_num_threads(n)
    try:
        yield
    finally:
        set_num_threads(before)


def register_threadpoolctl() -> None:
    """Lets threadpoolctl see and limit the threads of this package, as it does those of BLAS; needs threadpoolctl.

    Examples
    --------
    >>> import convrnn as cr, threadpoolctl
    >>> cr.register_threadpoolctl()
    >>> with threadpoolctl.threadpool_limits(1, user_api="convrnn"):
    ...     cr.get_num_threads()
    1
    """
    from . import _threadpoolctl  # noqa: F401, its import registers


def isa() -> str:
    """The instruction set in use: "generic", "avx2" or "avx512"; CONVRNN_ISA forces one."""
    return _core.isa()


def get_include() -> str:
    """The folder of convrnn.h, for C and Cython projects."""
    package = Path(__file__).parent
    for folder in (package / "include", package.parent / "csrc"):
        if (folder / "convrnn.h").exists():
            return str(folder)
    raise FileNotFoundError("convrnn.h is missing from this installation")


def show_config() -> None:
    """Prints versions, instruction sets and threads."""
    import numpy as np

    print(f"convrnn      {__version__}, C core {_core.version()}")
    print(f"numpy        {np.__version__}")
    print(f"isa          {isa()} (available: {', '.join(_core.available_isas())}; CONVRNN_ISA forces one)")
    print(f"threads      {get_num_threads()} (CONVRNN_NUM_THREADS, OMP_NUM_THREADS or set_num_threads)")
    print(f"include      {get_include()}")
