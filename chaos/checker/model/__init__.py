"""The reference model: what may be true of a task, by what its clients and handlers were told.

Written from README.md and the OpenAPI document alone. It imports nothing of ``holdfast`` (an import
contract), since a mistake that model and product shared would be seen by nobody. Slow and obvious:
plain values in, plain values out.
"""
