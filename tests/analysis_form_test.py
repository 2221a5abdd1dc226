"""The form "analysis": its checks pass a small analysis, and fail five broken ones."""

import json
import types

import numpy as np
from absl.testing import absltest, parameterized

from attnjax import contract
from attnjax.contract.forms import analysis
from attnjax.contract.subject import Subject


def _norms(trace, *, epsilon=0.0):
  """Norms of the residual stream, their mean over all tokens, and the tokens."""
  h = np.stack([np.asarray(x) for x in trace.hidden], axis=1)
  norms = np.linalg.norm(h, axis=-1) + epsilon
  if norms.ndim == 4:  # images
    norms = norms.reshape(*norms.shape[:2], -1)
  real = np.ones(norms.shape[::2], bool) if trace.ids is None else trace.ids >= 0
  mean = np.array([norms[:, i][real].mean() for i in range(norms.shape[1])])
  return {"norms": norms, "mean": mean, "first": float("nan"), "count": int(real.sum())}


def _module(analyse, **changes):
  axes = {"norms": "BLT", "mean": "L", "first": "", "count": ""}
  given = {"analyse": analyse, "HOSTS": ("language", "vision"), "AXES": axes}
  given |= {"MEANINGS": {name: f"the {name}" for name in axes}} | changes
  module = types.ModuleType("norms")
  vars(module).update(given, FORMS=("analysis",), CASES=())
  return module


def _changed(change):
  def analyse(trace):
    found = _norms(trace)
    return change(trace, found)

  return analyse


def _of_the_first(trace, found):
  return found | {"mean": found["norms"][0].mean(-1)}


def _of_padding(trace, found):
  return found | {"mean": found["norms"].mean((0, 2))}


def _infinite(trace, found):
  return found | {"mean": found["mean"] / 0}


def _askew(trace, found):
  return found | {"norms": found["norms"][:, 1:]}


class AnalysisFormTest(parameterized.TestCase):
  def test_checks_pass_an_analysis(self):
    for check in analysis.CHECKS:
      check(Subject(_module(_norms), "analysis"))

  @parameterized.parameters(
    (_askew, "runs_on_its_hosts", "mean .*L is 2 elsewhere"),
    (_of_the_first, "takes_examples_in_any_order", "language"),
    (_of_padding, "ignores_padding", "language"),
    (_infinite, "survives_json", "'mean' holds an infinity"),
    (lambda trace, found: found | {"x": 1}, "runs_on_its_hosts", "not have 'x'"),
  )
  def test_checks_notice(self, change, check, message):
    subject = Subject(_module(_changed(change)), "analysis")
    with np.errstate(divide="ignore"), self.assertRaisesRegex(Exception, message):
      getattr(analysis, check)(subject)

  @parameterized.parameters(
    ({"MEANINGS": {"norms": "norms"}}, "MEANINGS does not have"),
    ({"LABELS": {"L": ("first", "second")}}, r"LABELS\['L'\] names 2 of 3"),
  )
  def test_checks_notice_what_is_not_said(self, changes, message):
    subject = Subject(_module(_norms, **changes), "analysis")
    with self.assertRaisesRegex(AssertionError, message):
      analysis.runs_on_its_hosts(subject)

  def test_options_need_defaults(self):
    with self.assertRaisesRegex(AssertionError, "epsilon is no keyword"):
      subject = Subject(_module(lambda trace, epsilon: {}), "analysis")
      analysis.gives_every_option_a_default(subject)

  def test_reports_are_json(self):
    report = {"a": np.array([[1.5, np.nan]]), "b": np.bool_(True), "c": 3, "d": "word"}
    got = json.loads(json.dumps(contract.plain(report), allow_nan=False))
    self.assertEqual(got, {"a": [[1.5, None]], "b": True, "c": 3, "d": "word"})
    with self.assertRaisesRegex(TypeError, "report 'a' is list: arrays"):
      contract.plain({"a": [None]})

  def test_mutants_are_seen_in_reports(self):
    found = analysis.outputs(Subject(_module(_norms), "analysis"))
    self.assertEqual(found["vision"]["norms"].shape, (3, 5, 16))


if __name__ == "__main__":
  absltest.main()
