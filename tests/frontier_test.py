"""Frontiers of saved runs: their statistics and costs by hand, and the command."""

import contextlib
import dataclasses
import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.models import language
from experiments import configuration, data, decoding, errors, evaluate, run
from experiments.frontier import __main__ as command
from experiments.frontier import bootstrap, costs, fronts, points, scores
from tests import policies_test
from tests.budgets_test import _Share
from tests.pages import check_alone
from tests.run_test import tiny


class BootstrapTest(parameterized.TestCase):
  def test_a_bound_is_a_quantile_of_resampled_means(self):
    # The number of ones among 100 draws is binomial: 95 % of its values are up to 9.
    losses = [1.0] * 5 + [0.0] * 95
    self.assertEqual(bootstrap.upper(losses), 0.09)
    self.assertEqual(bootstrap.upper(losses, level=0.5), 0.05)
    self.assertEqual(bootstrap.upper([-0.25] * 7), -0.25)
    once = [bootstrap.upper(range(50), resamples=1, seed=s) for s in (0, 1)]
    self.assertNotEqual(*once)
    rng = np.random.default_rng(0)
    normal = rng.normal(0.3, 2.0, 400)
    want = normal.mean() + 1.645 * normal.std() / 20
    self.assertAlmostEqual(
      bootstrap.upper(normal.tolist(), resamples=4_500), want, delta=0.02
    )

  def test_tests_end_with_the_first_that_fails(self):
    none, some, much = [0.0] * 20, [0.0] * 19 + [0.1], [0.0, 0.5] * 10
    tested = [(0.9, none), (0.2, some), (0.5, much), (0.1, none)]
    self.assertEqual(bootstrap.largest_safe(tested, margin=0.05), 1)
    self.assertEqual(bootstrap.largest_safe(tested, margin=0.001), 3)
    self.assertEqual(bootstrap.largest_safe(tested, margin=1.0), 0)
    self.assertIsNone(bootstrap.largest_safe([(0.1, much)], margin=0.1))
    # A loss of one half of the time is below 0.3 in some, and not in 95 %, of draws.
    self.assertEqual(bootstrap.largest_safe([(0, much)], margin=0.3, level=0.5), 0)
    self.assertIsNone(bootstrap.largest_safe([(0, much)], margin=0.3, level=0.95))

  @parameterized.parameters(([1.0],), ([[1.0, 2.0]],))
  def test_too_few_rows(self, losses):
    with self.assertRaisesRegex(ValueError, "two rows"):
      bootstrap.upper(losses)
    with self.assertRaisesRegex(ValueError, "level = 1.0"):
      bootstrap.upper([0.0, 1.0], level=1.0)


class FrontsTest(absltest.TestCase):
  def test_by_hand(self):
    cost = [3.0, 1.0, 2.0, 1.0, 4.0, 2.0, np.nan]
    score = [0.5, 0.1, 0.4, 0.2, 0.5, 0.4, 1.0]
    self.assertEqual(fronts.pareto(cost, score), [3, 2, 0])
    self.assertEqual(fronts.pareto([], []), [])

  def test_no_point_of_the_front_is_beaten_and_all_others_are(self):
    cost, score = np.random.default_rng(0).integers(6, size=(2, 40))
    front = fronts.pareto(cost, score)
    pairs = {(cost[i], score[i]) for i in front}
    self.assertLen(pairs, len(front))
    for a, b in zip(cost, score):
      no_worse = (cost <= a) & (score >= b)
      beaten = (no_worse & ((cost < a) | (score > b))).any()
      self.assertEqual((a, b) in pairs, not beaten)


def _model(heads=4, kv_heads=2, depth=3, vocab=11):
  build = contract.constructor(
    "dot_product", {"heads": heads, "kv_heads": kv_heads}, language.FORMS
  )
  return language.Model(
    [build], vocab=vocab, dim=16, depth=depth, mlp_ratio=2.0, rngs=nnx.Rngs(0)
  )


class CostsTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.model = _model()
    cls.own = costs.sizes(cls.model, "bfloat16")

  def test_sizes(self):
    # Queries and output 16 x 16, keys and values 16 x 8, three matrices of the MLP,
    # and the embedding transposed.
    own, mlp = self.own, 3 * 16 * 32
    self.assertEqual((own.layers, own.products, own.scores), (3, 4 * 8, 4 * 4))
    self.assertEqual((own.key, own.value, own.width), (2 * 4, 2 * 4, 2))
    self.assertEqual(own.flops, 2 * (3 * (2 * 256 + 2 * 128 + mlp) + 16 * 11))
    sizes = sum(x.size for x in jax.tree.leaves(self.model))
    self.assertEqual(own.parameters, sizes)

  def test_full_attention(self):
    got = costs.of(self.own, None, prompt=6, length=10, batch=4)
    keys = 7 + 8 + 9 + 10
    self.assertEqual((got["sparsity"], got["keys"]), (0, keys / 4))
    self.assertEqual(got["keys_to_choose"], 0)
    self.assertEqual(got["bytes_of_keys"], 2 * 3 * keys * 16 / 4)
    weights = 2 * self.own.parameters / 4
    self.assertEqual(got["bytes"], got["bytes_of_keys"] + weights)
    pairs = 3 * 21
    self.assertEqual(got["prompt_flops"], 6 * self.own.flops + 2 * 32 * pairs)
    compute = 2 * self.own.parameters * 4 + 2 * 32 * 3 * keys
    memory = 2 * 16 * 3 * keys
    self.assertAlmostEqual(got["eflops"] * 1e12, compute + 562.5 * memory)

  def test_a_policy(self):
    class Counts(policies_test.Recent):
      def reads(self, places, layers) -> Any:
        return layers * min(places, 8), 5.0

      def prompt_reads(self, places, layers):
        return 10.0 * layers, 7.0 + places

    got = costs.of(self.own, Counts(), prompt=6, length=10, batch=4)
    keys = 7 + 8 + 8 + 8
    self.assertAlmostEqual(got["sparsity"], 1 - keys / 34)
    self.assertEqual((got["keys"], got["keys_to_choose"]), (keys / 4, 5 / 3))
    self.assertEqual(got["bytes_of_keys"], 2 * (3 * keys * 16 + 20 * 8) / 4)
    flops = 6 * self.own.flops + 2 * 32 * 30 + 2 * 16 * 13
    self.assertEqual(got["prompt_flops"], flops)
    self.assertAlmostEqual(got["prompt_sparsity"], 1 - 10 / 21)
    compute = 2 * self.own.parameters * 4 + 2 * 32 * 3 * keys + 2 * 16 * 20
    memory = 2 * (16 * 3 * keys + 8 * 20)
    self.assertAlmostEqual(got["eflops"] * 1e12, compute + 562.5 * memory)

  def test_a_policy_that_keeps_later_keys(self):
    class Keeps(policies_test.Recent):
      def decoded_reads(self, prompt, places, layers):
        return layers * (2.0 + places - prompt), 0.0

    got = costs.of(self.own, Keeps(), prompt=6, length=10, batch=4)
    self.assertEqual(got["keys"], (3 + 4 + 5 + 6) / 4)

  def test_a_choice_in_the_prompt_that_is_not_counted(self):
    class Chooses(policies_test.Recent):
      def prefill(self, *_):
        raise AssertionError

    got = costs.of(self.own, Chooses(), prompt=6, length=10, batch=4)
    self.assertIsNone(got["prompt_flops"])
    self.assertIsNone(got["prompt_sparsity"])
    self.assertEqual(got["sparsity"], 1 - 4 * 4 / 34)

  def test_kinetics_formula_is_half_a_query_less(self):
    full = costs.of(self.own, None, 100, 140, 1)["eflops"]
    per_key = (2 * 32 + 562.5 * 2 * 16) / 1e12
    want = full - 3 * 40 / 2 * per_key
    self.assertAlmostEqual(costs.closed(self.own, None, 100, 140), want, places=12)
    policy = contract.load("kinetics").Policy(
      blocks=3, block=4, local=6, sink=0, dense_layers=()
    )
    # 18 keys a query, a pooled key of each of (2 C + G) / (2 block) blocks.
    cost = 3 * 40 * 18 * per_key + (2 * 32 * 0 + 2 * self.own.parameters * 40) / 1e12
    pooled = 3 * 60 * 40 * (16 + 562.5 * 8) / 1e12
    got: Any = costs.closed(self.own, policy, 100, 140)
    self.assertAlmostEqual(got, cost + pooled, places=12)
    self.assertIsNone(costs.closed(self.own, policies_test.Recent(), 100, 140))


class SafeTest(absltest.TestCase):
  def test_the_phase_in_which_a_policy_chooses(self):
    names = {"a": False, "b": True, "c": True}
    found = [{"name": "full", "prompt_flops": 9.0}]
    losses: list[list[float]] = [[0.0] * 4]
    for name, prompted in names.items():
      for fraction, share in ((0.5, 0.4), (0.1, 0.8)):
        point = {"name": name, "label": f"{name} @ {fraction}", "fraction": fraction}
        point |= {"prompted": prompted, "sparsity": share - 0.1, "bytes": 5.0}
        point |= {"prompt_sparsity": share, "prompt_flops": 7.0}
        unknown = {"prompt_sparsity": None, "prompt_flops": None}
        found.append(point | (unknown if name == "c" else {}))
        losses.append([0.0] * 4 if fraction == 0.5 or name == "b" else [0.2] * 4)
    got = command._safe(found, losses, 0.01)
    self.assertEqual(list(got), ["a", "b"])
    self.assertEqual((got["a"]["of"], got["b"]["of"]), ("sparsity", "prompt_sparsity"))
    self.assertEqual((got["a"]["fraction"], got["b"]["fraction"]), (0.5, 0.1))
    self.assertEqual((got["a"]["sparsity"], got["b"]["sparsity"]), (0.4 - 0.1, 0.8))
    self.assertEqual((got["a"]["loss"], got["a"]["bound"]), (0, 0))
    self.assertIsNone(
      command._safe(found[:1] + found[2:3], losses[:1] + losses[2:3], 0.01)["a"]
    )
    self.assertEqual(list(command._uncounted(found)), ["c"])


class ScoresTest(parameterized.TestCase):
  def rows(self, count=19, length=12):
    draw = np.random.default_rng(0)
    labels = draw.integers(11, size=(count, length))
    labels[:, :7], labels[2], labels[3, 9:] = -1, -1, -1
    return {"tokens": draw.integers(11, size=(count, length)), "labels": labels}

  def test_scores_are_those_of_a_call(self):
    model, found = _model(depth=1), self.rows()
    logits = np.asarray(model(jnp.asarray(found["tokens"])))
    # Right answers for some, by construction.
    found["labels"][::3, 8] = logits[::3, 8].argmax(-1)
    found["labels"][0, 7:] = logits[0, 7:].argmax(-1)
    got = scores.of(model, found, prompt=8, policy=None, dtype="float32")
    share = np.asarray(jax.nn.log_softmax(logits))
    for row, labels in enumerate(found["labels"]):
      where = [t for t in range(8, 12) if labels[t] >= 0]
      right = [logits[row, t].argmax() == labels[t] for t in where]
      bits = [-share[row, t, labels[t]] / np.log(2) for t in where]
      self.assertAlmostEqual(got["right"][row], sum(right) / max(len(where), 1), 5)
      self.assertEqual(got["exact"][row], all(right))
      self.assertAlmostEqual(got["bits"][row], sum(bits) / max(len(where), 1), 4)
    self.assertBetween(np.mean(got["right"]), 0.1, 0.9)
    policy = policies_test.Recent(keys=1)
    other = scores.of(model, found, prompt=8, policy=policy, dtype="float32")
    self.assertGreater(np.abs(np.subtract(got["bits"], other["bits"])).max(), 1e-3)

  def test_the_prompt_ends_with_the_first_answer(self):
    found = self.rows()
    self.assertEqual(scores.prompt_of(found, 0), 7)
    self.assertEqual(scores.prompt_of(found, 3), 3)
    every = {**found, "labels": found["tokens"]}
    self.assertEqual(scores.prompt_of(every, 0), 6)
    with self.assertRaisesRegex(errors.UserError, "prompt = 12 of rows of 12"):
      scores.prompt_of(found, 12)
    found["labels"][:, 10:] = -1
    with self.assertRaisesRegex(errors.UserError, "prompt = 10 .* is at 9"):
      scores.prompt_of(found, 10)
    found["labels"][:] = -1
    with self.assertRaisesRegex(errors.UserError, "is at -1"):
      scores.prompt_of(found, 0)

  def test_losses_are_of_the_better_side(self):
    np.testing.assert_allclose(scores.losses([1.0, 0.5], [0.5, 0.75], 1), [0.5, -0.25])
    np.testing.assert_allclose(scores.losses([1.0, 0.5], [0.5, 0.75], -1), [-0.5, 0.25])

  def test_rows_that_cannot_be_decoded(self):
    images = data.load("shapes")
    with self.assertRaisesRegex(errors.UserError, "'shapes' holds images"):
      scores.rows(images, "test", 4)
    one = data.load("parity", {"held_out": 1})
    with self.assertRaisesRegex(errors.UserError, "has 1 example"):
      scores.rows(one, "test", 4)
    packed = mock.Mock(kind="tokens")
    packed.name = "packed"
    packed.source.return_value = [{"tokens": 0, "labels": 0, "segment_ids": 0}] * 2
    with self.assertRaisesRegex(errors.UserError, "'packed' have segment_ids"):
      scores.rows(packed, "test", 4)


class PointsTest(absltest.TestCase):
  def test_all_policies_with_a_budget_are_found(self):
    chosen, left = points.chosen([], [])
    names = [*(point.name for point in chosen), *left]
    self.assertContainsSubset({"delta", "kinetics", "quest"}, names)
    self.assertNotIn("sparse_frontier.quest", names)
    kinds = {type(decoding.policy(name)) for name in decoding.names()}
    self.assertEqual(
      {type(decoding.policy(name)) for name in names}, kinds - {type(None)}
    )
    self.assertLen(names, len(kinds) - 1)

  def test_policies_of_other_systems(self):
    """A system that comes later is found by its name alone."""
    kinds = {"share": _Share(heads=2), "recent": policies_test.Recent()}
    with (
      mock.patch.object(decoding, "names", lambda: ("full", *kinds)),
      mock.patch.object(decoding, "policy", kinds.get),
    ):
      chosen, left = points.chosen([], ["recent"])
      self.assertEqual([p.label for p in chosen], ["share @ 1", "recent"])
      self.assertEqual(list(left), ["recent"])
      with self.assertRaisesRegex(errors.UserError, "'recent' has no `of_fraction`"):
        points.chosen(["recent"], [])
    spread = points.spread(chosen, [0.25, 1.0], 40)
    labels = ["full", "share @ 0.25", "share @ 1", "recent"]
    self.assertEqual([point.label for point in spread], labels)
    self.assertEqual(spread[1].policy, _Share(keys=10, heads=2))
    self.assertEqual(spread[3].policy, policies_test.Recent())

  def test_options_stay_beside_a_budget(self):
    (point,), _ = points.chosen(["delta:tokens=max"], [])
    made = points.at(point, 0.5, 64)
    self.assertEqual((made.policy.tokens, made.policy.pages), ("max", 4))
    self.assertEqual(made.label, "delta:tokens=max @ 0.5")


def _needle(**changes):
  c = configuration.with_dataset(tiny(steps=150, model__depth=2), "needle")
  c.data.update({"length": 56, "letters": 1, "digits": 2, "held_out": 12})
  c.model.conv, c.data.batch, c.eval_every, c.save_every = 3, 16, 150, 150
  c.optimizer.rate, c.attention.heads = 1e-2, 2
  for name, value in changes.items():
    c[name] = value
  return c


class CommandTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    run.run(_needle(), cls.folder / "needle")
    run.run(tiny("lightning2", steps=4), cls.folder / "linear")

  def report(self, *arguments, name="needle"):
    """The exit status, what is printed, the record, and the page."""
    where = ["--output", str(self.folder / "p.html"), "--json", str(self.folder / "p")]
    given = ["--workdir", str(self.folder / name), *arguments, *where]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
      status = errors.guard(command.main, given)
    if status:
      return status, err.getvalue(), {}, ""
    files = [(self.folder / n).read_text() for n in ("p", "p.html")]
    return status, out.getvalue(), json.loads(files[0]), files[1]

  _FLAGS = "--rows 8 --map-rows 8 --policies delta --budgets 0.1 1 --lengths 56 70"
  _FLAGS = f"{_FLAGS} --depths 0 1 --map-budget 0.1".split()

  def test_a_run(self):
    status, out, record, text = self.report(*self._FLAGS)
    self.assertEqual(status, 0, out)
    self.assertIn("needle, split test: 8 rows of 56 tokens, a prompt of 54", out)
    (found,) = record["runs"]
    labels = [point["label"] for point in found["points"]]
    self.assertEqual(labels, ["full", "delta @ 0.1", "delta @ 1"])
    full, some, every = found["points"]
    self.assertEqual(every["mean"], full["mean"])
    self.assertEqual((full["sparsity"], every["sparsity"]), (0, 0))
    self.assertBetween(some["sparsity"], 0.4, 0.5)  # one of two layers is dense
    self.assertLess(some["bytes"], full["bytes"])
    self.assertEqual(some["prompt_flops"], full["prompt_flops"])
    self.assertIn(found["safe"]["delta"]["label"], labels[1:])
    bytes_front, flops_front = record["fronts"]
    self.assertEqual(bytes_front["points"][0]["label"], "delta @ 0.1")
    self.assertLen(flops_front["points"], 1)
    self._check_maps(found)
    self._check_page(text)
    # All is kept: nothing is decoded again.
    with mock.patch.object(scores, "of", side_effect=AssertionError):
      self.assertEqual(self.report(*self._FLAGS)[2], record)
      with self.assertRaises(AssertionError):
        self.report(*self._FLAGS, "--prompt", "20")
      with self.assertRaises(AssertionError):
        self.report(*self._FLAGS, "--again")

  def _check_maps(self, found):
    full, some = found["maps"]
    self.assertEqual((full["policy"], some["policy"]), ("full", "delta"))
    self.assertEqual((some["lengths"], some["depths"]), ([56, 70], [0, 1]))
    self.assertEqual(np.shape(some["right"]), (2, 2))
    saved = command.open_run(str(self.folder / "needle"))
    options = {"length": 70, "letters": 1, "digits": 2, "held_out": 12, "depth": 1.0}
    rows = scores.rows(data.load("needle", options), "test", 8)
    logits = np.asarray(saved.model(jnp.asarray(rows["tokens"])))[:, -2:]
    right = (logits.argmax(-1) == rows["labels"][:, -2:]).mean()
    self.assertAlmostEqual(full["right"][1][1], right, 5)

  def _check_page(self, text):
    read = check_alone(self, text)
    for part in (
      "Largest safe sparsity",
      "Kinetics' costs",
      "delta @ 0.1",
      "8 rows a cell",
      "with 95% confidence",
    ):
      self.assertIn(part, read.text)
    titles = [svg["aria-label"] for svg in read.all("svg")]
    self.assertIn("delta: length down, depth across, accuracy", titles)
    self.assertLen(titles, 4)

  def test_two_runs_of_which_less_is_better(self):
    shutil.copytree(self.folder / "needle", self.folder / "other")
    opened = command.open_run

    def as_text(*given):
      saved = opened(*given)
      task = dataclasses.replace(saved.assembly.task, metric="bits_per_byte")
      assembly = dataclasses.replace(saved.assembly, task=task)
      return dataclasses.replace(saved, assembly=assembly)

    flags = ["--workdir", str(self.folder / "other"), "--rows", "8", "--no-maps"]
    flags += ["--policies", "delta", "--exact", "delta:pages=2,page=1,recent_pages=1"]
    with mock.patch.object(command, "open_run", as_text):
      status, out, record, text = self.report(*flags, "--budgets", "0.1")
    self.assertEqual(status, 0, out)
    runs = record["runs"]
    self.assertEqual([run["metric"] for run in runs], ["bits"] * 2)
    self.assertEqual(runs[0]["points"], runs[1]["points"])
    full, some, exact = runs[0]["points"]
    self.assertEqual(full["mean"], full["bits"])
    self.assertLess(full["mean"], some["mean"])
    self.assertGreater(exact["sparsity"], some["sparsity"])
    self.assertIn("Policy(full_layers=(), pages=2, page=1", exact["policy"])
    # Both have equal points, of which the first run's are on the front.
    (front, _), workdir = record["fronts"], runs[0]["workdir"]
    self.assertEqual({p["workdir"] for p in front["points"]}, {workdir})
    self.assertEqual(front["points"][-1]["label"], "full")
    read = check_alone(self, text)
    self.assertIn("bits per label", read.text)
    self.assertIn(f"{Path(workdir).name}: delta", read.all("svg")[0]["aria-label"])

  def test_layers_that_keep_no_keys(self):
    status, out, *_ = self.report(name="linear")
    self.assertEqual(status, 2)
    self.assertRegex(out, "no policy fits the run: .*KeyValueCache")

  @parameterized.parameters(
    (["--rows", "1"], "--rows = 1; it must be at least 2"),
    (["--batch", "0"], "--batch = 0"),
    (["--map-rows", "1"], "--map-rows = 1"),
    (["--budgets", "0"], "budget 0; it must be above 0"),
    (["--map-budget", "1.5"], "budget 1.5; it must be above 0"),
    (["--margin", "-1"], "--margin = -1.0; it must be 0 or more"),
    (["--depths", "2"], "--depths: 2; a depth is from 0 to 1"),
    (["--lengths", "0"], "--lengths: 0; a row has"),
    (["--policies", "delt"], "policy 'delt'.*delta"),
    (["--policies", "full"], "'full' is what all others are compared with"),
    (["--exact", "delta:page=x"], "page = 'x' is no int"),
    (["--option", "length"], "--option 'length'; it must be NAME=VALUE"),
    (["--option", "lengths=3"], "option of needle 'lengths'.*length"),
    (["--option", "length=x"], "--option length = 'x'; it must be an integer"),
    (["--option", "length=10"], "--option: length = 10; a needle"),
    (["--prompt", "56"], "prompt = 56 of rows of 56 tokens"),
    (["--workdir", "nowhere"], "nowhere holds no run"),
  )
  def test_errors_name_value_and_rule(self, arguments, message):
    status, out, *_ = self.report(*arguments)
    self.assertEqual(status, 2)
    self.assertRegex(out, message)

  def test_evaluation_at_another_length(self):
    out = io.StringIO()
    given = ["--workdir", str(self.folder / "needle"), "--option", "length=70"]
    with contextlib.redirect_stdout(out):
      evaluate.main(given)
    saved = command.open_run(str(self.folder / "needle"))
    options = {"length": 70, "letters": 1, "digits": 2, "held_out": 12}
    rows = scores.rows(data.load("needle", options), "test", 12)
    logits = np.asarray(saved.model(jnp.asarray(rows["tokens"])))[:, -2:]
    right = (logits.argmax(-1) == rows["labels"][:, -2:]).mean()
    self.assertAlmostEqual(json.loads(out.getvalue())["accuracy"], right, 5)


if __name__ == "__main__":
  absltest.main()
