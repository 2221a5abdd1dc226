"""Accuracy of saved runs under cache policies against what they read, at all budgets.

`points` lists the policies and budgets, `scores` decodes rows under them, `costs`
counts what that reads, `bootstrap` and `fronts` judge, `maps` goes through lengths and
depths, and `report` makes the page.
"""
