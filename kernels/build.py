#!/usr/bin/env python3
"""Compiles kernels/*.cu to the PTX that the repository embeds (kernels/ptx/), with a pinned NVRTC; needs no GPU.

    kernels/build.py            write kernels/ptx/*.ptx
    kernels/build.py --check    compile, compare with what is checked in, exit 1 where they differ
    kernels/build.py --report   also assemble each variant and print registers, shared memory and spills of every kernel

The compiler comes from PyPI (versions below) into target/nvrtc, or into $SOAKD_NVRTC_VENV. PTX depends on the compiler's version and
its arguments alone, so that the comparison is byte for byte.
"""
import argparse
import ctypes
import glob
import os
import re
import subprocess
import sys

PINS = {"nvidia-cuda-nvrtc-cu12": "12.4.127", "nvidia-cuda-runtime-cu12": "12.4.127", "nvidia-cuda-nvcc-cu12": "12.4.131"}
# Which file is compiled for which virtual architecture. compute_75 is the baseline that every driver we support can finish;
# compute_90a has what chips of capability 9.0 alone can do.
UNITS = [("plain", "compute_75"), ("pack", "compute_75"), ("step", "compute_90"), ("step", "compute_90a")]
HERE = os.path.dirname(os.path.abspath(__file__))
HOME = os.environ.get("SOAKD_NVRTC_VENV") or os.path.join(HERE, "..", "target", "nvrtc")


def site() -> str:
    """The folder that holds the pinned packages, installing them first where they are missing."""
    stamp = os.path.join(HOME, "pins-" + "-".join(PINS.values()))
    if not os.path.exists(stamp):
        subprocess.check_call([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore", "--no-deps", "--target", HOME]
                              + [f"{name}=={version}" for name, version in PINS.items()])
        open(stamp, "w").close()
    return os.path.join(HOME, "nvidia")


class Nvrtc:
    def __init__(self, root: str):
        lib = os.path.join(root, "cuda_nvrtc", "lib")
        for name in sorted(glob.glob(os.path.join(lib, "libnvrtc-builtins.so*"))):
            ctypes.CDLL(name, ctypes.RTLD_GLOBAL)
        self.lib = ctypes.CDLL(os.path.join(lib, "libnvrtc.so.12"))
        self.lib.nvrtcGetErrorString.restype = ctypes.c_char_p
        self.include = os.path.join(root, "cuda_runtime", "include")

    def call(self, name: str, *args) -> None:
        code = getattr(self.lib, name)(*args)
        if code:
            raise RuntimeError(f"{name}: {self.lib.nvrtcGetErrorString(code).decode()}")

    def text(self, program, what: str) -> str:
        size = ctypes.c_size_t()
        self.call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self.call(f"nvrtcGet{what}", program, buffer)
        return buffer.value.decode()

    def compile(self, unit: str, arch: str) -> str:
        program = ctypes.c_void_p()
        with open(os.path.join(HERE, unit + ".cu"), "rb") as f:
            source = f.read()
        self.call("nvrtcCreateProgram", ctypes.byref(program), source, (unit + ".cu").encode(), 0, None, None)
        options = [f"--gpu-architecture={arch}", "--std=c++17", f"-I{HERE}", f"-I{self.include}", "-default-device"]
        argv = (ctypes.c_char_p * len(options))(*[o.encode() for o in options])
        try:
            self.call("nvrtcCompileProgram", program, len(options), argv)
        except RuntimeError:
            print(self.text(program, "ProgramLog"), file=sys.stderr)
            raise
        log = self.text(program, "ProgramLog").strip()
        if log:
            print(log, file=sys.stderr)
        return self.text(program, "PTX")


def report(root: str, path: str, arch: str) -> None:
    """What ptxas says of every kernel, one line each. Spills in a hot kernel are a bug."""
    sm = arch.replace("compute_", "sm_")
    done = subprocess.run([os.path.join(root, "cuda_nvcc", "bin", "ptxas"), "-v", f"-arch={sm}", path, "-o", os.devnull], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    name = spills = ""
    for line in done.stderr.splitlines():
        if m := re.search(r"Compiling entry function '(\w+)'", line):
            name = m[1]
        elif m := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spills = f"stack {m[1]} B, spills {m[2]}/{m[3]} B"
        elif m := re.search(r"Used (\d+) registers", line):
            print(f"  {sm} {name:<24} {m[1]:>3} registers, {spills}")


def main() -> int:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--check", action="store_true", help="compare with the checked-in PTX instead of writing it")
    args.add_argument("--report", action="store_true", help="print registers and spills")
    args = args.parse_args()
    root = site()
    nvrtc = Nvrtc(root)
    os.makedirs(os.path.join(HERE, "ptx"), exist_ok=True)
    stale = []
    for unit, arch in UNITS:
        if not os.path.exists(os.path.join(HERE, unit + ".cu")):
            continue
        ptx = nvrtc.compile(unit, arch)
        path = os.path.join(HERE, "ptx", f"{unit}.{arch}.ptx")
        if args.check:
            with open(path) as f:
                if f.read() != ptx:
                    stale.append(path)
        else:
            with open(path, "w") as f:
                f.write(ptx)
        if args.report:
            report(root, path, arch)
    for path in stale:
        print(f"{os.path.relpath(path)} is not what the sources give: run kernels/build.py and commit the result", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
