"""ONNX's FlexAttention, LinearAttention, RotaryEmbedding and CausalConvWithState."""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
import jax
import numpy as np
from absl.testing import absltest, parameterized

from attnjax import attention
from tests import conformance
from tests.suites import onnx_cases, onnx_convolution, onnx_flex, onnx_operators

OPERATORS = {
  "FlexAttention": (onnx_flex.outputs, ("reference", "xla", "pallas", "triton")),
  "LinearAttention": (
    onnx_operators.linear_attention,
    ("reference", "xla", "pallas", "triton"),
  ),
  "RotaryEmbedding": (onnx_operators.rotary_embedding, ("xla",)),
  "CausalConvWithState": (onnx_convolution.causal_convolution, ("xla",)),
}
COUNTS = {
  "FlexAttention": 11,
  "LinearAttention": 14,
  "RotaryEmbedding": 8,
  "CausalConvWithState": 13,
}
# What the library does not have, or not in an implementation, with its words.
REFUSED = {
  ("LinearAttention", name): {"reference", "xla", "pallas", "triton"}
  for name in (
    "linear_attention_delta",
    "linear_attention_gated_delta",
    "linear_attention_gated_delta_beta_scalar",
    "linear_attention_gated_delta_gqa",
    "linear_attention_gated_delta_mqa",
    "linear_attention_decode_step",
    "linear_attention_prefill_with_past",
    "linear_attention_no_past_explicit_zeros",
    "linear_attention_explicit_scale",
    "linear_attention_fp16",
  )
}
REFUSED["LinearAttention", "linear_attention_gated"] = {"pallas", "triton"}
REFUSED["FlexAttention", "flexattention_double"] = {"pallas", "triton"}


def run(operator: str, case: onnx_cases.Case, impl: str) -> None:
  """Raises AssertionError, or NotImplementedError for what is refused."""
  double = any(x.dtype == np.float64 for x in case.inputs.values())
  with simulate.accelerators(detect_races=False), jax.enable_x64(double):
    onnx_cases.check(case, OPERATORS[operator][0](case, impl))


def problems():
  for operator, (_, impls) in OPERATORS.items():
    for case in onnx_cases.cases(operator):
      for impl in impls:
        yield operator, case, impl


class OnnxTest(parameterized.TestCase):
  @parameterized.parameters(*problems())
  def test_values(self, operator, case, impl):
    if impl in REFUSED.get((operator, case.name), ()):
      with self.assertRaises(NotImplementedError):
        run(operator, case, impl)
    else:
      run(operator, case, impl)

  def test_all_cases_are_there(self):
    for operator, count in COUNTS.items():
      self.assertLen(onnx_cases.cases(operator), count)

  @parameterized.parameters(*OPERATORS)
  def test_the_page_counts_what_passes(self, operator):
    count, impls = COUNTS[operator], OPERATORS[operator][1]
    cells = []
    for impl in attention.IMPLEMENTATIONS:
      refused = sum(
        impl in where for (name, _), where in REFUSED.items() if name == operator
      )
      words = f"{count - refused}" + (f", {refused} refused" if refused else "")
      cells.append(words if impl in impls else "-")
    page = conformance.PAGE.read_text(encoding="utf-8")
    self.assertIn(f"\n| {operator} | {count} | {' | '.join(cells)} |\n", page)


if __name__ == "__main__":
  absltest.main()
