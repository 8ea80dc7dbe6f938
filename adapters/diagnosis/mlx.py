"""The device of MLX, read in a process of its own: a broken installation may end the process.

    python -m adapters.diagnosis.mlx

prints one line of JSON: a `Device`.
"""

# pyright: basic
import asyncio
import sys
from asyncio.subprocess import PIPE

import msgspec
from msgspec import Struct

_SECONDS = 60.0


class Device(Struct, frozen=True):
    kind: str
    """`Metal`, `CUDA` or `CPU`."""
    name: str
    mlx: str
    mlx_lm: str
    recommended_bytes: int | None
    """Memory that a Mac's GPU recommends for all programs."""


async def find_device() -> Device | str:
    """Read the device; a sentence where MLX cannot be used, with the reason."""
    command = ("-P", "-m", "adapters.diagnosis.mlx")
    child = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=PIPE, stderr=PIPE)
    try:
        async with asyncio.timeout(_SECONDS):
            output, errors = await child.communicate()
    except TimeoutError:
        child.kill()
        await child.wait()
        return f"MLX did not start within {_SECONDS:g} s."
    if child.returncode == 0:
        return msgspec.json.decode(output, type=Device)
    lines = errors.decode(errors="replace").strip().splitlines()
    reason = lines[-1] if lines else f"exit status {child.returncode}"
    return f"MLX cannot be used: {reason}"


def _read() -> Device:
    from importlib.metadata import version

    import mlx.core as mx

    info = mx.device_info()
    is_gpu = mx.default_device() == mx.Device(mx.gpu)
    recommended = info.get("max_recommended_working_set_size")
    gpu = "Metal" if mx.metal.is_available() else "CUDA"
    return Device(
        kind=gpu if is_gpu else "CPU",
        name=str(info.get("device_name") or info.get("architecture") or "unknown"),
        mlx=version("mlx"),
        mlx_lm=version("mlx-lm"),
        recommended_bytes=int(recommended) if recommended is not None else None,
    )


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(_read()))
