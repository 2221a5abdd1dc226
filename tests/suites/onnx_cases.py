"""The cases that ONNX generates for its operators, with their expected outputs.

The package holds the generators, which call `expect` once a case.
"""

import dataclasses
import functools
import importlib
from typing import Any
from unittest import mock

import numpy as np
import onnx
from onnx.backend.test.case import node as generators

# ONNX's own bounds.
RTOL, ATOL = 1e-3, 1e-7
MODULES = {
  "Attention": "attention",
  "FlexAttention": "flexattention",
  "LinearAttention": "linear_attention",
  "RotaryEmbedding": "rotaryembedding",
  "CausalConvWithState": "causal_conv_with_state",
}


@dataclasses.dataclass(frozen=True)
class Case:
  """One call of an operator.

  Attributes:
    name: ONNX's, without "test_".
    inputs: by the names that the operator's schema has.
    outputs: what is expected, by the schema's names.
    attributes: numbers, strings and graphs.
  """

  name: str
  inputs: dict[str, np.ndarray]
  outputs: dict[str, np.ndarray]
  attributes: dict[str, Any]


@functools.cache
def cases(operator: str) -> tuple[Case, ...]:
  """All cases of an operator; those expanded to smaller operators are not made."""
  found = []

  def expect(node, inputs, outputs, name, **_):
    schema = onnx.defs.get_schema(node.op_type, domain=node.domain)
    given = []
    for used, known, values in (
      (node.input, schema.inputs, inputs),
      (node.output, schema.outputs, outputs),
    ):
      names = [formal.name for name, formal in zip(used, known) if name]
      given.append(dict(zip(names, map(np.asarray, values), strict=True)))
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    found.append(Case(name.removeprefix("test_"), *given, attributes))

  with mock.patch.object(generators, "expect", expect):
    importlib.import_module(f"{generators.__name__}.{MODULES[operator]}")
  return tuple(found)


def check(case: Case, found: dict[str, Any]) -> None:
  """Raises AssertionError if an output is missing or not what is expected."""
  for name, want in case.outputs.items():
    got = np.asarray(found[name])
    assert got.dtype == want.dtype, f"{name} is {got.dtype}, not {want.dtype}"
    # ONNX rounds each step to a 16-bit type: two units in the last place.
    bound = {"bfloat16": 2**-6, "float16": 2**-9}.get(want.dtype.name, RTOL)
    np.testing.assert_allclose(
      got.astype("float64"), want.astype("float64"), bound, ATOL, err_msg=name
    )
