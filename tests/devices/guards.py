"""Building and loading the C++ part of the simulator; before torch is imported."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("guards.cpp")


def compiler() -> str | None:
    """Return a C++ compiler of this machine, or None."""
    wanted = (os.environ.get("CXX"), "g++", "clang++", "c++")
    return next((path for name in wanted if name and (path := shutil.which(name))), None)


def missing() -> str | None:
    """Return what keeps a device from being simulated on this machine, or None."""
    if not (_torch() / "lib" / "libtorch_cpu.so").exists():
        return "devices can't be simulated: only torch for Linux leaves room for one"
    if any((_torch() / "lib").glob("libc10_*.so")):
        return "devices can't be simulated: this torch has a kind of its own; its build for CPUs leaves room for one"
    if compiler() is None:
        return "devices can't be simulated: no C++ compiler (g++, clang++ or c++) was found"
    return None


def _torch() -> Path:
    """Return where torch is, which must not be imported yet."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise RuntimeError("torch is not installed")
    return Path(spec.origin).parent


def build() -> Path:
    """Return the library, built at the first call for this source and this torch.

    Raises:
        RuntimeError: it does not compile.
    """
    torch, version = _torch(), importlib.metadata.version("torch")
    digest = hashlib.blake2b(SOURCE.read_bytes() + f"{version} {torch}".encode(), digest_size=8).hexdigest()
    library = Path(tempfile.gettempdir()) / f"simulated-device-{os.getuid()}-{digest}.so"
    if not library.exists():
        draft = library.with_suffix(f".{os.getpid()}")
        flags = ["-O1", "-std=c++20", "-fPIC", "-shared", f"-I{torch}/include", str(SOURCE), "-o", str(draft)]
        command = [str(compiler()), *flags, f"-L{torch}/lib", "-lc10", "-ltorch_cpu"]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            raise RuntimeError(f"{SOURCE.name} does not compile:\n{made.stderr}")
        draft.replace(library)  # whole or not at all, whoever builds it at the same time
    return library


def load(kind: str) -> None:
    """Put guards and hooks in place, with a device of `kind` (cuda or mps) there."""
    os.environ["SIMULATED_DEVICE"] = kind
    library = build()
    libraries = _torch() / "lib"
    ctypes.CDLL(str(libraries / "libtorch_global_deps.so"), mode=ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(libraries / "libtorch_cpu.so"))
    ctypes.CDLL(str(library))
