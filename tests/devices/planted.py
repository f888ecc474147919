"""The simulator's self-test: mistakes that a device must refuse, and what must work and give the CPU's numbers.

python -m tests.devices.planted cuda|mps
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from typing import Any

from tests import devices

KIND = sys.argv[1] if __name__ == "__main__" else "cpu"
if __name__ == "__main__":
    devices.install(KIND)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.nn import functional as F  # noqa: E402

TWO = "at least two devices"
HOST = torch.arange(6.0).view(2, 3)

Mistake = tuple[str, Callable[[], Any], type[Exception], str]
"""What it is, the mistake, and the error that a device answers with."""


def mixed(x: torch.Tensor) -> Iterator[Mistake]:
    """Yield operands that lie on the device and off it."""
    zeros = torch.zeros(2, 1, dtype=torch.long)
    calls = {
        "add": lambda: x + HOST,
        "add a sum on the device to the CPU": lambda: HOST + x.sum(),
        "matmul": lambda: x @ HOST.T,
        "linear": lambda: F.linear(x, HOST),
        "cat": lambda: torch.cat([x, HOST]),
        "cat of nothing": lambda: torch.cat([x, torch.empty(0)]),
        "where": lambda: torch.where(HOST > 2, x, x),
        "masked_fill": lambda: x.masked_fill(HOST > 2, 0.0),
        "masked_scatter": lambda: x.masked_scatter(x > 1, HOST),
        "gather": lambda: x.gather(1, zeros),
        "index_copy_": lambda: x.clone().index_copy_(0, torch.tensor([0]), x[:1]),
        "embedding": lambda: F.embedding(torch.tensor([1]), x),
        "values set": lambda: x.clone().__setitem__((torch.tensor([0], device=KIND),), torch.ones(1, 3)),
        "out=": lambda: torch.mm(x, x.T, out=torch.empty(2, 2)),
        "in place": lambda: HOST.clone().add_(x),
        "in place of a number": lambda: torch.tensor(1.0).add_(x.sum()),
        "addmm": lambda: torch.addmm(torch.ones(2), x, x.T),
        "isin": lambda: torch.isin(x, HOST),
        "searchsorted": lambda: torch.searchsorted(x, HOST[:, :1]),
        "equal": lambda: torch.equal(x, HOST),
    }
    for name, call in calls.items():
        yield name, call, RuntimeError, TWO


def others(x: torch.Tensor) -> Iterator[Mistake]:
    """Yield further mistakes of every device."""
    index = torch.tensor([0], device=KIND)
    yield "index of the CPU by the device", lambda: HOST[index], RuntimeError, "indices should be"
    yield "numpy()", lambda: x.detach().numpy(), TypeError, "can't convert"
    yield "np.asarray", lambda: np.asarray(x.detach()), TypeError, "can't convert"
    generator = torch.Generator()
    wrong = "device type for generator"
    yield "CPU generator", lambda: torch.empty(3, device=KIND).normal_(generator=generator), RuntimeError, wrong
    yield "CPU generator, new", lambda: torch.rand(3, device=KIND, generator=generator), RuntimeError, wrong
    query, mask = torch.zeros(1, 1, 1, 8, device=KIND), torch.zeros(1, 1, 1, 1, device=KIND, dtype=torch.bfloat16)
    attention = F.scaled_dot_product_attention
    yield "mask of another dtype", lambda: attention(query, query, query, attn_mask=mask), RuntimeError, "attention of"


def of_mps(x: torch.Tensor) -> Iterator[Mistake]:
    """Yield what MPS alone refuses."""
    calls = {
        "double()": lambda: x.double(),
        "to(float64)": lambda: x.to(torch.float64),
        "zeros in float64": lambda: torch.zeros(2, dtype=torch.float64, device="mps"),
        "float64 from the CPU": lambda: HOST.double().to("mps"),
        "numpy's default": lambda: torch.tensor(np.ones(2), device="mps"),
        "sum in float64": lambda: x.sum(dtype=torch.float64),
    }
    for name, call in calls.items():
        yield name, call, TypeError, "float64"
    yield "no kernel", lambda: torch.geqrf(x), NotImplementedError, "not currently implemented"


def of_cuda(x: torch.Tensor) -> Iterator[Mistake]:
    """Yield what CUDA alone refuses."""
    query, line = torch.zeros(2, 3, 1, 8, device=KIND), torch.zeros(3, 32, device=KIND)

    def attention(begin: int) -> torch.Tensor:
        mask = line[None, :, None, begin : begin + 1]
        return F.scaled_dot_product_attention(query, query, query, attn_mask=mask)

    attention(0), attention(4)
    yield "mask off its alignment", lambda: attention(31), RuntimeError, "misaligned"
    yield "two devices", lambda: x + x.to("cuda:1"), RuntimeError, TWO
    yield "a device that is not there", lambda: x.to("cuda:2"), RuntimeError, "invalid device ordinal"


def must_work(x: torch.Tensor) -> Iterator[tuple[str, Any, Any]]:
    """Yield what is asked, what the device gives, and what the CPU gives."""

    def assigned(values: torch.Tensor) -> torch.Tensor:
        values[0, 1] = 7.0
        values[:, 2] = torch.ones(2, device=values.device)
        values[torch.tensor([1], device=values.device), torch.tensor([0], device=values.device)] = 3
        values[values > 6] = -1
        return values

    yield "0-dim CPU number", x * torch.tensor(2.0), HOST * 2
    yield "Python number", x * 2 + 1, HOST * 2 + 1
    yield "CPU index", x[torch.tensor([1])], HOST[[1]]
    yield "list index", x[[1, 0]], HOST[[1, 0]]
    yield "boolean index", x[x > 2], HOST[HOST > 2]
    yield "copy_ to the CPU", torch.empty(2, 3).copy_(x), HOST
    yield "copy_ to the device", torch.empty(2, 3, device=KIND).copy_(HOST), HOST
    yield "tolist", x.tolist(), HOST.tolist()
    yield "numbers read", (x.sum().item(), bool(x.any()), float(x.max())), (15.0, True, 5.0)
    yield "cpu().numpy()", x.detach().cpu().numpy().tolist(), HOST.tolist()
    yield "values set", assigned(x.clone()), assigned(HOST.clone())
    yield "out=", torch.mm(x, x.T, out=torch.empty(2, 2, device=KIND)), HOST @ HOST.T
    yield "rms_norm", F.rms_norm(x, (3,), torch.ones(3, device=KIND), 1e-6), F.rms_norm(HOST, (3,), torch.ones(3), 1e-6)
    if KIND == "cuda":
        yield "float64", x.double(), HOST.double()


def trained(device: str) -> list[Any]:
    """Return weights and losses of a few optimizer steps."""
    torch.manual_seed(0)
    layers = (torch.nn.Embedding(7, 4), torch.nn.Linear(4, 5), torch.nn.GELU(), torch.nn.Linear(5, 3))
    net = torch.nn.Sequential(*layers).to(device)
    ids, marks = [[1, 2], [3, 4]], [[True, False], [True, True]]
    ids, mask = torch.tensor(ids, device=device), torch.tensor(marks, device=device)
    optimizer = torch.optim.Adam(net.parameters(), fused=True)
    found: list[Any] = []
    for _ in range(3):
        optimizer.zero_grad()
        hidden = net(ids)
        full = hidden.new_zeros(2, 2, 3).masked_scatter(mask[..., None], hidden[mask])
        loss = full.log_softmax(-1).gather(-1, ids[..., None] % 3).sum() + hidden[:, 0].pow(2).mean()
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in net.parameters()])
        torch.nn.utils.clip_grads_with_norm_(net.parameters(), 0.5, norm)
        optimizer.step()
        found += [float(loss.detach()), float(norm)]
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return found + [parameter.detach().cpu().tolist() for parameter in net.parameters()]


def draws_are_the_devices_own() -> None:
    """Check that a draw of the device leaves the CPU's stream alone, and that generators repeat themselves."""
    before = torch.get_rng_state()
    torch.rand(3, device=KIND)
    assert torch.equal(before, torch.get_rng_state())
    one, other = (torch.rand(3, device=KIND, generator=torch.Generator(KIND).manual_seed(3)).cpu() for _ in range(2))
    assert torch.equal(one, other)


def tied_weights_stay_tied() -> None:
    """Check that a parameter that two modules share is the same object after a move."""
    both = torch.nn.ModuleList([torch.nn.Linear(3, 3, bias=False) for _ in range(2)])
    kept = both[0].weight = both[1].weight
    both.to(KIND)
    assert both[0].weight is both[1].weight is kept and kept.device.type == KIND


def main() -> None:
    """Run all; raise at the first that does not come out as it must."""
    x = HOST.to(KIND)
    assert str(x.device) == f"{KIND}:0" and x.is_cuda == (KIND == "cuda")
    refused = worked = 0
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            for title, call, kind, text in (*mixed(x), *others(x), *(of_mps if KIND == "mps" else of_cuda)(x)):
                try:
                    call()
                except kind as error:
                    assert text in str(error), f"{title}: {error}"
                    refused += 1
                else:
                    raise AssertionError(f"not refused: {title}")
            for title, found, expected in must_work(x):
                found = found.cpu() if isinstance(found, torch.Tensor) else found
                same = torch.equal(found, expected) if isinstance(expected, torch.Tensor) else found == expected
                assert same, f"{title}: {found}, not {expected}"
                worked += 1
    assert trained(KIND) == trained("cpu"), "training differs from the CPU's"
    draws_are_the_devices_own()
    tied_weights_stay_tied()
    print(f"{refused} planted mistakes refused, {worked + 3} things that must work do ({KIND})")
    devices.leave()


if __name__ == "__main__":
    main()
