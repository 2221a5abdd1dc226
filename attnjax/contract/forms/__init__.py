"""The forms in which systems plug into hosts: one file a form.

A form's module has a docstring with the protocol, a `typing.Protocol` of its systems,
and CHECKS: functions of a `Subject` (a system's module and the form's name) that raise
AssertionError where the contract is broken. Forms that are none of layers also have
`outputs`, a function of a `Subject` to arrays: what a broken detail may change, see
`experiments.mutate`.
"""
