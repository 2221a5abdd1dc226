"""Runs all cases of ONNX's suites in all implementations; writes the table.

  python -m tests.suites

The table goes to the end of docs/conformance.md.
"""

from collections.abc import Callable

from attnjax.attention import IMPLEMENTATIONS
from tests.conformance import PAGE
from tests.suites import HEADING, onnx_cases, onnx_test
from tests.suites import onnx_attention_test as attention

_TEXT = """{heading}

Made by `python -m tests.suites`: the cases of `onnx` 1.23.2, all of them in all
implementations; `pallas` in the TPU simulator, `triton` in its interpreter. A cell is
the number of cases that give ONNX's outputs within its bounds, of all cases. 16-bit
outputs may have twice the error that ONNX's own have against those in float32, and half
a unit in the last place; gradients are held to a float64 definition in the same way.
What is missing is refused with NotImplementedError: the delta rules of LinearAttention
are not in the library; a decay for each feature and float64 not in the kernels.

| suite | cases | {impls} |
|---|---|{lines}
{rows}
"""


def _gradients(case, impl):
  worst = max(attention.gradients(case, impl).values())
  assert worst <= 1.0, f"{case.name}: {worst}"


def counted(run: Callable, cases, impl: str) -> str:
  """How many cases pass, and how many are refused, printing those that fail."""
  passed, refused = 0, 0
  for case in cases:
    try:
      run(case, impl)
      passed += 1
    except NotImplementedError:
      refused += 1
    except AssertionError as error:
      print(f"{case.name} {impl}: {error}", flush=True)
  print(impl, passed, refused, len(cases), flush=True)
  return f"{passed}" + (f", {refused} refused" if refused else "")


def main() -> None:
  """Writes the table."""
  runs: dict[str, tuple] = {
    "Attention": (onnx_cases.cases("Attention"), attention.values),
    "Attention, gradients": (onnx_cases.cases("Attention"), _gradients),
  }
  for name in onnx_test.OPERATORS:
    runs[name] = (
      onnx_cases.cases(name),
      lambda case, impl, name=name: onnx_test.run(name, case, impl),
    )
  rows = []
  for name, (cases, run) in runs.items():
    impls = onnx_test.OPERATORS.get(name, (None, IMPLEMENTATIONS))[1]
    cells = [counted(run, cases, i) if i in impls else "-" for i in IMPLEMENTATIONS]
    rows.append(f"| {name} | {len(cases)} | {' | '.join(cells)} |")
  page = PAGE.read_text(encoding="utf-8").partition(HEADING)[0].rstrip()
  text = _TEXT.format(
    heading=HEADING,
    impls=" | ".join(IMPLEMENTATIONS),
    lines="---|" * len(IMPLEMENTATIONS),
    rows="\n".join(rows),
  )
  PAGE.write_text(f"{page}\n\n{text}", encoding="utf-8")


if __name__ == "__main__":
  main()
