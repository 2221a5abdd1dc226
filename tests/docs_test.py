"""The pages are what the code and the records say; their programs run; links lead."""

import importlib
import json
import re
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import jax
from absl.testing import absltest, parameterized

import attnjax
from attnjax import contract
from experiments.claims import records
from experiments.docs import __main__ as docs
from experiments.docs import (
  chip_tables,
  claim_tables,
  docstrings,
  growth,
  index,
  markdown,
  marks,
  mutant_tables,
  run_tables,
  signatures,
  site,
  snippets,
  system_page,
  systems,
)
from experiments.errors import UserError

_ROOT = Path(__file__).parent.parent
_AGAIN = "run: python -m experiments.docs"
# A record of the protocol, with a claim of each kind.
_RECORD = """
{"protocol": 1, "seconds": 1234, "commit": "abc", "machine": "x86_64",
 "versions": {"jax": "0.11"}, "claims": [
  {"sentence": "It is better.", "source": "table 3", "unit": "points",
   "rule": "more than b", "verdict": "not reproduced at this size",
   "said": "-0.2 points", "rows": [
    {"name": "it", "kind": "mechanism", "rate": 0.01, "parameters": 1200,
     "values": [0.5, 0.25, 0.75]},
    {"name": "b", "kind": "baseline", "rate": 0.003, "parameters": 1100,
     "values": [0.7, 0.7, 0.7]}]},
  {"sentence": "It is linear.", "source": "section 2", "unit": "seconds",
   "rule": "grows", "verdict": "reproduced", "said": "exponent 1",
   "sizes": [1024, 2048],
   "rows": [{"name": "it", "kind": "mechanism", "values": [1.0, 2.5]}]},
  {"sentence": "It wins at 7B.", "source": "table 1", "rows": [],
   "verdict": "not testable here", "said": "seven billion"}]}
"""
_WRITTEN = [_ROOT / "README.md", _ROOT / "CONTRIBUTING.md"]
_WRITTEN += sorted((_ROOT / "docs").glob("*.md"))


class SystemsTest(parameterized.TestCase):
  @parameterized.named_parameters((slug, slug) for slug in contract.systems())
  def test_the_page_is_up_to_date(self, slug):
    for path, text in docs.of_system(_ROOT, slug).items():
      self.assertTrue(path.is_file(), f"{path} is not there; {_AGAIN} {slug}")
      self.assertEqual(path.read_text(encoding="utf-8"), text, f"{_AGAIN} {slug}")

  @parameterized.named_parameters((slug, slug) for slug in contract.systems())
  def test_the_program_runs(self, slug):
    system = systems.read(_ROOT, slug)
    form = system.layer_forms[0] if system.layer_forms else ""
    text = snippets.snippet(slug, system.module, form)
    self.assertIn(text, system_page.path(_ROOT, slug).read_text(encoding="utf-8"))

    def run():
      names = {}
      exec(compile(text, f"{slug}.md", "exec"), names)
      return {name: names[name] for name in ("out", "x", "y") if name in names}

    # Values are for the contract's tests: here names, shapes and options must fit.
    got = jax.eval_shape(run)
    self.assertIn("out", got)
    if form:
      self.assertEqual(got["y"].shape, got["x"].shape)

  @parameterized.named_parameters((slug, slug) for slug in contract.systems())
  def test_every_option_has_a_meaning_and_every_claim_a_row(self, slug):
    system = systems.read(_ROOT, slug)
    made = [n for n in ("Layer", "Model") if hasattr(system.module, n)]
    named = list(dict.fromkeys(case.function for case in system.module.CASES))
    for name in [*made, *named]:
      shared = system.meanings(name) if name in made else {}
      found = signatures.options(getattr(system.module, name), shared)
      self.assertEmpty([o.name for o in found if not o.meaning], f"{slug}.{name}")
    text = system_page.path(_ROOT, slug).read_text(encoding="utf-8")
    claims = records.read(_ROOT, slug)["claims"]
    for claim in claims:
      row = markdown.prose(claim.get("sentence", claim.get("name")))
      self.assertIn(f"\n| {row.replace('|', chr(92) + '|')} |", text)
    rows = text.count("\n|", text.index("## Claims"), text.index("## Parity"))
    self.assertGreaterEqual(rows, 2 + len(claims))

  def test_no_page_of_a_system_that_is_gone(self):
    found = {path.stem for path in (_ROOT / "docs" / "systems").glob("*.md")}
    self.assertEqual(found, set(contract.systems()))


class WrittenTest(parameterized.TestCase):
  def test_parts_and_outputs_are_up_to_date(self):
    for path, text in docs.written(_ROOT).items():
      self.assertEqual(path.read_text(encoding="utf-8"), text, f"{path}: {_AGAIN}")

  @parameterized.named_parameters((path.stem, path) for path in _WRITTEN)
  def test_links_lead_somewhere(self, path):
    self._follow(path)

  def test_links_of_systems_lead_somewhere(self):
    for path in sorted((_ROOT / "docs" / "systems").glob("*.md")):
      self._follow(path)

  def _follow(self, path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
      if target.startswith("https://"):
        continue
      place, _, part = target.partition("#")
      found = (path.parent / place).resolve() if place else path
      self.assertTrue(found.exists(), f"{path}: {target}")
      if part:
        heads = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.M)
        names = [re.sub(r"[^\w]+", "-", h.lower()).strip("-") for h in heads]
        self.assertIn(part, names, f"{path}: {target}")

  @parameterized.named_parameters((path.stem, path) for path in _WRITTEN)
  def test_names_are_those_of_the_code(self, path):
    text = path.read_text(encoding="utf-8")
    rooms = r"(?:attnjax|experiments|pallas_kernels|masks)"
    for name in re.findall(rf"`({rooms}(?:\.\w+)+)", text):
      first, *rest = name.split(".")
      found = attnjax.masks if first == "masks" else importlib.import_module(first)
      for place, part in enumerate(rest, 1):
        if not hasattr(found, part):
          importlib.import_module(".".join([first, *rest[:place]]))
        found = getattr(found, part)

  def test_the_glossary_has_the_words_of_a_context(self):
    text = (_ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    for name in (*contract.Context.__annotations__, "valid", "refuses", "attend"):
      self.assertIn(f"`{name}`", text)

  def test_programs_of_kernels_run(self):
    for text in marks.programs((_ROOT / "docs/kernels.md").read_text(encoding="utf-8")):
      jax.eval_shape(lambda text=text: exec(text, {}))

  def test_an_output_that_changes_is_seen(self):
    page = "```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n"
    self.assertEqual(marks.with_outputs(page), page.replace("3\n", "2\n"))
    self.assertEqual(marks.with_outputs("```python\n1 / 0\n```\n"),
                     "```python\n1 / 0\n```\n")  # fmt: skip


class TextTest(parameterized.TestCase):
  def test_a_docstring(self):
    read = docstrings.read("""Does it, in one
      sentence.

      Text of
      two lines:
        x = y
          + z

      - one
        item
      - another

      Args:
        a, b: of both,
          on two lines.
        **rest: options.

      Raises:
        ValueError: if not.
      """)
    self.assertEqual(read.title, "Does it, in one sentence.")
    texts = ["Text of two lines:", "x = y\n  + z", "- one item\n- another"]
    self.assertEqual([b.text for b in read.blocks], texts)
    self.assertEqual([b.code for b in read.blocks], [False, True, False])
    both = "of both, on two lines."
    self.assertEqual(read.arguments, {"a": both, "b": both, "rest": "options."})
    self.assertEqual(read.raises, {"ValueError": "if not."})
    self.assertEqual(docstrings.read(None), docstrings.Docstring())

  def test_what_is_literal_stays_literal(self):
    for text, want in (
      ("O(T (H + V) N) time", "`O(T (H + V) N)` time"),
      ("of `a * b` and *S, x * y", "of `a * b` and \\*S, x * y"),
      ("a <slug> where s <= t", "a \\<slug> where s <= t"),
      ("h_{t-1} _x", "h\\_{t-1} \\_x"),
      ("arXiv:2401.04658.", "[arXiv:2401.04658](https://arxiv.org/abs/2401.04658)."),
      ("see github.com/a/b-c.", "see [github.com/a/b-c](https://github.com/a/b-c)."),
    ):
      self.assertEqual(markdown.prose(text), want)
    self.assertEqual(markdown.table(("a",), [("x | y",)]), "| a |\n|---|\n| x \\| y |")

  def test_signatures_as_they_are_written(self):
    def function(x, *, size: int = 3, kind: str = "a", odd=(1, 2)):  # of x.
      del x, size, kind, odd

    self.assertEqual(signatures.call("f", function),
                     'f(x, *, size: int = 3, kind: str = "a", odd=(1, 2))')  # fmt: skip
    long = ["argument_number_one", "argument_number_two", "argument_number_three" * 2]
    self.assertEqual(signatures.wrapped("a_function_with_a_name", long),
                     f"a_function_with_a_name(\n  {', '.join(long)}\n)")  # fmt: skip

  def test_a_model_may_be_a_function(self):
    def Model(channels, classes, *, dims=(8,), stem=4, grid=1, rngs):  # noqa: N802
      """Images to logits.

      Beside the hyper-parameters of all networks:

        stem, grid  channels of the first
          convolutions
      """
      del channels, classes, dims, stem, grid, rngs

    form = """The form.

    Names:

      channels   of images
      classes    of logits
      dims       width
      a_long_one as long
      Model      no option
    """
    shared = docstrings.defined(docstrings.read(form).blocks)
    self.assertEqual(set(shared), {"channels", "classes", "dims", "a_long_one"})
    found = signatures.options(Model, shared | {"rngs": "random"})
    self.assertEqual(
      {option.name: option.meaning for option in found},
      {
        "channels": "of images",
        "classes": "of logits",
        "dims": "width",
        "stem": "channels of the first convolutions",
        "grid": "channels of the first convolutions",
        "rngs": "random",
      },
    )


class RecordsTest(absltest.TestCase):
  def test_survivors_have_their_reasons(self):
    rows = [
      {
        "place": "a/b.py:7",
        "change": "a | b  ->  b",
        "verdict": "survived",
        "why": "x",
      },
      {"place": "a/b.py:8", "change": "1  ->  2", "verdict": "changes no output"},
    ]
    rows[0]["reason"] = "a size of a case"
    counts = {"killed": 33, "survived": 1, "changes no output": 6}
    record = {"counts": counts, "all": 565, "not killed": rows}
    with tempfile.TemporaryDirectory() as folder:
      path = Path(folder) / "results" / "mutants" / "halo.json"
      system = systems.System(Path(folder), "halo", attnjax.halo)
      self.assertEqual(mutant_tables.section(system), "")
      path.parent.mkdir(parents=True)
      path.write_text(json.dumps(record))
      text = mutant_tables.section(system)
    self.assertIn("notice 33 of 34 drawn details (of 565)", text)
    self.assertEqual(
      text.splitlines()[-1], "| `b.py:7` | `a \\| b  ->  b` | a size of a case |"
    )

  def test_runs_are_in_the_order_of_their_loss(self):
    same = {"parameters": 428672, "flops_per_step": 14.2e9, "steps": 380}
    same |= {"bytes_temporary": 2**20, "bytes_arguments": 2**19, "step_seconds": 0.2}
    same |= {"tokens_per_second": 20e3, "device": "1 x cpu", "versions": {"jax": "0.1"}}
    runs = [
      same | {"mechanism": name, "final": {"validation": {"bits_per_byte": bits}}}
      for name, bits in (("halo,hilo", 2.5), ("dot_product", 2.18))
    ]
    with tempfile.TemporaryDirectory() as folder:
      path = Path(folder) / "results" / "compared" / "kjv.json"
      path.parent.mkdir(parents=True)
      path.write_text(json.dumps(runs))
      _, _, first, second, _, last = run_tables.language(Path(folder)).split("\n")
    numbers = "2.180 | 429k | 14.2G | 1.5 MiB | 0.2 | 20k"
    link = "[`dot_product`](systems/dot_product.md)"
    self.assertEqual(first, f"| {link} | {numbers} |")
    self.assertIn("| `halo,hilo` | 2.500 |", second)
    self.assertEqual(last, "Measured: 380 steps on 1 x cpu, jax 0.1.")

  def test_every_row_of_a_registered_claim_is_shown(self):
    record = json.loads(_RECORD)
    with tempfile.TemporaryDirectory() as folder:
      records.write(Path(folder), "halo", record)
      text = claim_tables.section(systems.read(Path(folder), "halo"))
      none = claim_tables.section(systems.read(Path(folder) / "no", "halo"))
    for part in (
      "| It is better. | table 3 | -0.2 points | points | more than b |"
      " **not reproduced at this size** |",
      "| it | mechanism | 1,200 | 0.01 | 0.5 | 0.5, 0.25, 0.75 |",
      "| b | baseline | 1,100 | 0.003 | 0.7 | 0.7, 0.7, 0.7 |",
      "| row | kind | at 1,024 [seconds] | at 2,048 [seconds] |",
      "| it | mechanism | 1 | 2.5 |",
      "| It wins at 7B. | table 1 | seven billion | - | - | **not testable here** |",
      "Measured in 1,234 s on x86_64 at commit `abc` with jax 0.11",
    ):
      self.assertIn(part, text)
    self.assertIn("Not measured yet", none)

  def test_a_cost_that_was_measured_is_drawn(self):
    row = {"form": "causal", "pass": "forward", "lengths": [64, 128, 256]}
    row |= {"flops": [1e6, 4e6, 16e6], "bytes": [0, 10, 20], "seconds": [0.1, 0.2, 0.4]}
    rows = [row, row | {"pass": "both"}]
    root = ElementTree.fromstring(growth.picture("toy", rows))
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    self.assertLen(lines, 6)
    points = lines[0].get("points").split()
    self.assertLen(points, 3)
    xs, ys = zip(*(map(float, point.split(",")) for point in points))
    # A power is a straight line where both axes are logarithmic; up is less.
    self.assertAlmostEqual(ys[1] - ys[0], ys[2] - ys[1], delta=0.2)
    self.assertLess(ys[2], ys[0])
    self.assertGreater(xs[1], xs[0])

  def test_kernels_that_no_chip_has_run_are_called_so(self):
    with tempfile.TemporaryDirectory() as folder:
      root = Path(folder)
      self.assertIn("None of the kernels has been run", chip_tables.chips(root))
      (root / "results").mkdir()
      rows = [
        {"who": "machine", "case": "", "gpu": "NVIDIA H100"},
        {"who": "right", "case": "right_a", "ok": True},
        {"who": "right", "case": "right_b", "ok": False},
        {"who": "kernel", "case": "time_c", "ms": 2.0, "TFLOP/s": 500},
        {"who": "cudnn", "case": "time_c", "ms": 1.0, "TFLOP/s": 1000},
        *(
          {"who": "kernel", "case": f"tune_flash_h64_forward_{n}_warps4", "ms": ms}
          for n, ms in (("64x64", 3.0), ("64x128", 2.5))
        ),
      ]
      (root / "results" / "bench_device_h100.json").write_text(json.dumps(rows))
      page = chip_tables.chips(root)
      for part in (
        "gpu: NVIDIA H100.",
        "| 1 of 2 |",
        "Not right: `right_b` (right)",
        "| `c` | 2.000 (500) | 1.000 (1000), 0.50x |",
        "| `h64_forward` | 2 | 64x128, warps 4: 2.500 ms | 64x64, warps 4: 3.000 ms |",
      ):
        self.assertIn(part, page)


class BrowserTest(absltest.TestCase):
  def test_a_page(self):
    path = system_page.path(_ROOT, "halo")
    text = (
      f"{path.read_text(encoding='utf-8')}\n[m](../masks.md#x) [r](../../README.md)"
    )
    body, contents = site.rendered(text, path.parent)
    page = site.page("halo", body, up="../", bar="", contents=contents)
    self.assertIn('<h2 id="claims">', page)
    self.assertIn('<a href="#claims">Claims</a>', contents)
    self.assertIn('href="../masks.html#x"', page)
    self.assertIn('href="../../README.md"', page)
    self.assertEqual(page.count("<table>"), page.count('<div class="scroll" tabindex'))
    self._stands_alone(page)

  def test_the_index_has_every_system_and_its_words(self):
    some = [systems.read(_ROOT, slug) for slug in ("halo", "lightning2")]
    page = index.page(some, {"halo": "Window <b> attention", "lightning2": "decay"}, "")
    self.assertIn('href="systems/halo.html"', page)
    self.assertIn('data-form="causal" data-impl="reference xla pallas triton"', page)
    data = json.loads(re.search(r'id="words">(.*?)</script>', page)[1])
    self.assertEqual(data["halo"][2], "window b attention")
    self.assertIn("lightning", data["lightning2"][1])
    for family in ("linear", "local"):
      self.assertIn(f"<option>{family}</option>", page)
    self._stands_alone(page)

  def _stands_alone(self, page):
    """Nothing is loaded: links alone lead elsewhere."""
    self.assertNotRegex(page, r"<link|@import|<script src|src=\"(?:https?:)?//|url\(")

  def test_a_part_that_nobody_knows_is_named(self):
    with self.assertRaisesRegex(UserError, "unknown part 'x'; there are: y"):
      marks.filled(Path("p.md"), "<!-- x -->\n<!-- end of x -->", {"y": str})


if __name__ == "__main__":
  absltest.main()
