"""Checks of one machine: packages, compiler, GPUs, shared memory."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lumiray.doctor.finding import FAIL, NOTE, OK, Finding

SHOWN = ("ray", "torch", "deepspeed", "open_clip_torch")
SHARED_MEMORY = "/dev/shm"
GIB = 1 << 30
FLAGS = ("-shared", "-fPIC", "-fopenmp")
PROGRAM = "#include <Python.h>\n#include <omp.h>\nint lumiray() { return omp_get_max_threads(); }\n"


def versions() -> Finding:
    """Every dependency is there, in a version that the tests ran with."""
    wrong, shown = [], []
    for requirement in map(Requirement, requirements()):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} is {version}, wanted {requirement.specifier}")
        if canonicalize_name(requirement.name).replace("-", "_") in SHOWN:
            shown.append(f"{requirement.name} {version}")
    if wrong:
        return Finding("versions", FAIL, "; ".join(wrong), "make env, or pip install the versions that are named")
    return Finding("versions", OK, ", ".join([f"python {sys.version.split()[0]}", *shown]))


def requirements() -> list[str]:
    """What lumiray depends on: as installed, or as the project's file says where it runs from a folder."""
    project = Path(__file__).resolve().parents[3] / "pyproject.toml"
    if project.exists():
        with open(project, "rb") as file:
            return list(tomllib.load(file)["project"]["dependencies"])
    return importlib.metadata.requires("lumiray") or []


def compiler() -> Finding:
    """What builds extensions at their first use: DeepSpeed's optimizer for offload, and torch.compile."""
    cxx = os.environ.get("CXX", "c++")
    needed = "; only --engine.offload-optimizer and --engine.compile need it"
    if shutil.which(cxx) is None:
        return Finding("compiler", NOTE, f"there is no {cxx} on the path{needed}", "apt-get install g++")
    if shutil.which("ninja") is None:
        beside = Path(sys.executable).with_name("ninja")
        if beside.exists():
            words = f"ninja is in {beside.parent}, which is not on the path{needed}"
            return Finding("compiler", NOTE, words, f"export PATH={beside.parent}:$PATH")
        return Finding("compiler", NOTE, f"there is no ninja on the path{needed}", "pip install ninja")
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [cxx, "-x", "c++", "-", *FLAGS, f"-I{sysconfig.get_path('include')}", "-o", f"{folder}/tried.so"],
            input=PROGRAM,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        end = done.stderr.strip()[-200:] or f"it ended with code {done.returncode}"
        line = next((line for line in done.stderr.splitlines() if "error" in line), end)
        words = f"{cxx} does not build an extension of Python: {line.strip()}{needed}"
        mend = "apt-get install python3-dev" if "Python.h" in line else "apt-get install g++ libgomp1"
        return Finding("compiler", NOTE, words, mend)
    return Finding("compiler", OK, f"{shutil.which(cxx)} and {shutil.which('ninja')} build an extension of Python")


def gpus() -> Finding:
    """GPUs that torch can use, and what the workers talk over."""
    import torch
    import torch.distributed as dist

    if not torch.cuda.is_available():
        if os.path.exists("/dev/nvidia0"):
            mend = "install the NVIDIA driver that torch's CUDA asks for, and start containers with --gpus all"
            return Finding("gpus", FAIL, f"a GPU is there and torch {torch.__version__} cannot use it", mend)
        if not dist.is_gloo_available():
            return Finding("gpus", FAIL, "none, and this torch has no gloo", "install torch from PyPI")
        return Finding("gpus", NOTE, "none on this machine: it trains on its cores, workers talk over gloo")
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    if not dist.is_nccl_available():
        return Finding(
            "gpus", FAIL, f"{len(names)} x {names[0]}, and this torch has no NCCL", "install torch from PyPI"
        )
    nccl = ".".join(map(str, torch.cuda.nccl.version()))
    bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16: use --precision fp16"
    return Finding("gpus", OK, f"{len(names)} x {names[0]}, {bf16}, CUDA {torch.version.cuda}, NCCL {nccl}")


def shared_memory() -> Finding:
    """Ray keeps decoded pictures in shared memory; without enough of it they go to disk."""
    if not os.path.isdir(SHARED_MEMORY):
        return Finding("shared memory", NOTE, f"there is no {SHARED_MEMORY}: Ray uses a slower folder on disk")
    total, _, free = shutil.disk_usage(SHARED_MEMORY)
    words = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free in {SHARED_MEMORY}"
    if free < 2 * GIB:
        return Finding("shared memory", NOTE, words, "give containers more: docker run --shm-size=8g")
    return Finding("shared memory", OK, words)
