"""Small matrices as compressed-tensors stores them, and as it reads them back.

Writes `compressed.safetensors`: of each case its parts, and `CASE.meant` in float32. It needs torch
and compressed-tensors, which the tests do not:

    python tests/models/make_compressed_reference.py
"""

from pathlib import Path

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from safetensors.torch import save_file

ROWS, COLUMNS = 20, 64
INT = {"type": "int", "symmetric": True}
FLOAT = {"type": "float", "symmetric": True}
GROUP = {"strategy": "group", "group_size": 16}
CASES = {
    "int4_groups": ("pack-quantized", INT | GROUP | {"num_bits": 4}),
    "int4_zeros": ("pack-quantized", INT | GROUP | {"num_bits": 4, "symmetric": False}),
    "int3_groups": ("pack-quantized", INT | GROUP | {"num_bits": 3}),
    "int3_zeros": ("pack-quantized", INT | GROUP | {"num_bits": 3, "symmetric": False}),
    "int8_packed": ("pack-quantized", INT | {"num_bits": 8, "strategy": "channel"}),
    "int8_rows": ("int-quantized", INT | {"num_bits": 8, "strategy": "channel"}),
    "int8_zeros": (
        "naive-quantized",
        INT | {"num_bits": 8, "strategy": "channel", "symmetric": False},
    ),
    "fp8_tensor": ("float-quantized", FLOAT | {"num_bits": 8, "strategy": "tensor"}),
    "fp8_rows": ("float-quantized", FLOAT | {"num_bits": 8, "strategy": "channel"}),
    "fp8_blocks": (
        "float-quantized",
        FLOAT | {"num_bits": 8, "strategy": "block", "block_structure": [10, 32]},
    ),
    "nvfp4": (
        "nvfp4-pack-quantized",
        FLOAT | {"num_bits": 4, "strategy": "tensor_group", "group_size": 16},
    ),
    "mxfp4": (
        "mxfp4-pack-quantized",
        FLOAT | {"num_bits": 4, "strategy": "group", "group_size": 32, "scale_dtype": torch.uint8},
    ),
    "mxfp8": (
        "mxfp8-quantized",
        FLOAT | {"num_bits": 8, "strategy": "group", "group_size": 32, "scale_dtype": torch.uint8},
    ),
}


def ranges(weight: torch.Tensor, args: QuantizationArgs):
    """The least and largest weight of whatever shares a scale."""
    if args.strategy == "tensor":
        return weight.min().reshape(1), weight.max().reshape(1)
    if args.strategy == "channel":
        return weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    if args.strategy == "block":
        rows, columns = args.block_structure
        tiles = weight.reshape(ROWS // rows, rows, COLUMNS // columns, columns)
        return tiles.amin((1, 3)), tiles.amax((1, 3))
    tiles = weight.reshape(ROWS, -1, args.group_size)
    return tiles.amin(2), tiles.amax(2)


def parts_of(stored: str, settings: dict) -> dict[str, torch.Tensor]:
    args = QuantizationArgs(**settings)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    weight = torch.randn(ROWS, COLUMNS)
    given = {"weight": weight}
    least, largest = ranges(weight, args)
    if args.strategy == "tensor_group":
        given["weight_global_scale"] = generate_gparam(weight.min(), weight.max()).reshape(1)
    scale, zero = calculate_qparams(least, largest, args, given.get("weight_global_scale"))
    given["weight_scale"] = scale
    if not args.symmetric:
        given["weight_zero_point"] = zero
    kind = BaseCompressor.get_value_from_registry(stored)
    compressed = kind.compress(given, scheme)
    meant = kind.decompress(compressed, scheme)["weight"]
    return {**compressed, "meant": meant.float()}


def main() -> None:
    torch.manual_seed(0)
    tensors = {
        f"{case}.{name}": value.contiguous()
        for case, (stored, settings) in CASES.items()
        for name, value in parts_of(stored, settings).items()
    }
    save_file(tensors, Path(__file__).with_name("compressed.safetensors"))


if __name__ == "__main__":
    main()
