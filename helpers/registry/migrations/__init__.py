"""How the registry's tables came to be: one revision per release that changed them.

alembic runs them on opening.
"""
