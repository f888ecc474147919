"""Devices: which one is taken, what lack of memory looks like on each, and that a run goes on as it began."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
import torch

import config
from detox.model import devices
from detox.ppo import resume
from detox.stage import lack_of_memory
from detox.stage.errors import UserError


@pytest.fixture
def gpu(monkeypatch):
    """Let torch say that there is one CUDA device, and no other accelerator."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)


@pytest.fixture
def none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_without_an_accelerator_there_is_the_cpu(none):
    assert devices.choose("auto") == devices.choose("cpu") == torch.device("cpu")
    for name in ("cuda", "mps", "cuda:1", "tpu"):
        with pytest.raises(UserError, match=f"--device={name}: "):
            devices.choose(name)


def test_an_accelerator_is_taken_by_itself(gpu, monkeypatch):
    assert devices.choose("auto").type == "cuda" and devices.choose("cuda:0").index == 0
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(UserError, match="it has cpu, mps, cuda:0"):
        devices.choose("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.choose("auto").type == "mps"
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.choose("cuda") == torch.device("cuda:0"), "each process takes its own"


def test_libraries_are_told_which_device_is_taken(monkeypatch):
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "cuda:5")
    devices.take("cpu")
    assert os.environ["ACCELERATE_TORCH_DEVICE"] == "cpu"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB, other allocations: 1.00 GB)."),
        RuntimeError("Invalid buffer size: 24.00 GB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:75] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        MemoryError(),
    ],
)
def test_lack_of_memory_is_known_on_every_device(error):
    assert lack_of_memory.is_out_of_memory(error)
    with pytest.raises(UserError, match="out of memory: lower --x"):
        with lack_of_memory.told("lower --x"):
            raise error


def test_another_error_is_not_taken_for_lack_of_memory():
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory")):
        assert not lack_of_memory.is_out_of_memory(error)
        with pytest.raises(type(error), match=str(error)):
            with lack_of_memory.told("lower --x"):
                raise error


# --- going on ---


def begun(folder, **ran_on):
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps({"ran_on": ran_on} if ran_on else {}))
    return folder


def test_what_auto_came_to_is_kept(tmp_path, gpu):
    folder = begun(tmp_path / "step-0002", device="cpu", dtype="bfloat16", engine="packed", threads=3)
    settled = resume.as_begun(config.PPOTraining(), folder)
    assert (settled.device, settled.dtype, settled.engine, settled.threads) == ("cpu", "bfloat16", "packed", 3)
    named = replace(config.PPOTraining(), device="cuda", threads=1)
    settled = resume.as_begun(named, folder)
    assert (settled.device, settled.dtype, settled.engine, settled.threads) == ("cuda", "bfloat16", "packed", 1)
    assert resume.as_begun(named, folder, sharded=True).engine == "auto"


def test_a_device_that_is_gone_is_replaced_and_that_is_said(tmp_path, none, capsys):
    folder = begun(tmp_path / "step-0002", device="cuda:1", dtype="bfloat16", engine="packed", threads=1)
    settled = resume.as_begun(config.PPOTraining(), folder)
    assert (settled.device, settled.dtype, settled.engine) == ("auto", "bfloat16", "packed")
    assert "began on cuda:1, which is not on this machine" in capsys.readouterr().err


def test_several_processes_go_on_on_a_device_each(tmp_path, gpu, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    folder = begun(tmp_path / "step-0002", device="cuda:0", dtype="bfloat16", engine="packed", threads=1)
    assert resume.as_begun(config.PPOTraining(), folder).device == "cuda"


def test_a_run_that_begins_or_does_not_say_keeps_its_settings(tmp_path):
    settings = config.PPOTraining()
    assert resume.as_begun(settings, None) == settings
    assert resume.as_begun(settings, begun(tmp_path / "step-0001")) == settings


def test_what_no_run_leaves_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not say on what device"):
        resume.as_begun(config.PPOTraining(), begun(tmp_path / "step-0002", dtype="float32"))
