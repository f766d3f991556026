"""Compiles all Triton kernels for a GPU (`python -m tests.scene.compile_kernels 90`), without one.

A process of its own: Triton decides at its import whether kernels are interpreted or compiled.
"""

import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from harness.scene import fused_cuda
from harness.toyworld import render_cuda

NUMBERS = dict.fromkeys(("N", "E", "P", "S", "K", "SIDE"), "i32")
NUMBERS |= dict.fromkeys(("bound", "bias", "radius"), "fp32")
KINDS = {"levels_L4": "*i32", "counts_N": "*i32", "out_NHW3": "*u8"}
GRID = {
    "L": 16,
    "F": 2,
    "FP": 2,
    "B": fused_cuda.POINTS,
}  # the paper's field
NETWORK = {"K": 32, "H": 64, "O": 5, "KP": 32, "HP": 64, "B": fused_cuda.BLOCK}
RAYS = {"O": 5, "SP": 64, "B": fused_cuda.RAYS}


def compiled(kernel: Any, constants: dict[str, Any]) -> Any:
    """The kernel as it is launched at the paper's size; arrays are float32 but for what is whole numbers."""
    names = kernel.arg_names
    kinds = KINDS | ({"gtable_REF": "*i64"} if constants.get("WHOLE") else {})
    signature = {
        name: "constexpr" if name in constants else NUMBERS.get(name) or kinds.get(name, "*fp32")
        for name in names
    }
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()})
    return triton.compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32))


if __name__ == "__main__":
    for kernel, constants in (
        (fused_cuda._encode_forward, GRID),
        (fused_cuda._encode_backward, GRID | {"WHOLE": False}),
        (fused_cuda._encode_backward, GRID | {"WHOLE": True}),
        (fused_cuda._network_forward, NETWORK),
        (fused_cuda._network_backward, NETWORK | {"OP": 16}),
        (fused_cuda._composite_forward, RAYS),
        (fused_cuda._composite_backward, RAYS),
        (render_cuda._trace, {"OVER": 2, "B": render_cuda.BLOCK}),
    ):
        print(kernel.fn.__name__, len(compiled(kernel, constants).asm["cubin"]))
