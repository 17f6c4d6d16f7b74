"""Peak memory of a pass over all tensors stays near the size of what is kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[3]
LOADER = """
import sys
from pathlib import Path
import numpy as np
from ferrum_jax.models.weights import open_checkpoint

def peak():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])

before = peak()
source = open_checkpoint(Path(sys.argv[1]))
opened = peak()
kept = {}
for name in source.names():
    view = source.read(name)
    kept[name] = (view.T if sys.argv[2] == "transposed" else view).astype(np.float32)
    del view
weights = sum(array.nbytes for array in kept.values())
assert weights == 2 * source.nbytes
print(opened - before, peak() - before, weights, source.max_file_bytes)
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from safetensors.numpy import save_file

    directory = tmp_path_factory.mktemp("large")
    tensor = np.ones((1024, 2048), ml_dtypes.bfloat16)  # 4 MiB
    files = [f"model-{i}-of-5.safetensors" for i in range(1, 6)]
    for file in files:
        save_file({f"{file}.{i}": tensor for i in range(6)}, directory / file)
    weight_map = ",".join(f'"{file}.{i}": "{file}"' for file in files for i in range(6))
    (directory / "model.safetensors.index.json").write_text(f'{{"weight_map": {{{weight_map}}}}}')
    return directory


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="VmHWM is Linux's")
@pytest.mark.parametrize("how", ["as stored", "transposed"])
def test_casting_a_checkpoint_tensor_by_tensor(checkpoint, how):
    # VmHWM and not ru_maxrss: the latter starts from the peak of the process that forked.
    command = [sys.executable, "-c", LOADER, str(checkpoint), how]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    opened, peak, weights, largest_file = map(int, run.stdout.split())
    assert weights > 200e6
    assert opened < 4e6, "opening reads headers only"
    assert peak < 1.3 * max(weights, largest_file)
    # Tighter than the loader's bound: the file's own pages, half of the weights, are not in it.
    assert peak < 1.15 * weights
