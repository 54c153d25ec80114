"""Remove training records from a model, attack the result, say what still leaks.

The verbs are in `expunge.api`; nothing heavy is imported here, so that
`expunge --help` answers at once.
"""
