"""Errors meant for the person at the keyboard."""


class UserError(Exception):
    """Unusable arguments or input: one line saying what is wrong and what to do (exit code 2)."""
