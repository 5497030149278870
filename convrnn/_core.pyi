from typing import Any, TypeGuard

import numpy as np

_PerAxis = int | tuple[int, ...]
_Padding = int | tuple[tuple[int, int], ...]
_Arrays = tuple[np.ndarray | None, ...]

PAD_MODES: dict[str, int]
ACTIVATIONS: dict[str | None, int]
ALGORITHMS: dict[str, int]
FUNCTIONS: dict[str, int]
CELLS: dict[str, int]

def empty_like(array: np.ndarray, read: np.ndarray) -> np.ndarray: ...
def is_plain(array: object) -> TypeGuard[np.ndarray]: ...

class Geometry:
    def __init__(
        self,
        rank: int,
        channels_first: bool,
        x_shape: tuple[int, ...],
        w_shape: tuple[int, ...],
        stride: _PerAxis,
        padding: _Padding,
        dilation: _PerAxis,
        groups: int,
        pad_mode: int,
        algorithm: int,
    ) -> None: ...
    @staticmethod
    def of_transposed(
        rank: int,
        channels_first: bool,
        x_shape: tuple[int, ...],
        w_shape: tuple[int, ...],
        stride: _PerAxis,
        padding: _Padding,
        output_padding: tuple[int, ...],
        dilation: _PerAxis,
        groups: int,
    ) -> Geometry: ...
    @staticmethod
    def of_pool(
        rank: int,
        channels_first: bool,
        x_shape: tuple[int, ...],
        size: _PerAxis,
        stride: _PerAxis | None,
        padding: _Padding,
    ) -> Geometry: ...
    def of_bias(self) -> Geometry: ...
    @property
    def rank(self) -> int: ...
    @property
    def x_shape(self) -> tuple[int, ...]: ...
    @property
    def y_shape(self) -> tuple[int, ...]: ...
    def new_output(self, x: np.ndarray) -> np.ndarray: ...
    def algorithm(self, double: bool) -> str: ...
    @property
    def channels(self) -> int: ...
    @property
    def filters(self) -> int: ...
    @property
    def window(self) -> tuple[int, ...]: ...

def conv_forward(
    geometry: Geometry, x: np.ndarray, w: np.ndarray, b: np.ndarray | None, y: np.ndarray, activation: int
) -> None: ...
def convolve(
    rank: int, x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: Any, layout: Any,
    padding_mode: Any, activation: Any, algorithm: Any,
) -> np.ndarray | None: ...
def conv_prepared_size(geometry: Geometry, w: np.ndarray) -> int: ...
def conv_prepare(geometry: Geometry, w: np.ndarray) -> np.ndarray: ...
def conv_forward_prepared(
    geometry: Geometry, x: np.ndarray, prepared: np.ndarray, b: np.ndarray | None, y: np.ndarray, activation: int
) -> None: ...
def conv_backward_data(
    geometry: Geometry, dy: np.ndarray, w: np.ndarray, b: np.ndarray | None, dx: np.ndarray
) -> None: ...
def conv_backward_weights(geometry: Geometry, dy: np.ndarray, x: np.ndarray, dw: np.ndarray) -> None: ...
def conv_backward_bias(geometry: Geometry, dy: np.ndarray, db: np.ndarray) -> None: ...
def max_pool_forward(geometry: Geometry, x: np.ndarray, y: np.ndarray) -> None: ...
def max_pool_backward(geometry: Geometry, dy: np.ndarray, x: np.ndarray, dx: np.ndarray) -> None: ...

class Recurrence:
    def __init__(
        self,
        cell: int,
        w_ih: np.ndarray,
        w_hh: np.ndarray,
        w_hr: np.ndarray | None,
        b_ih: np.ndarray | None,
        b_hh: np.ndarray | None,
        H: int,
        activation: int,
        reset_after: bool,
        reverse: bool,
    ) -> None: ...
    def prepare(self) -> None: ...
    @property
    def parameters(self) -> _Arrays: ...
    @property
    def reverse(self) -> bool: ...
    @property
    def H(self) -> int: ...
    @property
    def R(self) -> int: ...
    def series_in(self, room: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]: ...
    def forward(
        self,
        x: np.ndarray,
        lengths: np.ndarray | None,
        h: np.ndarray | None,
        c: np.ndarray | None,
        y: np.ndarray,
        h_last: np.ndarray,
        c_last: np.ndarray | None,
        keep: bool,
    ) -> np.ndarray | None: ...
    def backward(
        self,
        x: np.ndarray,
        lengths: np.ndarray | None,
        room: np.ndarray,
        dy: np.ndarray,
        dh_last: np.ndarray | None,
        dc_last: np.ndarray | None,
        truncate: int,
        needs_dx: bool,
        dh: np.ndarray,
        dc: np.ndarray | None,
        dh_all: np.ndarray | None,
    ) -> tuple[np.ndarray | None, _Arrays]: ...

def recurrences(
    cell: int,
    params: dict[str, np.ndarray],
    names: tuple[tuple[str, ...], ...],
    directions: int,
    inputs: int,
    H: int,
    R: int,
    activation: int,
    reset_after: bool,
) -> tuple[Recurrence, ...] | None: ...
def walk(
    parts: tuple[Recurrence, ...], x: object, state: object, directions: int, stacked: bool, batch_first: bool,
    keep: bool,
) -> tuple[Any, ...] | None: ...
def walk_arrays(
    cell: int,
    x: object,
    w_ih: object,
    w_hh: object,
    w_hr: object,
    b_ih: object,
    b_hh: object,
    state: object,
    activation: int,
    reset_after: bool,
    reverse: bool,
    keep: bool,
) -> tuple[Any, ...] | None: ...
def map(function: str, x: np.ndarray) -> np.ndarray: ...
def version() -> str: ...
def isa() -> str: ...
def available_isas() -> list[str]: ...
def set_isa(name: str) -> None: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
