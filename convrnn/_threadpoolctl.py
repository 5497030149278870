"""Makes the number of threads known to threadpoolctl, which is imported here and not by the package."""

from __future__ import annotations

import ctypes
from typing import Any

import threadpoolctl


class Controller(threadpoolctl.LibController):
    """The pool of one loaded copy of the C core, found by the name of its file and three symbols of it."""

    user_api = internal_api = "convrnn"
    filename_prefixes = ("_core",)
    check_symbols = ("cr_get_num_threads",)

    def get_num_threads(self) -> Any:
        """The number of threads a call may use; None for a library of that name which is not ours."""
        function = self._get_symbol("cr_get_num_threads")
        return function() if function else None

    def set_num_threads(self, num_threads: int) -> None:
        """Sets it, for the whole process."""
        self._get_symbol("cr_set_num_threads")(ctypes.c_int64(num_threads))

    def get_version(self) -> Any:
        """The version of the C core."""
        function = self._get_symbol("cr_version")
        if function is None:
            return None
        function.restype = ctypes.c_char_p
        return function().decode()


threadpoolctl.register(Controller)
