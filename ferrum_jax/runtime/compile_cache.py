"""Programs that are kept for the next process: jax's persistent compilation cache."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import sys
import tempfile
import warnings
from pathlib import Path

import jax

logger = logging.getLogger(__name__)

KEPT_FROM = 0.1
"""Seconds of compilation from which on a program is kept; a setting other than jax's own stays."""
JAX_KEEPS_FROM = 1.0


def cache_is_sound() -> bool:
    """Whether this jax reads programs back from its compilation cache as it wrote them."""
    return jax.__version_info__ >= (0, 6)


def use_compile_cache(setting: str | None) -> None:
    """Keep compiled programs as `EngineConfig.compile_cache_dir` says.

    `auto` is the user's cache folder, unless jax has been given a folder; where that cannot be
    used, programs are compiled anew each time, and the log says why. For a folder that was asked
    for it is a warning. jax before 0.6 keeps none: with 0.5.0 on a CPU, programs that were read
    back crashed or computed something else. A file that is damaged is compiled anew by jax itself.
    """
    if setting is None:
        return
    if setting == "auto":
        is_set = getattr(jax.config, "jax_compilation_cache_dir", None) is not None
        if not is_set and (problem := _use(default_folder())):
            logger.info("compiled programs are not kept: %s", problem)
    elif problem := _use(Path(setting).expanduser()):
        warnings.warn(f"compile_cache_dir is not used: {problem}", stacklevel=3)


def default_folder() -> Path:
    """The user's cache folder for this jax on this processor: its programs run on no other."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    processor = hashlib.sha256(_processor().encode()).hexdigest()[:8]
    return base / "ferrum_jax" / f"jax-{jax.__version__}-{processor}"


def _use(path: Path) -> str | None:
    """Keep programs in a folder; what is in the way of it, if anything."""
    if not cache_is_sound():
        return (
            f"jax {jax.__version__} does not read its programs back as it wrote them; jax 0.10.2 "
            "does"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except (OSError, RuntimeError) as error:
        return f"{path} cannot be written: {error}"
    jax.config.update("jax_compilation_cache_dir", str(path))
    if getattr(jax.config, "jax_persistent_cache_min_compile_time_secs", None) == JAX_KEEPS_FROM:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", KEPT_FROM)
    return None


def _processor() -> str:
    """What a CPU's programs are compiled for."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    known = ("flags", "Features", "model name")
    wanted = {line for line in lines if line.startswith(known)}
    return f"{platform.machine()} {sorted(wanted)}"
