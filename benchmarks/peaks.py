"""What one core reaches in a large matrix product of each precision: the ceilings that `benchmarks.engine` divides by.

Each product is done by torch (oneDNN or MKL) and, in floating point, by OpenVINO as a model of one layer; the ceiling
is the faster one, so that no engine looks better than it is for a slow ceiling. In int8 torch's product of int8 with
int32 sums reached 437 GOP/s where OpenVINO's quantised layer reached 392, its conversion of inputs and outputs among
it, and torch's own quantised layer 437.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pipelines.backends.openvino import inference_type
from pipelines.errors import BadConfig

SIZE, TRIES = 1536, 10


def best(product: Callable[[], Any], *, size: int = SIZE, tries: int = TRIES) -> float:
    """Thousand million operations (two a multiplication and its sum) per CPU-second of a product of two squares of
    `size`: of the fastest of so many tries, after one that does not count."""
    product()
    taken = []
    for _ in range(tries):
        started = time.process_time()
        product()
        taken.append(time.process_time() - started)
    return float(2 * size**3 / max(min(taken), 1e-9) / 1e9)


def _openvino(a: np.ndarray, b: np.ndarray, kind: str) -> Callable[[], Any]:
    """A compiled model whose one layer multiplies its input by `b`, in OpenVINO's type `kind`, on one thread."""
    import openvino
    from openvino import opset13

    given = opset13.parameter(list(a.shape), np.float32)
    model = openvino.Model([opset13.matmul(given, opset13.constant(b), False, False)], [given])
    options = {"INFERENCE_PRECISION_HINT": kind, "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    compiled = openvino.Core().compile_model(model, "CPU", {**options, "ENABLE_CPU_PINNING": False})
    request = compiled.create_infer_request()
    return lambda: request.infer([a], share_inputs=True)


def peaks() -> dict[str, tuple[float, str]]:
    """Precision -> (GFLOP or GOP per CPU-second of one thread, by what). bf16 is left out on a CPU that does not
    multiply it natively."""
    import torch

    torch.set_num_threads(1)
    a, b = torch.rand(2, SIZE, SIZE)
    small, other = (torch.randint(-64, 64, (SIZE, SIZE), dtype=torch.int8) for _ in range(2))
    halves = a.bfloat16(), b.bfloat16()
    products: dict[str, dict[str, Callable[[], Any]]] = {
        "fp32": {"torch": lambda: a @ b, "OpenVINO": _openvino(a.numpy(), b.numpy(), "f32")},
        "bf16": {"torch": lambda: halves[0] @ halves[1], "OpenVINO": _openvino(a.numpy(), b.numpy(), "bf16")},
        # Private, but torch offers no other product of int8 that is not deprecated.
        "int8": {"torch": lambda: torch._int_mm(small, other)},
    }
    try:
        inference_type("bf16")
    except BadConfig:
        del products["bf16"]
    return {precision: max((best(product), by) for by, product in ways.items()) for precision, ways in products.items()}
