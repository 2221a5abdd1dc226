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
from onnx.reference import ReferenceEvaluator

from tests import precision

# ONNX's own bounds.
RTOL, ATOL = 1e-3, 1e-7
SHORT = ("bfloat16", "float16")
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
    node: ONNX's own.
    opset: of the operator's domain, as `onnx.reference` takes it.
  """

  name: str
  inputs: dict[str, np.ndarray]
  outputs: dict[str, np.ndarray]
  attributes: dict[str, Any]
  node: onnx.NodeProto
  opset: dict[str, int]


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
    opset = {"": onnx.defs.onnx_opset_version(), node.domain: schema.since_version}
    found.append(Case(name.removeprefix("test_"), *given, attributes, node, opset))

  with mock.patch.object(generators, "expect", expect):
    importlib.import_module(f"{generators.__name__}.{MODULES[operator]}")
  return tuple(found)


def check(case: Case, found: dict[str, Any]) -> None:
  """Raises AssertionError if an output is missing or not what is expected.

  One of 16 bits may be as wrong as `tests.precision` allows: ONNX's own output is the
  plain formula's in that type, and what it gives in float32 is the exact one.
  """
  exact = None
  for name, want in case.outputs.items():
    got = np.asarray(found[name])
    assert got.dtype == want.dtype, f"{name} is {got.dtype}, not {want.dtype}"
    if want.dtype.name not in SHORT:
      np.testing.assert_allclose(got, want, RTOL, ATOL, err_msg=name)
      continue
    exact = accumulator_dtype(case) if exact is None else exact
    part = precision.worst(got, exact[name], want)
    assert part <= 1.0, f"{name}: {part} of what it may be wrong"


def accumulator_dtype(case: Case) -> dict[str, np.ndarray]:
  """ONNX's outputs for the inputs as float32."""
  given = [
    x.astype("float32") if x.dtype.name in SHORT else x for x in case.inputs.values()
  ]
  names = dict(zip((n for n in case.node.input if n), given, strict=True))
  run = ReferenceEvaluator(case.node, opsets=case.opset)
  outputs = run.run(None, names)
  named = (x for name, x in zip(case.node.output, outputs) if name)
  return dict(zip(case.outputs, map(np.asarray, named), strict=True))
