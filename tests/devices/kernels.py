"""Which operators have a kernel on a device: what torch's own table, `native_functions.yaml`, says."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
import torchgen
import yaml

_PARTS = frozenset(("CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional"))

# Operators that are nothing but their parts, and are run as these. Others of the kind are run whole.
AS_PARTS = frozenset(
    """_foreach_add _foreach_add_ _foreach_addcdiv_ _foreach_addcmul_ _foreach_div_ _foreach_lerp_ _foreach_mul
    _foreach_mul_ _foreach_norm _foreach_sqrt _safe_softmax arange block_diag constant_pad_nd count_nonzero
    diagonal_backward dot embedding embedding_backward eye full full_like gelu_backward index_add index_copy index_fill
    index_put index_select_backward isclose isin linalg_vecdot linspace logsumexp masked_fill masked_scatter
    masked_select_backward mv nan_to_num new_full new_ones new_zeros ones ones_like repeat rsub scatter_add
    select_backward slice_backward stack std sum_to_size tril_indices trace_backward unbind_copy unfold_backward
    value_selecting_reduction_backward var vdot zeros zeros_like""".split()
)
# Operators that launch nothing, beside views.
_FREE = frozenset(
    """_local_scalar_dense _reshape_alias _unsafe_view detach_ empty empty_like empty_strided is_pinned lift lift_fresh
    new_empty new_empty_strided resize_ set_""".split()
)
# Operators that take a 0-dim CPU tensor for a number, beside pointwise ones.
_TAKE_NUMBERS = frozenset(
    """_amp_foreach_non_finite_check_and_unscale_ _fused_adam_ _fused_adamw_ addcdiv addcmul clamp copy fill fill_
    index_fill index_fill_ lerp masked_fill masked_fill_ pow where""".split()
)
_INDEX = frozenset("_index_put_impl_ _unsafe_index _unsafe_index_put index index_put index_put_".split())
MAKE_LIKE = frozenset(
    """empty_like full_like new_empty new_empty_strided new_full new_ones new_zeros ones_like rand_like randn_like
    zeros_like""".split()
)


@functools.cache
def table(key: str) -> dict[str, str]:
    """Return what torch has for each operator on CUDA or MPS: `own`, `implicit` or `explicit` parts, or `none`."""
    source = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    entries = {}
    for entry in yaml.load(source.read_text(), loader):  # noqa: S506 (a safe loader, in C where there is one)
        keys = {key.strip() for group in entry.get("dispatch", {}) for key in group.split(",")}
        entries[entry["func"].split("(")[0]] = keys, entry.get("structured_delegate"), "dispatch" in entry
    found = {}
    for name, (keys, delegate, has) in entries.items():
        keys = keys | entries[delegate][0] if delegate else keys
        if key in keys:
            found[name] = "own"
        elif "CompositeImplicitAutograd" in keys or not (has or delegate):
            found[name] = "implicit"
        else:
            found[name] = "explicit" if keys & _PARTS else "none"
    return found


class Operator:
    """What matters of one overload of an operator.

    Attributes:
        short: such as `add.Tensor`; `name` is `add`.
        implicit: it is run as its parts below autograd.
        explicit: the dispatch key under which its parts are found, or None.
        writes: names of the arguments that it changes.
        takes_numbers: a 0-dim CPU tensor may stand for a number.
        kernel: as in `table`, or `unknown`.
    """

    def __init__(self, function: Any, key: str):
        schema, full = function._schema, function.name()
        self.short = full.removeprefix("aten::")
        self.name = self.short.split(".")[0]

        def has(key: str) -> bool:
            return torch._C._dispatch_has_kernel_for_dispatch_key(full, key)

        self.implicit = has("CompositeImplicitAutograd")
        self.explicit = next(filter(has, sorted(_PARTS)), None)
        returned = [item.alias_info for item in schema.returns]
        self.view = any(alias is not None and not alias.is_write for alias in returned)
        self.arguments = [argument.name for argument in schema.arguments]
        self.writes = {item.name for item in schema.arguments if item.alias_info and item.alias_info.is_write}
        self.draws = torch.Tag.nondeterministic_seeded in function.tags
        self.size_unknown = torch.Tag.dynamic_output_shape in function.tags
        self.kernel = table(key).get(self.short, "unknown")
        self.free = self.view or self.name in _FREE
        pointwise = torch.Tag.pointwise in function.tags
        self.takes_numbers = pointwise or self.name in _TAKE_NUMBERS or self.name.startswith("_foreach_")
        self.indexing = self.name in _INDEX
        runs_as_parts = self.explicit is not None and self.kernel in ("explicit", "unknown") and not self.view
        self.as_parts = runs_as_parts and self.name in AS_PARTS
